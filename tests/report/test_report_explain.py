"""The explanations: true for the model, with its numbers, half a screen each."""

from __future__ import annotations

import io
from functools import cache

import pytest
from freeze_models import on_meta
from rich.console import Console

from clipft.cli import TOPICS as TYPED
from clipft.model.anatomy import Anatomy, anatomy
from clipft.model.describe import describe
from clipft.model.towers import towers_of
from clipft.report.explain import TOPICS, explain, print_explanation

NAMES = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP2", "MobileCLIP2-S0", "coca_ViT-B-32", "ViT-bigG-14")
LONGEST = {"freezing": 26, "strategies": 26}  # a row for each N; eight strategies


@cache
def look_inside(name: str) -> Anatomy:
    model = on_meta(name)
    towers = towers_of(model)
    facts = describe(model, *towers, name=name, model_cfg={"text_cfg": {}, "init_logit_bias": -10})
    return anatomy(model, *towers, facts)


def said(topic: str, name: str) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False)
    print_explanation(topic, name, explain(topic, look_inside(name)), console)
    return file.getvalue()


def words(topic: str, name: str) -> str:
    return " ".join(said(topic, name).split())


def test_the_command_line_knows_every_topic() -> None:
    assert tuple(TOPICS) == TYPED


@pytest.mark.parametrize("name", NAMES)
def test_each_fits_half_a_screen_of_80_columns(name: str) -> None:
    for topic in TOPICS:
        lines = said(topic, name).splitlines()
        assert lines[0] == f"{topic} · {name}"
        assert max(map(len, lines)) <= 80
        assert len(lines) <= LONGEST.get(topic, 21), topic


@pytest.mark.parametrize(
    ("topic", "name", "fact"),
    [
        ("block", "ViT-B-32", "50 tokens of 768 numbers"),
        ("block", "ViT-B-32", "7,087,872 parameters (ln_1 1,536, attn 2,362,368, ln_2 1,536, mlp 4,722,432)"),
        ("block", "RN50", "a stage of the network, here of 3, 4, 6 and 3 units"),
        ("block", "RN50", "215,808, 1,219,584, 7,098,368 and 14,964,736 parameters, 61.3 % of the tower"),
        ("embeddings", "ViT-B-32", "7 x 7 = 49 and 1 of the model's own: 50 tokens"),
        ("embeddings", "ViT-B-32", "token_embedding.weight 49408 x 512 25,296,896"),
        ("embeddings", "ViT-B-16-SigLIP2", "14 x 14 = 196 tokens"),
        ("embeddings", "ViT-B-16-SigLIP2", "196,657,152 of the text tower (69.7 %)"),
        ("projection", "ViT-B-32", "655,360 parameters, 0.4 % of the model"),
        ("projection", "ViT-B-32", "visual.proj (768 x 512)"),
        ("projection", "ViT-B-16-SigLIP2", "Image: none."),
        ("similarity", "ViT-B-32", "ln 64 = 4.16"),
        ("similarity", "ViT-B-16-SigLIP2", "64 match and 4,032 do not"),
        ("logit_scale", "ViT-B-32", "exp(2.659) = 14.29 (the value it starts from, since no weights are loaded)"),
        ("logit_scale", "ViT-B-32", "is 2.04 times as probable; by 100, 148 times"),
        ("alignment", "ViT-B-32", "87,849,216 parameters, the text tower 63,428,096"),
        ("quickgelu", "ViT-B-32", "at most 0.0203, at x = 2.27 and -2.27"),
        ("quickgelu", "ViT-B-32", "24 transformer blocks here"),
        ("quickgelu", "RN50", "ReLU in the image tower and GELU in the text tower"),
        ("quickgelu", "RN50", "as RN50-quickgelu"),
        (
            "pooling",
            "ViT-B-32",
            "Text: end-of-text token. The token that marks the end is kept. Its attention is causal",
        ),
        ("pooling", "RN50", "The mean of all places is a question"),
        ("pooling", "RN50", "12,691,456 of the image tower"),
        ("pooling", "MobileCLIP2-S0", "Its attention goes both ways"),
        ("freezing", "ViT-B-32", "10 14,570,496 16.6 % low 6,567,936 10.4 % low"),
        ("freezing", "ViT-B-32", "-1 393,216 0.4 % lowest 262,144 0.4 % lowest"),
        ("freezing", "ViT-B-16-SigLIP2", "-1 0 0.0 % none 590,592"),
        ("freezing", "ViT-bigG-14", "--json has every N"),
        ("strategies", "ViT-B-32", "heads: 655,361 (0.4 %)"),
        (
            "strategies",
            "ViT-B-32",
            "last 2 blocks: 21,138,433 (14.0 %), image.freeze_layers: 10, text.freeze_layers: 10",
        ),
        ("strategies", "ViT-B-32", "classifier: 513 a class"),
    ],
)
def test_its_numbers_are_this_models(topic: str, name: str, fact: str) -> None:
    assert fact in words(topic, name)


def test_a_deep_model_has_every_n_in_json_and_some_on_the_screen() -> None:
    found = explain("freezing", look_inside("ViT-bigG-14"))
    assert found.table is not None
    assert [row[0] for row in found.table.rows] == [*map(str, range(49)), "-1"]
    assert 0 < len(found.table.shown) < 14
    assert found.table.rows[40][4:] == ("", "", "")  # the text tower has 32

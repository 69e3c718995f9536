"""The explanations: true for the model, with its numbers, half a screen each."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from freeze_models import VIT, custom, hugging_face_text, on_meta, plan_of
from rich.console import Console
from torch import nn

from clipft.model.anatomy import Anatomy, anatomy
from clipft.model.describe import describe
from clipft.model.towers import towers_of
from clipft.report.explain import explain, print_explanation
from clipft.report.explain.topics import EXPLAINERS
from clipft.report.topic_names import TOPICS

NAMES = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP2", "MobileCLIP2-S0", "coca_ViT-B-32", "ViT-bigG-14")
LONGEST = {"embeddings": 22, "freezing": 27, "strategies": 26}  # a row for each N; eight strategies


@cache
def look_inside(name: str) -> Anatomy:
    return inside_of(on_meta(name), name)


def inside_of(model: nn.Module, name: str) -> Anatomy:
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
    assert tuple(EXPLAINERS) == TOPICS


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
        ("quickgelu", "ViT-B-32", "12 blocks of the image tower and 12 blocks of the text tower"),
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
        (
            "strategies",
            "ViT-B-32",
            "linear_probe: 513 a class; loss.type: classifier alone trains 87,849,216 of the image tower",
        ),
    ],
)
def test_its_numbers_are_this_models(topic: str, name: str, fact: str) -> None:
    assert fact in words(topic, name)


@pytest.mark.parametrize(
    ("topic", "name", "fact"),
    [
        ("pooling", "ViT-H-14-CLIPA", "The patches count alike, the class token not at all."),
        ("embeddings", "ViTamin-S", "convolutions make maps of the 224 x 224 pixels, a place for each 16 x 16"),
        ("pooling", "ViTamin-S", "Image: mean. All tokens count alike."),
        ("pooling", "EVA02-B-16", "Image: class token. A token of the model's own goes through the blocks"),
        ("quickgelu", "EVA02-B-16", "in each of the 12 blocks of the text tower, and"),
        ("quickgelu", "EVA02-B-16", "The image tower uses neither."),
        ("quickgelu", "RN50", "in each of the 12 blocks of the text tower, and"),
        ("embeddings", "convnext_base", "Image: convolutions make maps of the 224 x 224 pixels, and the first stage"),
        ("quickgelu", "convnext_base", "in each of the 36 units of the image tower and 12 blocks of the text tower"),
        ("freezing", "convnext_base", "2 85,919,744 97.5 % high"),
        ("strategies", "convnext_base", "last stage (image), last 2 blocks (text): 34,537,473 (22.8 %)"),
        ("strategies", "convnext_base", "image.freeze_layers: 3, text.freeze_layers: 10"),
        ("block", "MobileCLIP2-S0", "late ones by attention at all places"),
        ("block", "coca_ViT-B-32", "each token asks itself and those before it"),
        ("embeddings", "coca_ViT-B-32", "each piece of a word is looked up in a table of 49,408 rows"),
        ("embeddings", "coca_ViT-B-32", "A class token of the model's own joins at the end."),
        ("pooling", "coca_ViT-B-32", "The first one's answer is the picture's vector; the rest feed the decoder."),
        ("pooling", "coca_ViT-B-32", "A token of the model's own, put at the end, gathers what matters."),
        ("pooling", "ViT-B-16-SigLIP2", "One learnt question is put to all tokens"),
        ("logit_scale", "ViT-B-16-SigLIP2", "makes the odds of a match 2.04 times as large"),
        ("freezing", "ViT-B-16-SigLIP2", "-1 the projection alone (none in the image tower)"),
        ("strategies", "ViT-B-16-SigLIP2", "(image.freeze_backbone: true: the classes alone)"),
    ],
)
def test_what_it_says_is_true_of_this_family(topic: str, name: str, fact: str) -> None:
    assert fact in words(topic, name)


def test_what_classifiers_train_is_what_is_said() -> None:
    model = on_meta("ViT-B-32")
    assert plan_of(model, loss="classifier").totals()["trainable"] == 87_849_216
    assert plan_of(model, loss="classifier", image={"freeze_backbone": True}).totals()["trainable"] == 393_216
    assert "(image.freeze_backbone: true: 393,216 and the classes)" in words("strategies", "ViT-B-32")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-H-14-CLIPA"])
def test_only_what_is_normalised_is_said_to_be(name: str) -> None:
    """CLIPA's ln_pre does nothing."""
    marks = {mark.title: mark.why for mark in look_inside(name).facts.image.landmarks}
    assert marks["tokens"].endswith("normalised") is (name == "ViT-B-32")


@pytest.mark.parametrize(
    ("pooler", "fact"),
    [
        ("mean_pooler", "Text: mean of tokens. All words count alike; padding is left out."),
        ("cls_pooler", "The token at the start is kept; a dense layer and tanh, the pooler, follow."),
        ("cls_last_hidden_state_pooler", "The token at the start is kept; it has gathered"),
    ],
)
def test_a_hugging_face_text_tower(tmp_path: Path, pooler: str, fact: str) -> None:
    found = inside_of(custom(VIT, hugging_face_text(tmp_path / "bert", pooler=pooler)), "written")
    said = {topic: " ".join(explain(topic, found).paragraphs) for topic in TOPICS}
    assert fact in said["pooling"]
    assert "each token asks all tokens but the padding" in said["block"]
    assert found.facts.text.activation == "GELU"
    assert "in each of the 3 blocks of the image tower and 2 blocks of the text tower" in said["quickgelu"]


def test_a_model_without_projections_is_told_apart() -> None:
    model = look_inside("ViT-B-32")
    parts = tuple(part for part in model.facts.parts if part.group != "projection")
    none = {"image": {}, "text": {}}
    without = replace(model, facts=replace(model.facts, parts=parts), projection=none)
    assert "This model has none: both towers end in that space" in " ".join(explain("projection", without).paragraphs)
    assert "-1 nothing, since there are no projections" in " ".join(explain("freezing", without).after)


def test_long_names_fit_the_screen(tmp_path: Path) -> None:
    found = inside_of(custom(VIT, hugging_face_text(tmp_path / "bert")), f"local-dir:{'long/' * 20}model")
    file = io.StringIO()
    for topic in TOPICS:
        print_explanation(topic, found.facts.name, explain(topic, found), Console(file=file, width=80))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith("long/model")


def test_a_deep_model_has_every_n_in_json_and_some_on_the_screen() -> None:
    found = explain("freezing", look_inside("ViT-bigG-14"))
    assert found.table is not None
    assert [row[0] for row in found.table.rows] == [*map(str, range(49)), "-1"]
    assert 0 < len(found.table.shown) < 14
    assert found.table.rows[40][4:] == ("", "", "")  # the text tower has 32

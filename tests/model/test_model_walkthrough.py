"""The walkthrough: shapes at each step, and with an image and a text the values that open_clip itself computes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from freeze_models import native, on_meta
from tiny_families import FAMILIES, build, images, tokens
from torch import nn

from clipft.model.describe import ModelFacts, describe
from clipft.model.towers import towers_of
from clipft.model.walkthrough import Walkthrough, walk


def facts_of(model: nn.Module) -> ModelFacts:
    return describe(model, *towers_of(model), name="x", model_cfg={"text_cfg": {"context_length": 16}})


def shapes(model: nn.Module) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    steps = walk(
        model, *towers_of(model), describe(model, *towers_of(model), name="x", model_cfg={"text_cfg": {}})
    ).steps
    return {
        tower: [(step.title, step.shape) for step in steps if step.tower == tower]
        for tower in ("image", "text", "both")
    }


def test_vit_b_32_step_by_step() -> None:
    assert shapes(on_meta("ViT-B-32")) == {
        "image": [
            ("input", (1, 3, 224, 224)),
            ("patches", (1, 768, 7, 7)),
            ("tokens", (1, 50, 768)),
            ("blocks 0-11", (1, 50, 768)),
            ("pooled", (1, 768)),
            ("projected", (1, 512)),
            ("normalised", (1, 512)),
        ],
        "text": [
            ("input", (1, 77)),
            ("tokens", (1, 77, 512)),
            ("into block 0", (1, 77, 512)),
            ("blocks 0-11", (1, 77, 512)),
            ("pooled", (1, 512)),
            ("projected", (1, 512)),
            ("normalised", (1, 512)),
        ],
        "both": [("cosine", (1, 1)), ("scale", ()), ("logits", (1, 1))],
    }


def test_rn50_has_a_step_a_stage() -> None:
    image = shapes(on_meta("RN50"))["image"]
    assert image[1:7] == [
        ("stem", (1, 64, 56, 56)),
        ("block 0", (1, 256, 56, 56)),
        ("block 1", (1, 512, 28, 28)),
        ("block 2", (1, 1024, 14, 14)),
        ("block 3", (1, 2048, 7, 7)),
        ("pooled", (1, 2048)),
    ]


def test_a_tower_without_projection_has_no_such_step_and_siglip_has_a_bias() -> None:
    found = shapes(on_meta("ViT-B-16-SigLIP2"))
    assert "projected" not in dict(found["image"])
    assert dict(found["text"])["projected"] == (1, 768)
    assert [title for title, _ in found["both"]] == ["cosine", "scale", "bias", "logits"]


def test_without_weights_there_are_no_values_and_the_scale_is_an_initial_one() -> None:
    model = on_meta("ViT-B-32")
    found = walk(model, *towers_of(model), describe(model, *towers_of(model), name="x"))
    assert not any(step.first or step.norm is not None for step in found.steps)
    assert found.tables == ()
    (why,) = (step.why for step in found.steps if step.title == "scale")
    assert "exp(2.659) = 14.29, the initial value" in why


def walked(model: nn.Module) -> Walkthrough:
    return walk(model, *towers_of(model), facts_of(model), pixels=images(model)[:1], tokens=tokens()[:1])


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_open_clip(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    with torch.no_grad():
        image = F.normalize(model.encode_image(images(model)[:1]).reshape(1, -1), dim=-1)
        text = F.normalize(model.encode_text(tokens()[:1]), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        if model.logit_bias is not None:
            logits += model.logit_bias
    steps = {(step.tower, step.title): step for step in walked(model).steps}
    for tower, expected in (("image", image), ("text", text)):
        step = steps[tower, "normalised"]
        assert step.norm == pytest.approx(1)
        assert step.first == pytest.approx(expected.flatten()[:4].tolist(), abs=1e-6)
        before = steps.get((tower, "projected"), steps[tower, "pooled"])
        assert before.norm is not None
        assert before.first == pytest.approx([before.norm * value for value in step.first], rel=1e-4, abs=1e-6)
    assert steps["both", "cosine"].first == pytest.approx((image @ text.T).flatten().tolist(), abs=1e-6)
    assert steps["both", "logits"].first == pytest.approx(logits.flatten().tolist(), abs=1e-4)
    assert steps["both", "scale"].first == pytest.approx([model.logit_scale.exp().item()])


def test_with_weights_the_tables_are_told_too() -> None:
    model = native()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(100))
    found = walked(model)
    (why,) = (step.why for step in found.steps if step.title == "scale")
    assert "exp(4.605) = 100.00, as the weights have it" in why
    tables = {table.name: table for table in found.tables}
    assert list(tables) == [
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.proj",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
    ]
    assert tables["visual.proj"].shape == (32, 24)
    assert tables["visual.proj"].first == pytest.approx(model.visual.proj.flatten()[:4].tolist())


def test_looking_leaves_nothing_behind() -> None:
    model = native()
    walked(model)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())

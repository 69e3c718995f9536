"""CLIP-Adapter: a small network's answer mixed into a tower's output feature, seen by all that look at features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from freeze_models import native
from tiny_families import images, tokens
from torch import nn

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.additions import add_new
from clipft.model.describe import describe
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.tower import Tower
from clipft.model.towers import towers_of
from clipft.model.walkthrough import walk

NAMES = ["image_feature_adapter.down.weight", "image_feature_adapter.up.weight"]


def adapted(model: nn.Module, seed: int = 0, **section: Any) -> tuple[Tower, Tower]:
    towers = towers_of(model)
    add_new(model, *towers, ModelConfig(name="a-model", image={"feature_adapter": section}), seed)
    return towers


def plan_with(model: nn.Module, towers: tuple[Tower, Tower], loss: str, features: str, **config: Any) -> Plan:
    section = ModelConfig(name="a-model", pretrained="a-tag", **config)
    return make_plan(model, *towers, name="a-model", config=section, loss=loss, features=features, optim=OptimConfig())


def test_the_feature_is_that_of_the_paper() -> None:
    """Equations 3 to 5: ReLU behind both layers, no bias, 0.2 of the new beside 0.8 of the old."""
    model = native()
    with torch.no_grad():
        feature = towers_of(model)[0].encode(images(model))
    towers = adapted(model)
    down, up = (model.get_parameter(name) for name in NAMES)
    assert (down.shape, up.shape) == ((6, 24), (24, 6))
    expected = 0.2 * F.relu(F.relu(feature @ down.T) @ up.T) + 0.8 * feature
    with torch.no_grad():
        torch.testing.assert_close(towers[0].encode(images(model)), expected, atol=1e-6, rtol=0)
        assert torch.equal(towers[1].encode(tokens()), model.encode_text(tokens()))  # it has none
        assert torch.equal(towers[0].suffix(towers[0].prefix(images(model), 1), 1), towers[0].encode(images(model)))


def test_ratio_and_reduction() -> None:
    model = native()
    feature = towers_of(model)[0].encode(images(model))
    towers = adapted(model, ratio=0.0, reduction=24)
    assert torch.equal(towers[0].encode(images(model)), feature)
    assert model.get_parameter(NAMES[0]).shape == (1, 24)
    with pytest.raises(
        InputError, match=r"image\.feature_adapter\.reduction: 25 leaves nothing of a feature of 24; wr"
    ):
        adapted(native(), reduction=25)


def test_the_seed_alone_decides_its_start() -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = native()
        torch.rand(3)
        adapted(model, seed)
        drawn.append(model.get_parameter(NAMES[0]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_plan_knows_it_behind_the_projection() -> None:
    model = native()
    towers = adapted(model)
    plan = plan_with(model, towers, "contrastive", "projected", image={"projection": "freeze"})
    of_image = [p for p in plan.trainable if p.tower == "image"]
    assert [(p.name, p.group, p.part) for p in of_image] == [(name, "adapter", "projection") for name in NAMES]
    assert towers[0].body_names() == frozenset(towers[0].backbone_names())  # pooled features do not hang on it
    assert plan.lines["image"].startswith("froze all backbone parameters")

    classifier = plan_with(model, towers, "classifier", "projected")
    assert set(NAMES) <= {p.name for p in classifier.trainable}


def test_pooled_features_are_taken_before_it() -> None:
    model = native()
    towers = adapted(model)
    plan = plan_with(model, towers, "classifier", "pooled", image={"freeze_layers": 1})
    assert {p.rule for p in plan.parameters if p.name in NAMES} == {"not in the loss"}
    assert "image: the feature adapter is frozen: pooled features are taken before it (not in the loss)" in plan.notes


def test_the_walk_through_a_model_shows_it() -> None:
    with torch.device("meta"):
        model = native()
    towers = adapted(model)
    steps = walk(model, *towers, describe(model, *towers, name="a-model")).steps
    titles = [step.title for step in steps if step.tower == "image"]
    assert titles[-3:] == ["projected", "adapted", "normalised"]

"""The facts behind inspect and freeze-report."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from freeze_models import native, on_meta, plan_of

from clipft.model.classifier import Classifier
from clipft.model.describe import backward_reach, describe, memory
from clipft.model.plan import Plan
from clipft.model.rates import groups
from clipft.model.standstill import apply_plan, set_modes
from clipft.model.towers import towers_of


def test_vit_b_32_by_part() -> None:
    model = on_meta("ViT-B-32")
    facts = describe(model, *towers_of(model), name="ViT-B-32")
    assert facts.parameters == 151_277_313
    sizes = {(part.tower, part.group): part.parameters for part in facts.parts}
    assert sum(n for (tower, _), n in sizes.items() if tower == "image") == 87_849_216
    assert sum(n for (tower, group), n in sizes.items() if tower == "text" and "block" in group) == 37_828_608
    assert sizes["image", "block 11"] == 7_087_872
    assert sizes["text", "block 0"] == 3_152_384
    assert sizes["text", "embeddings"] == 25_296_896 + 39_424
    assert sizes["image", "projection"] == 393_216
    assert sizes["heads", "logit_scale"] == 1
    groups_in_order = [f"block {i}" for i in range(12)]
    assert [part.group for part in facts.parts if part.tower == "image"][1:13] == groups_in_order


def test_scales_without_weights_are_initial_ones() -> None:
    model = on_meta("ViT-B-32")
    facts = describe(model, *towers_of(model), name="ViT-B-32")
    assert facts.initial
    assert facts.logit_scale == pytest.approx(math.log(1 / 0.07))
    assert facts.logit_bias is None
    cfg = {"init_logit_scale": 1.5, "init_logit_bias": -3.0}
    with torch.device("meta"):
        biased = native(init_logit_bias=-3.0)
    facts = describe(biased, *towers_of(biased), name="x", model_cfg=cfg)
    assert (facts.logit_scale, facts.logit_bias) == (1.5, -3.0)


def test_scales_of_a_model_with_weights_are_its_own() -> None:
    model = native(init_logit_bias=-10.0)
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    facts = describe(model, *towers_of(model), name="x")
    assert (facts.initial, facts.logit_scale, facts.logit_bias) == (False, 4.0, -10.0)


def test_facts_as_json() -> None:
    model = native()
    facts = describe(model, *towers_of(model), name="tiny")
    data = json.loads(json.dumps(facts.to_json()))
    assert (data["name"], data["parameters"]) == ("tiny", facts.parameters)
    assert data["image"]["projection"] == [[32, 24]]
    assert {"tower": "image", "group": "projection", "tensors": 1, "parameters": 768} in data["parts"]


def test_memory_of_vit_b_32() -> None:
    plan = plan_of(on_meta("ViT-B-32"), image={"freeze_layers": 10}, text={"freeze_backbone": True})
    cost = memory(plan, "adamw")
    assert (cost.weights, cost.gradients) == (4 * 151_277_313, 4 * 14_832_641)
    assert cost.optimizer == 2 * cost.gradients
    assert memory(plan, "sgd").optimizer == cost.gradients


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_memory_is_what_torch_takes(name: str) -> None:
    model = native()
    plan = plan_of(model, image={"freeze_layers": 2})
    apply_plan(model, plan)
    parameters = [model.get_parameter(n) for group in groups(plan) for n in group.names]
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer = kinds[name](parameters, **({"momentum": 0.9} if name == "sgd" else {}))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    slots = [t for state in optimizer.state.values() for key, t in state.items() if key != "step"]
    cost = memory(plan, name)
    assert sum(t.nbytes for t in slots) == cost.optimizer
    assert sum(p.grad.nbytes for p in parameters if p.grad is not None) == cost.gradients
    assert sum(p.nbytes for p in model.parameters()) == cost.weights


FROZEN = {"freeze_backbone": True, "projection": "freeze"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "backward goes through all of the image tower and the text tower"),
        (
            {"image": {"freeze_layers": 2}, "text": {"freeze_backbone": True}},
            "backward stops at image block 2 and at the text projection",
        ),
        (
            {"image": {"freeze_layers": 3}, "text": {"freeze_pattern": "attn"}},
            "backward goes through all of the text tower, stops at the image norm",
        ),
        (
            {"image": {"freeze_layers": 1}, "text": FROZEN},
            "backward stops at image block 1, stays out of the text tower",
        ),
        ({"image": FROZEN, "text": FROZEN}, "backward stays out of the image tower and the text tower"),
    ],
)
def test_how_far_the_backward_pass_goes(config: dict[str, Any], words: str) -> None:
    assert backward_reach(plan_of(native(), **config)) == words


def test_the_backward_pass_goes_no_further_than_said() -> None:
    """The first block to get a gradient at its input is the one above the block it is said to stop at."""
    model = native()
    plan = plan_of(model, image={"freeze_layers": 2})
    assert "stops at image block 2" in backward_reach(plan)
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    inputs: dict[int, bool] = {}
    for i, block in enumerate(model.visual.transformer.resblocks):
        block.register_forward_pre_hook(lambda _, args, i=i: inputs.update({i: args[0].requires_grad}))
    towers_of(model)[0].encode(torch.randn(2, 3, 32, 32))
    assert inputs == {0: False, 1: False, 2: False}


def test_classifier_on_frozen_features() -> None:
    model = native()
    model.classifier = Classifier(3, 24, cosine=False, bias=True)
    plan: Plan = plan_of(model, loss="classifier", image=FROZEN)
    assert backward_reach(plan) == "backward stays out of the image tower and the text tower"
    assert plan.totals()["trainable"] == 3 * 24 + 3

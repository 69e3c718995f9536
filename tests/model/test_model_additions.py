from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_families import build as build_tiny

from clipft.config.schema import ModelConfig
from clipft.model.additions import add_new, take_out
from clipft.model.towers import towers_of

ADAPTER, FEATURE = {"bottleneck": 4}, {"reduction": 2, "ratio": 0.5}


@pytest.mark.parametrize("family", ["native, class token", "native image, hf bert"])
def test_what_is_put_in_comes_out_again(family: str, tmp_path: Path) -> None:
    """The model is its old self: names, values, modules, hooks."""
    model = build_tiny(family, tmp_path).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    towers = towers_of(model)
    shape = str(model)
    config = ModelConfig.model_validate(
        {
            "name": "x",
            "image": {"adapter": ADAPTER, "feature_adapter": FEATURE, "prompt": {"length": 2}},
            "text": {"adapter": ADAPTER, "feature_adapter": FEATURE, "prompt": {"length": 3, "depth": 2}},
        }
    )
    add_new(model, *towers, config, 0)
    new = model.state_dict().keys() - before.keys()
    assert take_out(model, *towers).keys() == new
    assert str(model) == shape
    assert not any(module._forward_hooks for module in model.modules())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not towers[0].added
    assert not towers[1].added

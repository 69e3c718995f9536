from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tiny_families import build as build_tiny
from tiny_files import write_native
from torch import nn

from clipft.config.schema import ModelConfig
from clipft.model.additions import add_new, base_config, take_out
from clipft.model.build import build
from clipft.model.clip_model import ClipModel
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


def both(model: nn.Module, clip: ClipModel) -> torch.Tensor:
    """Features of noise and of two texts, one below the other."""
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = clip.tokenizer(["a red cat", "a blue dog"])
    with torch.no_grad():
        return torch.cat([model.encode_image(x), model.encode_text(tokens)])


def towers_features(clip: ClipModel) -> torch.Tensor:
    """The same, as training and measuring ask for them."""
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([clip.image.encode(x), clip.text.encode(clip.tokenizer(["a red cat", "a blue dog"]))])


ALL = [
    {"lora": {"rank": 2}},
    {"lora": {"rank": 2, "dora": True, "targets": ["v", "proj"]}, "adapter": ADAPTER, "feature_adapter": FEATURE},
    {"prompt": {"length": 2}, "lora": {"rank": 2}},
]


@pytest.mark.parametrize("new", ALL)
def test_a_base_is_plain_open_clip_to_the_bit(new: dict[str, Any], tmp_path: Path) -> None:
    """P29: in a model built for it, and in one that has everything, for a moment."""
    name = f"local-dir:{write_native(tmp_path / 'base')}"
    config = ModelConfig.model_validate({"name": name, "image": new, "text": new})
    plain = open_clip.create_model(name).eval()
    base = build(base_config(config), 0)
    assert base.model.state_dict().keys() == plain.state_dict().keys()
    assert not base.image.added
    whole = build(config, 0)
    expected = both(plain, base)
    assert torch.equal(both(base.model, base), expected)
    assert torch.equal(towers_features(base), expected)
    before = towers_features(whole)
    with whole.as_base():
        assert torch.equal(towers_features(whole), expected)
    assert torch.equal(towers_features(whole), before)

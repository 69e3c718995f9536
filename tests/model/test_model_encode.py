from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipft.config.schema import ModelConfig
from clipft.model.build import build
from clipft.model.clip_model import ClipModel
from clipft.model.encode import encode_texts, measuring

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tiny_native: Path) -> ClipModel:
    return build(ModelConfig(name=f"local-dir:{tiny_native}"), seed=0)


def test_equal_texts_are_encoded_once(clip: ClipModel) -> None:
    seen: list[str] = []
    own = clip.tokenizer

    def counting(texts: list[str]) -> torch.LongTensor:
        seen.extend(texts)
        return own(texts)

    clip.tokenizer = counting  # type: ignore[assignment]
    try:
        features = encode_texts(clip, ["a", "b", "a", "a"], device=CPU)
    finally:
        clip.tokenizer = own
    assert seen == ["a", "b"]
    assert torch.equal(features[0], features[2])
    assert not torch.equal(features[0], features[1])


def test_measuring_leaves_every_module_in_its_mode(clip: ClipModel) -> None:
    clip.model.train()
    clip.model.visual.eval()
    before = {name: module.training for name, module in clip.model.named_modules()}
    with measuring(clip.model):
        assert not any(module.training for module in clip.model.modules())
        assert not torch.is_grad_enabled()
    assert {name: module.training for name, module in clip.model.named_modules()} == before
    clip.model.eval()

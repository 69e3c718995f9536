"""Mixed weights equal the plain formula, and the ends are the very bits of base and tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipft.config.schema import ModelConfig
from clipft.model.adapters import Adapter
from clipft.model.build import build
from clipft.model.clip_model import ClipModel
from clipft.model.feature_adapter import FeatureAdapter
from clipft.model.lora import merge_lora
from clipft.model.mixing import Mixture, average, mix
from clipft.model.saved import load_saved


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def copied(clip: ClipModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}


@pytest.fixture
def tuned(tiny_timm_bert: Path) -> tuple[ClipModel, dict[str, Tensor]]:
    """A model with BatchNorm whose image tower, statistics and scale moved, and its base's tensors."""
    clip = build(ModelConfig(name=f"local-dir:{tiny_timm_bert}"), seed=0)
    base = copied(clip)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in clip.model.state_dict().items():
        if name.startswith("visual.") or name == "logit_scale":
            moved = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(tensor + (5 if name.endswith("num_batches_tracked") else moved))
    return clip, base


def test_the_ends_are_the_tensors_themselves() -> None:
    base, tuned = torch.tensor([1e8, 0.1]), torch.tensor([1.0, float("inf")])
    assert mix(base, tuned, 0.0) is base
    assert mix(base, tuned, 1.0) is tuned


def test_the_middle_is_the_plain_formula() -> None:
    """WiSE-FT, equation 1."""
    base, tuned = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.equal(mix(base, tuned, 0.3), (1 - 0.3) * base + 0.3 * tuned)


def test_a_model_at_the_ends_is_base_and_tuned_to_the_bit(tuned: tuple[ClipModel, dict[str, Tensor]]) -> None:
    clip, base = tuned
    trained = copied(clip)
    mixture = Mixture(clip, base)
    for alpha in (0.5, 0.0):
        mixture.put(alpha)
    assert same(clip.model.state_dict(), base)
    mixture.put(1.0)
    assert same(clip.model.state_dict(), trained)


def test_in_between_every_tensor_that_differs_is_mixed_and_no_other(tuned: tuple[ClipModel, dict[str, Tensor]]) -> None:
    """BatchNorm's statistics and logit_scale too; what the run left alone keeps its bits."""
    clip, base = tuned
    trained = copied(clip)
    mixture = Mixture(clip, base)
    mixture.put(0.7)
    assert "logit_scale" in mixture.names
    for name, tensor in clip.model.state_dict().items():
        assert (name in mixture.names) is (name.startswith("visual.") or name == "logit_scale"), name
        if name not in mixture.names:
            assert torch.equal(tensor, base[name]), name
        elif name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, trained[name]), name
        else:
            assert torch.equal(tensor, (1 - 0.7) * base[name] + 0.7 * trained[name]), name
    assert any(name.endswith("running_var") for name in mixture.names)


def test_an_average_is_the_plain_mean_and_equal_tensors_stay() -> None:
    sets = [{"w": torch.randn(3, 4), "same": torch.full((2,), 0.1), "count": torch.tensor(n)} for n in (7, 9, 2)]
    found = average(iter(sets))
    expected = torch.stack([each["w"] for each in sets]).double().mean(dim=0).float()
    assert torch.equal(found["w"], expected)
    assert torch.equal(found["same"], torch.full((2,), 0.1))
    assert torch.equal(found["count"], torch.tensor(7))
    assert all(torch.equal(average([sets[0]])[name], sets[0][name]) for name in sets[0])


ADAPTED: dict[str, Any] = {
    "image": {"adapter": {"scale": 0.5}, "feature_adapter": {"ratio": 0.6}},
    "text": {"adapter": {"placement": ["mlp"], "bottleneck": 8}, "train_only": ["norms"]},
}


def features(clip: ClipModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(3, 3, 32, 32, generator=generator)
    with torch.no_grad():
        return [clip.image.encode(pictures), clip.text.encode(clip.tokenizer(["a photo", "of two"]))]


def test_adapters_count_by_their_scale(tiny_native: Path, make_run: Any) -> None:
    """At 0 the features are those of a base that never had them, to the bit."""
    name = f"local-dir:{tiny_native}"
    run = make_run(tiny_native, model={"name": name, **ADAPTED})
    saved = load_saved(run)
    base = build(ModelConfig(name=name), 0)
    before = features(saved.clip)
    mixture = Mixture(saved.clip, build(saved.config.model, 0).model.state_dict())
    mixture.put(0.0)
    assert all(map(torch.equal, features(saved.clip), features(base)))
    mixture.put(1.0)
    assert all(map(torch.equal, features(saved.clip), before))

    plain = load_saved(run).clip
    state = plain.model.state_dict()
    for key, tensor in base.model.state_dict().items():
        state[key].copy_(0.6 * tensor + 0.4 * state[key])
    for module in plain.model.modules():
        if isinstance(module, Adapter):
            module.scale *= 0.4
        elif isinstance(module, FeatureAdapter):
            module.ratio *= 0.4
    mixture.put(0.4)
    for ours, theirs in zip(features(saved.clip), features(plain), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert any("adapter" in name for name in mixture.names)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_counts_by_its_strength(tiny_native: Path, make_run: Any, dora: bool) -> None:
    """At 0 base, at 1 tuned to the bit; between, the weights are those of base and merged model mixed."""
    name = f"local-dir:{tiny_native}"
    lora = {"rank": 2, "dora": dora}
    run = make_run(tiny_native, model={"name": name, "image": {"lora": lora}, "text": {"lora": lora}})
    frozen = build(ModelConfig(name=name), 0)
    saved, whole = load_saved(run), load_saved(run).clip
    for clip in (saved.clip, whole):  # as LoRA trains: the base stands still
        clip.model.load_state_dict(frozen.model.state_dict(), strict=False)
    before = features(saved.clip)
    mixture = Mixture(saved.clip, build(saved.config.model, 0).model.state_dict())
    mixture.put(0.0)
    assert all(map(torch.equal, features(saved.clip), features(frozen)))
    assert not torch.equal(features(saved.clip)[0], before[0])
    mixture.put(1.0)
    assert all(map(torch.equal, features(saved.clip), before))

    mixture.put(0.3)
    between = features(saved.clip)
    merge_lora(saved.clip.model, saved.clip.image, saved.clip.text)
    merge_lora(whole.model, whole.image, whole.text)
    ends = frozen.model.state_dict(), whole.model.state_dict()
    assert saved.clip.model.state_dict().keys() == ends[0].keys() == ends[1].keys()
    for key, tensor in saved.clip.model.state_dict().items():
        torch.testing.assert_close(tensor, 0.7 * ends[0][key] + 0.3 * ends[1][key], atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(between, features(saved.clip), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

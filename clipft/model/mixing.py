"""Weights between a base and what was tuned from it, and averages of several.

Floating-point tensors are mixed, BatchNorm's statistics among them; counters (`num_batches_tracked`) are taken over.
What is the same on both sides stays as it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model.adapters import Adapter
from clipft.model.clip_model import ClipModel
from clipft.model.feature_adapter import FeatureAdapter
from clipft.model.lora import scale_lora


def mix(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) base + alpha tuned (WiSE-FT, equation 1); at 0 and 1 the very bits of either."""
    if alpha == 0:
        return base
    if alpha == 1 or not tuned.is_floating_point():
        return tuned
    return (1 - alpha) * base + alpha * tuned


def average(sets: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor over the sets, summed in float64, so that equal ones stay as they are; of counters the
    first. A set is asked for when its turn has come, so that one at a time need be in memory.
    """
    first: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    count = 0
    for tensors in sets:
        count += 1
        for name, tensor in tensors.items():
            if name not in totals:
                first[name], totals[name] = tensor, tensor.double()
            else:
                totals[name] += tensor
    return {
        name: (totals[name] / count).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


class Mixture:
    """A tuned model that can be set to any point between its base and itself.

    Weights are mixed; what was put in beside them counts as much of what it was trained to.

    Args:
        clip: the tuned model; its weights are written over in place.
        base: the base's state dict, with the same names; only what differs is kept.

    Raises:
        InputError: it has prompt vectors, between which and no vectors there is nothing.
    """

    def __init__(self, clip: ClipModel, base: Mapping[str, Tensor]) -> None:
        _refuse_prompts(clip)
        self.clip = clip
        self._new = frozenset(name for tower in (clip.image, clip.text) for name in tower.added)
        old = {name: base[name] for name in base.keys() - self._new}
        self._ends = {
            name: (start.to(tuned.device, copy=True), tuned.clone())
            for name, tuned in clip.model.state_dict().items()
            if (start := _start(name, tuned, clip.model, old)) is not None
        }

    @property
    def names(self) -> frozenset[str]:
        """The tensors that differ between base and tuned, or count more or less."""
        return frozenset(self._ends) | self._new

    def put(self, alpha: float) -> None:
        """Make the model the mixture at `alpha`: 0 is the base, 1 the tuned."""
        put(self.clip.model, {name: mix(base, tuned, alpha) for name, (base, tuned) in self._ends.items()})
        let_count(self.clip.model, alpha)


def let_count(model: nn.Module, alpha: float) -> None:
    """Let LoRA and feature adapters count this share of what they were trained to; 0 is the tower without."""
    scale_lora(model, alpha)
    for module in model.modules():
        if isinstance(module, FeatureAdapter):
            module.strength = alpha


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors over the model's own of these names, in place."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def _start(name: str, tuned: Tensor, model: nn.Module, old: Mapping[str, Tensor]) -> Tensor | None:
    """What is mixed with a tuned tensor: the base's, or for what ends an adapter zero, with which it is the identity.

    None where nothing is: the same on both sides, or the rest of what was put in.
    """
    if name in old:
        return None if torch.equal(tuned, old[name].to(tuned.device)) else old[name]
    adapter, _, inner = name.rpartition(".up.")
    ends_adapter = bool(inner) and isinstance(model.get_submodule(adapter), Adapter)
    return torch.zeros_like(tuned) if ends_adapter else None


def _refuse_prompts(clip: ClipModel) -> None:
    for tower in (clip.image, clip.text):
        if "prompt" in tower.new_groups():
            raise InputError(
                f"model.{tower.name}.prompt: a base without prompt vectors has nothing in their place to be mixed "
                "with; interpolate a run without them"
            )

"""Weights between a base and what was tuned from it, and averages of several.

Floating-point tensors are mixed, BatchNorm's statistics among them; counters (`num_batches_tracked`) are taken over.
What is the same on both sides stays as it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model.build import ClipModel


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

    Args:
        clip: the tuned model; its weights are written over in place.
        base: the base's state dict, with the same names; only what differs is kept.

    Raises:
        InputError: it has new parameters, which the base has nothing in the place of.
    """

    def __init__(self, clip: ClipModel, base: Mapping[str, Tensor]) -> None:
        refuse_new(clip)
        self.clip = clip
        self._ends = {
            name: (base[name].to(tensor.device, copy=True), tensor.clone())
            for name, tensor in clip.model.state_dict().items()
            if not torch.equal(tensor, base[name].to(tensor.device))
        }

    @property
    def names(self) -> frozenset[str]:
        """The tensors that differ between base and tuned."""
        return frozenset(self._ends)

    def put(self, alpha: float) -> None:
        """Make the model the mixture at `alpha`: 0 is the base, 1 the tuned."""
        put(self.clip.model, {name: mix(base, tuned, alpha) for name, (base, tuned) in self._ends.items()})


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors over the model's own of these names, in place."""
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def refuse_new(clip: ClipModel) -> None:
    """Refuse a model with new parameters, whose weights have no counterpart in the base.

    Raises:
        InputError: it has some.
    """
    for tower in (clip.image, clip.text):
        for group in tower.new_groups():
            raise InputError(
                f"model.{tower.name}.{group}: has nothing in the base to be mixed with; interpolate a run without it"
            )

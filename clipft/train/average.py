"""An exponential average of the weights that train: `train.ema`. It is measured and saved; training never sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from clipft.model.in_place import in_place

PREFIX = "trained/"  # of the weights themselves in a checkpoint whose model file holds the average
NO_AVERAGE = "train.ema is ignored: the value is computed in one go, so there is no past to average"
"""What is said where nothing but logit_scale trains."""


class Average:
    """Follows parameters, float32, from the values that they have now; without any, it is nothing and costs nothing.

    Buffers are not averaged: a BatchNorm's statistics are averages already, and are taken as they are (as
    torch.optim.swa_utils.AveragedModel does by default).

    Args:
        parameters: what trains, by full name.
        decay: the average's share of itself at each update.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter] | None = None, decay: float = 0.0) -> None:
        self.decay = decay
        self.updates = 0
        self._names: Sequence[str] = list(parameters or {})
        self._pairs = [(p, p.detach().clone()) for p in (parameters or {}).values()]

    def update(self) -> None:
        """Take in the weights after a step that was not skipped.

        The decay is (1 + t) / (10 + t) after t updates while that is less (TensorFlow's ExponentialMovingAverage with
        num_updates), so that a short run's average is not still its start.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            for parameter, mean in self._pairs:
                mean.lerp_(parameter, 1 - decay)

    def in_place(self) -> AbstractContextManager[None]:
        """The averages in the model, and its own weights again afterwards."""
        return in_place(self._pairs)

    def adopt(self) -> None:
        """Give the averages to the weights themselves."""
        with torch.no_grad():
            for parameter, mean in self._pairs:
                parameter.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        """The weights themselves, for a checkpoint whose model file holds the averages."""
        pairs = zip(self._names, self._pairs, strict=True)
        return {f"{PREFIX}{name}": parameter.detach().cpu() for name, (parameter, _) in pairs}

    def take_up(self, saved: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint whose averages were just laid into the model: they move over here.

        Args:
            saved: what `state` gave.
            updates: how many there were.
        """
        with torch.no_grad():
            for name, (parameter, mean) in zip(self._names, self._pairs, strict=True):
                mean.copy_(parameter)
                parameter.copy_(saved[f"{PREFIX}{name}"])
        self.updates = updates

    def __bool__(self) -> bool:
        """Whether it follows anything."""
        return bool(self._pairs)

    @property
    def bytes(self) -> int:
        """What the weights themselves take in a checkpoint."""
        return sum(mean.numel() * mean.element_size() for _, mean in self._pairs)

"""Whether what was put into a model gets a gradient: the first steps tell (P49)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clipft.model.plan import NEW, Plan
from clipft.words import some

STEPS = 2
"""Steps in which each new parameter gets a gradient. In the first, what starts from zero (LoRA's B, an adapter's up)
lets none through to its partner (A, down)."""
STEPS_FP16 = 20  # there a partner that has moved by a first small step is still rounded to zero


class FirstGradients:
    """Watches the new parameters of a stage until each has had a gradient that is not all zero.

    Args:
        model: that trains.
        plan: of the stage.
        precision: fp32, bf16 or fp16.
    """

    def __init__(self, model: nn.Module, plan: Plan, precision: str) -> None:
        self._waiting = {p.name: model.get_parameter(p.name) for p in plan.trainable if p.group in NEW}
        self._count = len(self._waiting)
        self._steps = STEPS_FP16 if precision == "fp16" else STEPS
        self._taken = 0

    @property
    def waiting(self) -> tuple[str, ...]:
        """The names of those that have had none yet."""
        return tuple(self._waiting)

    def after_step(self, *, skipped: bool) -> str | None:
        """Look at the gradients that a step has left; a warning when its time has come, once.

        Args:
            skipped: whether a loss scaler refused the step, so that nothing has moved.
        """
        if skipped or not self._waiting or self._taken == self._steps:
            return None
        self._taken += 1
        there = _any(parameter.grad for parameter in self._waiting.values())
        pairs = zip(self._waiting.items(), there, strict=True)
        self._waiting = {name: parameter for (name, parameter), found in pairs if not found}
        if not self._waiting or self._taken < self._steps:
            return None
        return (
            f"{len(self._waiting)} of {self._count} new parameters got no gradient but zeros in the first "
            f"{self._steps} steps, so they do not train: {some(self._waiting, 5)}; look at their rate (optim.lr_new), "
            "leave them out (lora.targets, lora.layers, adapter.placement), or draw them anew with another run.seed"
        )


def _any(gradients: Iterable[Tensor | None]) -> list[bool]:
    """Of each gradient whether it is more than zeros, asked of the device at once."""
    none = torch.zeros((), dtype=torch.bool)
    found = [none if gradient is None else gradient.any() for gradient in gradients]
    return [bool(answer) for answer in torch.stack(found).tolist()]

"""Where a command computes and in what: --device and --precision, asked of the hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from clipft.train.precision import Precision


@dataclass(frozen=True)
class Chosen:
    """A device of this machine, and the precision to compute in on it."""

    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager[object]:
        """The context to run towers in."""
        return self.precision.autocast(self.device)


def choose_compute(device: str, precision: str) -> Chosen:
    """What the two options come to; where that is not what was asked for, it is said.

    Raises:
        InputError: the device is not there.
    """
    from clipft.report.console import say
    from clipft.train.precision import choose_device, choose_precision

    place = choose_device(device, "--device")
    chosen = choose_precision(precision, place, "--precision")
    say(chosen.notes)
    if precision == "auto" and chosen.name != "fp32":
        say([f"computing in {chosen.name} on {place.type}; --precision fp32 is slower and exact"])
    return Chosen(place, chosen)

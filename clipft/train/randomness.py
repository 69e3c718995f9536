"""The random states that a step draws from: the CPU's and the device's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PREFIX = "rng/"


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Torch's random states by where they are; order and augmentation need none, dropout does."""
    states = {f"{PREFIX}cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{PREFIX}cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states[f"{PREFIX}mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_states` took; a state of another kind of device is left out."""
    torch.set_rng_state(states[f"{PREFIX}cpu"])
    if device.type == "cuda" and f"{PREFIX}cuda" in states:
        torch.cuda.set_rng_state(states[f"{PREFIX}cuda"], device)
    elif device.type == "mps" and f"{PREFIX}mps" in states:
        torch.mps.set_rng_state(states[f"{PREFIX}mps"])

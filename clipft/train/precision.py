"""Which device a run computes on and in which precision: asked of the hardware, never assumed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from clipft.errors import InputError


@dataclass(frozen=True)
class Precision:
    """A named precision; trainable weights are always float32, autocast computes below (P28).

    Args:
        name: fp32, bf16 or fp16.
        notes: what to tell the user about the choice.
    """

    name: str
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The type that matrix products run in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context to run towers in."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


def choose_device(wanted: str, key: str = "train.device") -> torch.device:
    """The device that is named; auto takes a GPU where there is one.

    Args:
        wanted: auto, cpu, cuda, cuda:N or mps.
        key: where it was named, as messages call it.

    Raises:
        InputError: the device is not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise InputError(f"{key}: expected auto, cpu, cuda, cuda:N or mps, found {wanted!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"{key}: {wanted} is not on this machine ({torch.cuda.device_count()} GPUs found); write auto or cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"{key}: mps is not on this machine; write auto or cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"{key}: expected auto, cpu, cuda, cuda:N or mps, found {wanted!r}")
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; emulation is many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def choose_precision(wanted: str, device: torch.device, key: str = "train.precision") -> Precision:
    """The precision to compute in on this device; what differs from `wanted` is said in its notes.

    Args:
        wanted: auto, fp32, bf16 or fp16.
        device: what to ask for its units.
        key: where it was named, as notes call it.
    """
    fast = has_fast_bf16(device)
    if wanted == "auto":
        return Precision("bf16" if fast else "fp32")
    if wanted == "fp16" and device.type == "cpu":
        return Precision("fp32", (f"{key}: fp16 has no kernels on a CPU; computing in fp32",))
    if wanted == "bf16" and not fast:
        return Precision(
            "bf16",
            (f"{key}: this {device.type} has no bf16 units and emulates them, many times slower than fp32",),
        )
    return Precision(wanted)


def expected(device: str, precision: str) -> tuple[str, Precision]:
    """The kind of device and the precision that `train.device` and `train.precision` come to.

    A GPU that is not on this machine is taken at its word, since a config may be looked at elsewhere than it runs;
    `auto` is fp32 there, and it is said.

    Raises:
        InputError: no kind of device that there is.
    """
    kind = device.split(":")[0]
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if not missing.get(kind, False):
        place = choose_device(device)
        return place.type, choose_precision(precision, place)
    name = "fp32" if precision == "auto" else precision
    return kind, Precision(name, (f"train.device: {device} is not on this machine: its cost is counted in {name}",))

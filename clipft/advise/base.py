"""Which model to start from: what was asked for, or a common one that fits."""

from __future__ import annotations

from dataclasses import dataclass

from clipft.errors import InputError
from clipft.model.profiles import Architecture, Catalogue

SMALL = ("ViT-B-32", "laion2b_s34b_b79k")
LARGER = (("ViT-L-14", "datacomp_xl_s13b_b90k"), ("ViT-B-16", "datacomp_xl_s13b_b90k"))
BATCH = 64


@dataclass(frozen=True)
class Machine:
    """Where training is to run.

    Args:
        device: cpu, cuda or mps.
        precision: fp32, bf16 or fp16.
        free: bytes of memory that are free; None where that is not known.
    """

    device: str
    precision: str
    free: int | None

    @property
    def gpu(self) -> bool:
        """Whether it has one of NVIDIA's, or one that torch calls so."""
        return self.device == "cuda"

    @property
    def room(self) -> float | None:
        """Bytes that a step may take by count: within 20 % of real steps, a GPU's context and gaps on top."""
        return None if self.free is None else 0.8 * self.free


@dataclass(frozen=True)
class Base:
    """The model to start from: `model.name`, `model.pretrained`, and why."""

    name: str
    pretrained: str | None
    why: str


def choose_base(catalogue: Catalogue, machine: Machine, way: str, batch: int) -> Base:
    """A common model that fits: the larger ones on a GPU with room for them, else the one that a CPU can train.

    Args:
        way: of `profiles.WAYS`.
        batch: rows that are to fit at once, up to BATCH.
    """
    small = _of(catalogue, SMALL[0])
    if machine.gpu and machine.room is not None:
        kind = "fp32" if machine.precision == "fp32" else "bf16"
        for name, tag in LARGER:
            profile = _of(catalogue, name).profile
            if profile and (profile.largest_batch(way, kind, machine.room) or 0) >= min(batch, BATCH):
                return Base(name, tag, f"{_figure(catalogue, name, tag)}; it fits this GPU.")
        return Base(*SMALL, f"{_figure(catalogue, *SMALL)}; what a larger one takes, this GPU does not have.")
    medium = _of(catalogue, "ViT-B-16")
    why = f"{_figure(catalogue, *SMALL)}; small and well known"
    if small.profile and medium.profile:
        times = medium.profile.image_flops / small.profile.image_flops
        why += f", and a picture costs a {_ordinal(round(times))} of what it does in ViT-B-16"
    return Base(*SMALL, f"{why}.")


def named_base(catalogue: Catalogue, name: str, pretrained: str | None) -> Base:
    """The model that was asked for, with its most accurate weights where none were.

    Raises:
        InputError: all its weights belong to another name.
    """
    if pretrained is not None:
        return Base(name, pretrained, "As you asked.")
    found = next((each for each in catalogue.architectures if each.name == name), None)
    if found is None or not found.tags:
        return Base(name, None, "As you asked.")
    if not found.loading:
        other = next((tag.instead for tag in found.tags if tag.instead), None)
        hint = f"write --model {other}" if other else "name another model"
        raise InputError(f"--model: the weights for {name} were trained with another activation; {hint}")
    tag = found.best or found.loading[0]
    reason = "most accurate of its weights on ImageNet" if found.best else "first of its weights"
    return Base(name, tag.name, f"As you asked; {tag.name}: the {reason} (clipft models {name} lists them).")


def _of(catalogue: Catalogue, name: str) -> Architecture:
    found = next((each for each in catalogue.architectures if each.name == name), None)
    if found is None:
        raise InputError(f"--model: this open_clip has no {name}; name a model (clipft models lists them)")
    return found


def _figure(catalogue: Catalogue, name: str, tag: str) -> str:
    found = next((each for each in _of(catalogue, name).tags if each.name == tag), None)
    if found is None or found.zero_shot_top1 is None:
        return f"{name} with {tag}"
    return f"{name} with {tag} knows {100 * found.zero_shot_top1:.0f} % of ImageNet before any training"


def _ordinal(times: int) -> str:
    return {2: "half", 3: "third", 4: "quarter", 5: "fifth"}.get(times, f"{times}th")

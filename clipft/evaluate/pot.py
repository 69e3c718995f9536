"""Runs of one base, opened to be averaged: their weights come from disk one run at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipft.errors import InputError
from clipft.model.build import build
from clipft.model.ingredients import refuse_to_mix
from clipft.model.lora import has_lora, merge_lora
from clipft.model.mixing import average, put
from clipft.model.restore import restore
from clipft.model.runfiles import Checkpoint, Which, open_checkpoint
from clipft.model.saved import SavedModel


@dataclass(frozen=True, eq=False)
class Pot:
    """Runs that may be averaged.

    Args:
        names: the runs, as the user wrote them.
        checkpoints: of each the checkpoint that is taken.
        saved: the first one's model, whose weights are written over; its LoRA is merged.
        tensors: gives each run's tensors of the names in `varying`.
        varying: the tensors in which any two of the runs differ.
    """

    names: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...]
    saved: SavedModel
    tensors: Callable[[int], Mapping[str, Tensor]]
    varying: frozenset[str]

    @property
    def base_name(self) -> str:
        """What all of them started from."""
        return str(self.checkpoints[0].state["base"])

    def put(self, numbers: Sequence[int]) -> None:
        """Make the model the average of these runs."""
        put(self.saved.clip.model, average(self.tensors(number) for number in numbers))


def open_pot(names: Sequence[str], which: Which | None, device: torch.device) -> Pot:
    """Open the runs and load the first one's model.

    Args:
        names: runs or checkpoints, at least two.
        which: of each run the best or the last checkpoint.
        device: where the model goes.

    Raises:
        InputError: one is no run, or they do not share base and form; the message says what differs.
    """
    checkpoints = tuple(open_checkpoint(Path(name).expanduser(), which) for name in names)
    folders = [checkpoint.folder.resolve() for checkpoint in checkpoints]
    if doubles := [name for name, folder in zip(names, folders, strict=True) if folders.count(folder) > 1]:
        raise InputError(f"{doubles[-1]}: is named twice; name each run once")
    if len(names) < 2:
        raise InputError("RUN...: name at least two runs")
    first = checkpoints[0]
    for name, other in zip(names[1:], checkpoints[1:], strict=True):
        refuse_to_mix(names[0], first, name, other)
    saved = SavedModel(restore(first), first.config, first.state, first.folder)
    tensors, varying = _from_memory(saved, checkpoints) if has_lora(saved.clip.model) else _from_disk(checkpoints)
    saved.clip.model.to(device)
    return Pot(tuple(names), checkpoints, saved, tensors, varying)


def _from_disk(checkpoints: Sequence[Checkpoint]) -> tuple[Callable[[int], Mapping[str, Tensor]], frozenset[str]]:
    """What varies, by the fingerprints, and what reads it: a run's own tensors, the base's where it has none."""
    first, *others = (checkpoint.state["weights_sha256"] for checkpoint in checkpoints)
    varying = frozenset(name for name in first if any(other[name] != first[name] for other in others))
    base: dict[str, Tensor] = {}
    if any(not varying <= set(checkpoint.state["saved"]) for checkpoint in checkpoints):
        config, classes = checkpoints[0].config, checkpoints[0].state["classes"]
        base = build(config.model, config.run.seed, classes=classes).model.state_dict()
        base = {name: tensor.clone() for name, tensor in base.items() if name in varying}

    def read(number: int) -> dict[str, Tensor]:
        own = checkpoints[number].tensors()
        return {name: own[name] if name in own else base[name] for name in varying}

    return read, varying


def _from_memory(
    saved: SavedModel, checkpoints: Sequence[Checkpoint]
) -> tuple[Callable[[int], Mapping[str, Tensor]], frozenset[str]]:
    """The same of runs with LoRA, merged: products of low-rank matrices can be averaged, their factors cannot."""
    merge_lora(saved.clip.model, saved.clip.image, saved.clip.text)
    first = saved.clip.model.state_dict()
    own: list[dict[str, Tensor]] = [{}]
    for checkpoint in checkpoints[1:]:
        clip = restore(checkpoint)
        merge_lora(clip.model, clip.image, clip.text)
        state = clip.model.state_dict()
        own.append({name: tensor for name, tensor in state.items() if not torch.equal(tensor, first[name])})
    varying = frozenset(name for tensors in own for name in tensors)
    first = {name: first[name].clone() for name in varying}
    return (lambda number: first | own[number]), varying

"""Checkpoints, written whole or not at all: a temporary folder, synced, renamed, committed by its last file.

`clipft.model.runfiles` reads them; the file names are its constants.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipft.errors import ClipftError
from clipft.model.hashes import file_sha256
from clipft.model.plan import NEW, Plan
from clipft.model.runfiles import CHECKPOINTS, COMMIT, OPTIMIZER, STATE, WEIGHTS
from clipft.model.standstill import moving_buffers
from clipft.model.tensor_file import write_tensors
from clipft.train import average, randomness


@dataclass(frozen=True)
class Kept:
    """A checkpoint on disk.

    Args:
        step: the step it was taken at.
        folder: where it is.
        epoch_end: whether a run can go on from it; a best one may lie inside an epoch.
    """

    step: int
    folder: Path
    epoch_end: bool


def saved_names(model: nn.Module, plans: Sequence[Plan], *, everything: bool, resized: Sequence[str] = ()) -> list[str]:
    """Which tensors of the state dict a checkpoint holds: what trains, the buffers that move, and resized positions.

    New parameters are among them where they stand still too, since the base does not have them.

    Args:
        model: the model with its classifier.
        plans: what trains, and what trained in earlier stages.
        everything: hold the frozen tensors too, since a random base cannot be fetched again.
        resized: parameters that were resampled from the base's or drawn in their place, on another processor to
            other bits.
    """
    state = model.state_dict()
    if everything:
        return list(state)
    moves = {p.name for plan in plans for p in plan.parameters if p.trainable or p.group in NEW} | set(resized)
    moves |= {name for plan in plans for name in moving_buffers(model, plan)}
    return [name for name in state if name in moves]


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / CHECKPOINTS / f"step-{step:06d}"


def write_checkpoint(
    run: Path, step: int, *, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write `checkpoints/step-000123` and return it.

    Raises:
        ClipftError: the disk is full or not writable; nothing half-written stays under the final name.
    """
    folder = checkpoint_folder(run, step)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_tensors(weights, temporary / WEIGHTS)
        write_tensors(optimizer, temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "sha256": file_sha256(temporary / name)}
            for name in (WEIGHTS, OPTIMIZER, STATE)
        }
        for name in files:
            _sync(temporary / name)
        (temporary / COMMIT).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
        _sync(temporary / COMMIT)
        _sync(temporary)
        _put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise ClipftError(
            f"{folder}: the checkpoint could not be written ({error}); free some disk and run the same command to go on"
        ) from error
    return folder


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename; a checkpoint of the same step is moved aside first and deleted last, so that one is always there."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def point_to(run: Path, name: str, folder: Path, facts: dict[str, Any]) -> None:
    """Write `last.json` or `best.json`: which folder it is, and why."""
    write_whole(run / CHECKPOINTS / f"{name}.json", json.dumps({"folder": folder.name, **facts}, indent=1))


def prune(kept: Iterable[Kept], *, last: int, best: int | None) -> None:
    """Delete all but the newest `last` of epochs' ends, from which a run goes on, and that of step `best`."""
    ordered = sorted(kept, key=lambda k: k.step)
    stay = {k.step for k in [k for k in ordered if k.epoch_end][-last:]} | {best}
    for old in ordered:
        if old.step not in stay:
            shutil.rmtree(old.folder, ignore_errors=True)


def committed(run: Path) -> list[Kept]:
    """The checkpoints of a run that were written to the end, oldest first."""
    found = []
    for folder in (run / CHECKPOINTS).glob("step-*"):
        number = folder.name.removeprefix("step-")
        if number.isdecimal() and (folder / COMMIT).is_file():
            found.append(Kept(int(number), folder, _at_epoch_end(folder)))
    return sorted(found, key=lambda k: k.step)


def _at_epoch_end(folder: Path) -> bool:
    """What state.json says; one that cannot be read passes for yes, so that going on from it finds the damage."""
    try:
        return bool(json.loads((folder / STATE).read_text(encoding="utf-8"))["epoch_end"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it neither stands in the way of a new one nor counts as kept."""
    names = (f"damaged-{folder.name}{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
    return folder.rename(next(aside for aside in map(folder.with_name, names) if not aside.exists()))


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds for going on, beside the model's weights.

    Args:
        optimizer: the optimiser's tensors.
        random: the random states.
        trained: the weights that train, where the model's file holds an average of them.
    """

    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    trained: dict[str, Tensor]


def read_training_state(folder: Path) -> TrainingState:
    """A checkpoint's optimiser tensors, random states and, under `train.ema`, weights that train."""
    tensors = load_file(folder / OPTIMIZER)
    random, trained = (
        {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        for prefix in (randomness.PREFIX, average.PREFIX)
    )
    return TrainingState(tensors, random, trained)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

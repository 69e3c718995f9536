"""Checkpoints, written whole or not at all: a temporary folder, synced, renamed, committed by its last file.

`clipft.model.runfiles` reads them; the file names are its constants.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipft.errors import ClipftError
from clipft.model.hashes import file_sha256
from clipft.model.plan import Plan
from clipft.model.runfiles import CHECKPOINTS, COMMIT, OPTIMIZER, STATE, WEIGHTS
from clipft.model.standstill import moving_modules

RNG_CPU, RNG_CUDA = "rng/cpu", "rng/cuda"


@dataclass(frozen=True)
class Kept:
    """A checkpoint on disk: the step it was taken at and its folder."""

    step: int
    folder: Path


def saved_names(model: nn.Module, plan: Plan, *, everything: bool) -> list[str]:
    """Which tensors of the state dict a checkpoint holds: what trains and the buffers that move.

    Args:
        model: the model with its classifier.
        plan: what trains.
        everything: hold the frozen tensors too, since a random base cannot be fetched again.
    """
    state = model.state_dict()
    if everything:
        return list(state)
    trains = {p.name for p in plan.trainable}
    moving = {name for name, _ in moving_modules(model, plan)}
    buffers = {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in moving}
    return [name for name in state if name in trains or name in buffers]


def write_checkpoint(
    run: Path, step: int, *, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write `checkpoints/step-000123` and return it.

    Raises:
        ClipftError: the disk is full or not writable; nothing half-written stays under the final name.
    """
    folder = run / CHECKPOINTS / f"step-{step:06d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, temporary / WEIGHTS)
        save_file({name: t.detach().cpu().contiguous() for name, t in optimizer.items()}, temporary / OPTIMIZER)
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
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ClipftError(
            f"{folder}: the checkpoint could not be written ({error}); free some disk and run the same command to go on"
        ) from error
    return folder


def point_to(run: Path, name: str, folder: Path, facts: dict[str, Any]) -> None:
    """Write `last.json` or `best.json`: which folder it is, and why."""
    target = run / CHECKPOINTS / f"{name}.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps({"folder": folder.name, **facts}, indent=1), encoding="utf-8")
    _sync(temporary)
    temporary.replace(target)
    _sync(target.parent)


def prune(kept: Iterable[Kept], *, last: int, best: int | None) -> list[Kept]:
    """Delete all but the newest `last` checkpoints and the one of step `best`; returns what stays."""
    ordered = sorted(kept, key=lambda k: k.step)
    stay = [k for i, k in enumerate(ordered) if i >= len(ordered) - last or k.step == best]
    for old in ordered:
        if old not in stay:
            shutil.rmtree(old.folder, ignore_errors=True)
    return stay


def committed(run: Path) -> list[Kept]:
    """The checkpoints of a run that were written to the end, oldest first."""
    folders = sorted((run / CHECKPOINTS).glob("step-*"))
    return [Kept(int(f.name.removeprefix("step-")), f) for f in folders if (f / COMMIT).is_file()]


def random_states() -> dict[str, Tensor]:
    """Torch's random states, which dropout draws from; order and augmentation need none."""
    states = {RNG_CPU: torch.get_rng_state()}
    if torch.cuda.is_available():
        states[RNG_CUDA] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Tensor]) -> None:
    """Put back what `random_states` took."""
    torch.set_rng_state(states[RNG_CPU])
    if RNG_CUDA in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[RNG_CUDA])


def read_training_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's optimiser tensors, random states and state.json."""
    tensors = load_file(folder / OPTIMIZER)
    random = {name: tensors.pop(name) for name in (RNG_CPU, RNG_CUDA) if name in tensors}
    return tensors, random, json.loads((folder / STATE).read_text(encoding="utf-8"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

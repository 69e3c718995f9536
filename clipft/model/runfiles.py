"""A run's folder on disk: its files' names, which checkpoint to take, and whether it is whole.

safetensors and JSON only: nothing that is read is run (P39).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.errors import InputError
from clipft.model.hashes import file_sha256
from clipft.model.json_file import read_object
from clipft.words import some

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
COMMIT = "COMMIT.json"
FORMAT = 1

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, its weights not yet read.

    Args:
        run: the run's folder.
        folder: the checkpoint's.
        config: the run's.
        state: the content of state.json.
    """

    run: Path
    folder: Path
    config: Config
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """The step it was taken at."""
        return int(self.state["step"])

    def tensors(self) -> dict[str, Tensor]:
        """The saved tensors, exactly those that state.json lists (P52)."""
        path = self.folder / WEIGHTS
        try:
            tensors: dict[str, Tensor] = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from None
        if odd := sorted(set(tensors) ^ set(self.state["saved"])):
            raise InputError(f"{path}: does not hold the tensors that {STATE} lists; these differ: {some(odd, 5)}")
        return tensors


def is_run(path: Path) -> bool:
    """Whether the path is a run, a checkpoint, or the weights file of a checkpoint."""
    folder = path if path.is_dir() else path.parent
    return (folder / COMMIT).is_file() or (path.is_dir() and (folder / CHECKPOINTS).is_dir())


def open_checkpoint(path: Path, which: Which | None = None) -> Checkpoint:
    """The checkpoint that the path names, verified.

    Args:
        path: a run, one of its checkpoints, or the weights file of one.
        which: of a run, the best or the last; None takes the best where `evaluate.best` is set, else the last.

    Raises:
        InputError: there is none, or a file of it is damaged.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise InputError(f"{path}: there is no such run or checkpoint")
    if (folder / STATE).is_file() or (folder / COMMIT).is_file():
        run = folder.parent.parent
    elif not path.is_dir():
        raise InputError(f"{path}: is a file, expected a run or a checkpoint of clipft")
    else:
        run, folder = folder, _choose(folder, which)
    verify(folder, (WEIGHTS, STATE))
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise InputError(f"{folder}: has format {state.get('format')}, and this clipft reads {FORMAT}; update clipft")
    return Checkpoint(run, folder, load_config(run / CONFIG, need_data=False).config, state)


def peek_state(path: Path) -> dict[str, Any]:
    """The content of state.json of the checkpoint that `open_checkpoint` would take, its weights neither read nor
    verified.
    """
    folder = path if path.is_dir() else path.parent
    return read_object((folder if (folder / STATE).is_file() else _choose(folder, None)) / STATE)


def verify(folder: Path, hashed: tuple[str, ...] = (WEIGHTS, OPTIMIZER, STATE)) -> None:
    """Check a checkpoint's files against its COMMIT.json: all sizes, and the sha256 of those in `hashed`.

    Raises:
        InputError: it was not written to the end, or a file was changed or damaged since; it is named.
    """
    commit = folder / COMMIT
    if not commit.is_file():
        raise InputError(f"{folder}: has no {COMMIT}, so it was not written to the end; take another checkpoint")
    files = read_object(commit).get("files")
    if not isinstance(files, dict) or not {WEIGHTS, STATE} <= files.keys():
        raise InputError(f"{commit}: does not list the checkpoint's files; take another checkpoint")
    for name, promised in files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: is missing; copy the checkpoint again or take another")
        if (size := file.stat().st_size) != promised["bytes"]:
            raise InputError(
                f"{file}: is damaged: {size} bytes, {promised['bytes']} were written; take another checkpoint"
            )
        if name in hashed and file_sha256(file) != promised["sha256"]:
            raise InputError(f"{file}: is damaged: its content is not what was written; take another checkpoint")


def _choose(run: Path, which: Which | None) -> Path:
    checkpoints = run / CHECKPOINTS
    if not checkpoints.is_dir():
        if (run / CONFIG).is_file():
            raise InputError(f"{run}: this run has no checkpoint yet; the command that began it goes on with it")
        raise InputError(f"{run}: is no run of clipft: it has no folder {CHECKPOINTS}")
    best, last = checkpoints / "best.json", checkpoints / "last.json"
    if which == "best" and not best.is_file():
        raise InputError(
            f"{run}: has no best checkpoint, since evaluate.best was null or nothing was measured; take last"
        )
    if which == "best" or (which is None and best.is_file()):
        return _pointed(best)
    if last.is_file():
        return _pointed(last)
    # a run that ended between its first checkpoint and the pointer to it
    whole = sorted(folder for folder in checkpoints.glob("step-*") if (folder / COMMIT).is_file())
    if not whole:
        raise InputError(f"{run}: has no checkpoint yet")
    return whole[-1]


def _pointed(pointer: Path) -> Path:
    name = read_object(pointer).get("folder")
    folder = pointer.parent / str(name)
    if not isinstance(name, str) or not folder.is_dir():
        raise InputError(
            f"{pointer}: names the checkpoint {name}, which is not there; name another checkpoint's folder"
        )
    return folder

"""metrics.jsonl: a line for each step and each evaluation, and TensorBoard events where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipft.errors import InputError

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends lines to a run's metrics.jsonl, flushed one by one.

    Args:
        run: the run's folder; None writes nothing (a dry run).
        tensorboard: whether to write events into `run/tensorboard` too.
        keep_to_step: on going on, lines of later steps are dropped first, since these steps come again.
    """

    def __init__(self, run: Path | None, *, tensorboard: bool = False, keep_to_step: int | None = None) -> None:
        self._file = None
        self._board: Any = None
        if run is None:
            return
        path = run / METRICS
        kept = _lines_to(path, keep_to_step) if keep_to_step is not None and path.exists() else []
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            self._board = _summary_writer(run / "tensorboard", keep_to_step)

    def write(self, kind: str, *, stage: int, epoch: int, step: int, board: str = "", **facts: Any) -> None:
        """Append a line; numbers inside it go to TensorBoard too, under `board` or the kind."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "stage": stage, "epoch": epoch, "step": step, **facts}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _numbers(facts, board or kind):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def check_tensorboard() -> None:
    """Refuse `run.tensorboard: true` where the package is missing, before anything is computed."""
    try:
        import tensorboard  # noqa: F401  # asked for, not used: torch's writer imports it later
    except ImportError:
        raise InputError(
            "run.tensorboard: the tensorboard package is missing; pip install 'clipft[tensorboard]'"
        ) from None


def _summary_writer(folder: Path, step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=None if step is None else step + 1)


def _lines_to(path: Path, step: int) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]


def _numbers(facts: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}/{key}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}/{key}", float(value)))
    return found

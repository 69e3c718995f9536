"""What of a run is saved: one sentence a field."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipft.config.values import Section


class KeepConfig(Section):
    """Which checkpoints stay on disk."""

    last: Annotated[int, Field(ge=1)] = 2
    """How many of the newest checkpoints to keep."""
    best: Literal[0, 1] = 1
    """Whether to keep the best one, where evaluate.best is set."""


class CheckpointConfig(Section):
    """What of a run is saved."""

    keep: KeepConfig = KeepConfig()

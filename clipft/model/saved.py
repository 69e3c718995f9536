"""What a run left, read back: the model with its weights, its config, classes and templates.

The layout of the folder and the names in it are `runfiles`'; `train/checkpoint.py` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipft.config.schema import Config
from clipft.model.clip_model import ClipModel
from clipft.model.restore import restore
from clipft.model.runfiles import Which, open_checkpoint


@dataclass(frozen=True)
class SavedModel:
    """A run's model as one checkpoint has it.

    Args:
        clip: the model; a classifier is at `clip.model.classifier`.
        config: the run's.
        state: the checkpoint's state.json.
        folder: the checkpoint's.
    """

    clip: ClipModel
    config: Config
    state: dict[str, Any]
    folder: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, index = label; none under captions."""
        return tuple(self.state["classes"])

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts that class names were put into."""
        return tuple(self.state["templates"])

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return int(self.state["step"])


def load_saved(path: Path, which: Which | None = None) -> SavedModel:
    """Load a run (its best checkpoint where `evaluate.best` is set, else its last) or one checkpoint of it.

    Raises:
        InputError: it is damaged, or the base it was trained over is not the one of then.
    """
    checkpoint = open_checkpoint(path, which)
    return SavedModel(restore(checkpoint), checkpoint.config, checkpoint.state, checkpoint.folder)

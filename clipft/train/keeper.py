"""A run's checkpoints as it goes: what they hold, which are kept, and how one is taken up again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from clipft.errors import ClipftError
from clipft.model.hashes import tensor_sha256, weights_sha256
from clipft.model.runfiles import FORMAT, WEIGHTS
from clipft.train.checkpoint import (
    committed,
    point_to,
    prune,
    random_states,
    read_training_state,
    restore_random_states,
    saved_names,
    write_checkpoint,
)
from clipft.train.evaluation import Evaluations
from clipft.train.loop import Best, Progress
from clipft.train.optim import load_named_state, named_state
from clipft.train.prepare import Prepared
from clipft.train.start import Started


@dataclass
class Keeper:
    """Writes and prunes the checkpoints of one run.

    Args:
        run: the run's folder.
        evaluations: whose newest figures a checkpoint records; None where nothing is measured.
    """

    run: Path
    prepared: Prepared
    started: Started
    progress: Progress
    evaluations: Evaluations | None
    _names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        clip = self.started.clip
        self._names = saved_names(clip.model, self.prepared.plan, everything=clip.random)

    @property
    def bytes(self) -> int:
        """The size of one checkpoint: its weights, and twice what trains for Adam's averages."""
        state = self.started.clip.model.state_dict()
        weights: int = sum(state[n].numel() * state[n].element_size() for n in self._names)
        slots = 1 if self.prepared.config.optim.name == "sgd" else 2
        return weights + slots * 4 * sum(p.numel for p in self.prepared.plan.trainable)

    def save(self, *, epoch_end: bool = True) -> None:
        """Write a checkpoint of now, point `last` (and `best`, if it is that) to it, and prune."""
        progress, model = self.progress, self.started.clip.model
        weights = {name: model.state_dict()[name] for name in self._names}
        optimizer = named_state(self.started.stepper.optimizer) | random_states()
        folder = write_checkpoint(
            self.run, progress.step, weights=weights, optimizer=optimizer, state=self._state(epoch_end=epoch_end)
        )
        where = {"step": progress.step, "epoch": progress.epoch}
        if epoch_end:
            point_to(self.run, "last", folder, where)
        if progress.best is not None and progress.best.step == progress.step:
            point_to(
                self.run,
                "best",
                folder,
                {**where, "metric": self.prepared.config.evaluate.best, "value": progress.best.value},
            )
        keep = self.prepared.config.checkpoint.keep
        best = None if progress.best is None or not keep.best else progress.best.step
        prune(committed(self.run), last=keep.last, best=best)

    def _state(self, *, epoch_end: bool) -> dict[str, Any]:
        prepared, clip, progress = self.prepared, self.started.clip, self.progress
        loss = prepared.config.loss
        head = {"num_classes": len(prepared.classes), "cosine": loss.cosine, "bias": loss.bias}
        return {
            "format": FORMAT,
            "step": progress.step,
            "epoch": progress.epoch,
            "epoch_end": epoch_end,
            "progress": dataclasses.asdict(progress),
            "classes": list(prepared.classes),
            "templates": list(prepared.config.data.templates),
            "loss": prepared.loss,
            "features": loss.features,
            "classifier": head if prepared.loss == "classifier" else None,
            "metrics": self.evaluations.latest if self.evaluations else {},
            "base_metrics": self.evaluations.base if self.evaluations else {},
            "best_metrics": self.evaluations.best if self.evaluations else {},
            "model": {"name": clip.name, "model_cfg": clip.model_cfg, "preprocess_cfg": clip.preprocess_cfg},
            "base": clip.base,
            "tokenizer": clip.tokenizer.identity(),
            "saved": self._names,
            "weights_sha256": weights_sha256(clip.model),
            "scaler": self.started.stepper.scaler.state_dict(),
            "threads": torch.get_num_threads(),
        }

    def take_up(self, folder: Path) -> None:
        """Bring weights, optimiser, random states and progress to where a checkpoint stands.

        Raises:
            ClipftError: the checkpoint was taken of another plan, or over another base.
        """
        optimizer, random, state = read_training_state(folder)
        weights = load_file(folder / WEIGHTS)
        if set(weights) != set(self._names):
            odd = sorted(set(weights) ^ set(self._names))
            raise ClipftError(
                f"{folder}: holds other tensors than this run trains ({len(odd)} differ, the first is "
                f"{odd[0]}); start anew with another run.dir"
            )
        model = self.started.clip.model
        model.load_state_dict(weights, strict=False)  # the frozen rest is the base's, checked next
        for name, tensor in model.state_dict().items():
            if state["weights_sha256"].get(name) != tensor_sha256(tensor):
                raise ClipftError(
                    f"{folder}: {name} differs from the checkpoint's: the base is not the one that this run "
                    f"started from"
                )
        load_named_state(self.started.stepper.optimizer, optimizer)
        self.started.stepper.scaler.load_state_dict(state["scaler"])
        restore_random_states(random)
        saved = dict(state["progress"])
        best = saved.pop("best")
        for name, value in saved.items():
            setattr(self.progress, name, value)
        self.progress.best = None if best is None else Best(**best)
        if self.evaluations is not None:
            self.evaluations.base = state["base_metrics"]
            self.evaluations.latest, self.evaluations.best = state["metrics"], state["best_metrics"]

"""A run's checkpoints as it goes: what they hold, which are kept, and how one is taken up again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipft.errors import ClipftError, InputError
from clipft.model.hashes import tensor_sha256
from clipft.model.restore import lay_over
from clipft.model.runfiles import FORMAT, open_checkpoint
from clipft.train.checkpoint import (
    checkpoint_folder,
    committed,
    point_to,
    prune,
    read_training_state,
    saved_names,
    write_checkpoint,
)
from clipft.train.evaluation import Evaluations
from clipft.train.loop import Best, Progress
from clipft.train.optim import load_named_state, named_state
from clipft.train.prepare import Prepared
from clipft.train.randomness import random_states, restore_random_states
from clipft.train.start import Started


@dataclass
class Keeper:
    """Writes and prunes the checkpoints of one run.

    Args:
        run: the run's folder.
        stages: the run's stages until the one that trains now.
        evaluations: whose newest figures a checkpoint records; None where nothing is measured.
        frozen: the hashes of all that stands still in this stage, taken once.
    """

    run: Path
    stages: tuple[Prepared, ...]
    started: Started
    progress: Progress
    evaluations: Evaluations | None
    frozen: dict[str, str] = field(default_factory=dict)
    _names: list[str] = field(init=False)  # of the tensors that a checkpoint holds

    def __post_init__(self) -> None:
        self._names = self._to_save()

    @property
    def prepared(self) -> Prepared:
        """The stage that trains now."""
        return self.stages[-1]

    def _to_save(self) -> list[str]:
        clip, plans = self.started.clip, [stage.plan for stage in self.stages]
        return saved_names(clip.model, plans, everything=clip.random, resized=clip.resized)

    def enter(self, prepared: Prepared, started: Started) -> None:
        """Go on with the next stage of the run."""
        self.stages, self.started = (*self.stages, prepared), started
        self._names = self._to_save()

    @property
    def bytes(self) -> int:
        """The size of one checkpoint: its weights, twice what trains for Adam's averages, once more under train.ema."""
        state = self.started.clip.model.state_dict()
        weights: int = sum(state[n].numel() * state[n].element_size() for n in self._names)
        slots = 1 if self.prepared.config.optim.name == "sgd" else 2
        trained = self.started.stepper.average.bytes
        return weights + slots * 4 * sum(p.numel for p in self.prepared.plan.trainable) + trained

    def save(self, *, epoch_end: bool = True) -> None:
        """Write a checkpoint of now, point `last` (and `best`, if it is that) to it, and prune."""
        progress, model, stepper = self.progress, self.started.clip.model, self.started.stepper
        optimizer = named_state(stepper.optimizer) | random_states(self.started.device) | stepper.average.state()
        with stepper.average.in_place():
            tensors = model.state_dict()
            weights = {name: tensors[name] for name in self._names}
            state = self._state(tensors, epoch_end=epoch_end)
            folder = write_checkpoint(self.run, progress.step, weights=weights, optimizer=optimizer, state=state)
        where = {"step": progress.step, "epoch": progress.epoch}
        if epoch_end:
            point_to(self.run, "last", folder, where)
        keep = self.prepared.config.checkpoint.keep
        if progress.best is not None and progress.best.step == progress.step:
            self._point_to_best()
        best = None if progress.best is None or not keep.best else progress.best.step
        prune(committed(self.run), last=keep.last, best=best)

    def _point_to_best(self) -> None:
        best = self.progress.best
        if best is None or not self.prepared.config.checkpoint.keep.best:
            return
        facts = {"step": best.step, "epoch": best.epoch, "metric": self.prepared.config.evaluate.best}
        point_to(self.run, "best", checkpoint_folder(self.run, best.step), {**facts, "value": best.value})

    def _state(self, tensors: Mapping[str, Tensor], *, epoch_end: bool) -> dict[str, Any]:
        prepared, clip, progress = self.prepared, self.started.clip, self.progress
        loss, average = prepared.config.loss, self.started.stepper.average
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
            "metrics": self.evaluations.of_step(progress.step) if self.evaluations else {},
            "base_metrics": self.evaluations.base if self.evaluations else {},
            "first_similarity": self.evaluations.first_similarity if self.evaluations else {},
            "best_metrics": self.evaluations.best if self.evaluations else {},
            "model": {"name": clip.name, "model_cfg": clip.model_cfg, "preprocess_cfg": clip.preprocess_cfg},
            "base": clip.base,
            "tokenizer": clip.tokenizer.identity(),
            "saved": self._names,
            "data_sha256": prepared.data_sha256,
            "weights_sha256": {n: self.frozen.get(n) or tensor_sha256(t) for n, t in tensors.items()},
            "ema": {"updates": average.updates} if average else None,
            "scaler": self.started.stepper.scaler.state_dict(),
            "threads": torch.get_num_threads(),
        }

    def take_up(self, folder: Path) -> tuple[str, ...]:
        """Bring weights, optimiser, random states and progress to where a verified checkpoint stands.

        Returns:
            What is worth saying about it.

        Raises:
            InputError: the data changed since, or the base is another one.
            ClipftError: the checkpoint was taken of another plan.
        """
        checkpoint = open_checkpoint(folder)
        weights = checkpoint.tensors()
        if set(weights) != set(self._names):
            odd = sorted(set(weights) ^ set(self._names))
            raise ClipftError(
                f"{folder}: holds other tensors than this run trains ({len(odd)} differ, the first is {odd[0]}); start "
                "anew with another run.dir"
            )
        state = checkpoint.state
        if state["data_sha256"] != self.prepared.data_sha256:
            raise InputError(
                f"{folder}: the data has changed since (other rows, captions or classes), so the order of training and "
                "what is held out would change too; put it back, or start anew with another run.dir"
            )
        lay_over(self.started.clip.model, weights, checkpoint)
        training, stepper = read_training_state(folder), self.started.stepper
        load_named_state(stepper.optimizer, training.optimizer)
        if stepper.average:
            stepper.average.take_up(training.trained, state["ema"]["updates"])
        stepper.scaler.load_state_dict(state["scaler"])
        restore_random_states(training.random, self.started.device)
        self._restore_progress(state)
        self._point_to_what_is_there(folder)
        threads = torch.get_num_threads()
        if state["threads"] == threads:
            return ()
        return (f"taken with {state['threads']} threads, now {threads}: the run goes on, but not to the last bit",)

    def _point_to_what_is_there(self, last: Path) -> None:
        """`last` and `best` may have named a later checkpoint that was damaged, and whose steps come again."""
        point_to(self.run, "last", last, {"step": self.progress.step, "epoch": self.progress.epoch})
        best, kept = self.progress.best, self.prepared.config.checkpoint.keep.best
        if best is not None and kept and not checkpoint_folder(self.run, best.step).is_dir():
            self.progress.best = None  # pruned in favour of the damaged one: the next evaluation is the best
        if self.progress.best is None:
            (last.parent / "best.json").unlink(missing_ok=True)
        self._point_to_best()

    def _restore_progress(self, state: dict[str, Any]) -> None:
        saved = dict(state["progress"])
        best = saved.pop("best")
        for name, value in saved.items():
            setattr(self.progress, name, value)
        self.progress.best = None if best is None else Best(**best)
        if self.evaluations is not None:
            self.evaluations.base = state["base_metrics"]
            self.evaluations.first_similarity = state.get("first_similarity", {})
            self.evaluations.take(state["metrics"], self.progress.step)
            self.evaluations.best = state["best_metrics"]

"""The loop: fetch, step, log, evaluate, save. One stage of a run, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from clipft.data.batches import Batch, TrainBatches
from clipft.train.optim import Schedule, set_rates
from clipft.train.step import Stepper, StepResult


@dataclass
class Best:
    """The best evaluation so far."""

    value: float
    step: int
    epoch: int


@dataclass
class Progress:
    """Where a run stands; a checkpoint saves it.

    Args:
        step: optimiser steps taken.
        epoch: epochs finished.
        best: the best evaluation of `evaluate.best`, the base aside.
        since_best: evaluations of the stage since the metric that early stopping watches last improved.
        watched: that metric's best value in the stage so far.
        skipped: steps that a loss scaler refused.
        stopped_early: whether early stopping has ended the stage.
        epoch_losses: of the epoch under way.
    """

    step: int = 0
    epoch: int = 0
    best: Best | None = None
    since_best: int = 0
    watched: float | None = None
    skipped: int = 0
    stopped_early: bool = False
    epoch_losses: list[float] = field(default_factory=list)

    def enter_stage(self, epoch: int, step: int) -> None:
        """Go on where the plan has the next stage begin, with patience anew; early stopping has left steps out."""
        self.epoch, self.step = epoch, step
        self.since_best, self.watched, self.stopped_early = 0, None, False


@dataclass(frozen=True)
class StepFacts:
    """What one step tells those who watch.

    Args:
        seconds: the whole step, waiting included.
        waited: the part of it spent waiting for data.
    """

    epoch: int
    step: int
    result: StepResult
    batch: Batch
    seconds: float
    waited: float


class Watcher(Protocol):
    """Those who watch a run: the display, the log, the metrics file."""

    def epoch_begins(self, epoch: int) -> None:
        """An epoch (counted from 1) begins."""
        ...

    def step(self, facts: StepFacts) -> None:
        """A step was taken."""
        ...

    def epoch_ends(self, epoch: int, losses: list[float]) -> None:
        """An epoch has ended and was measured, where that is due; it is saved next."""
        ...


@dataclass(frozen=True)
class Rhythm:
    """When to measure.

    Args:
        epochs: epochs of the run until the stage's end.
        evaluate_every: steps between evaluations, or None for each epoch's end.
        first_epoch: which epoch of order and augmentation the run begins with.
    """

    epochs: int
    evaluate_every: int | None = None
    first_epoch: int = 0


def run_loop(
    stepper: Stepper,
    batches: TrainBatches,
    schedule: Schedule,
    progress: Progress,
    rhythm: Rhythm,
    watcher: Watcher,
    *,
    evaluate: Callable[[], bool],
    save: Callable[[], None],
) -> None:
    """Train from where `progress` stands to the stage's last epoch.

    Args:
        stepper: takes a step.
        batches: gives an epoch's batches in an order of seed and epoch alone.
        schedule: the rate at each step.
        progress: changed in place.
        rhythm: how long, and when to measure.
        watcher: told of everything.
        evaluate: measures, puts the model back into training and says whether to go on.
        save: writes a checkpoint at an epoch's end.
    """
    while progress.epoch < rhythm.epochs and not progress.stopped_early:
        epoch = progress.epoch + 1
        watcher.epoch_begins(epoch)
        progress.epoch_losses = []
        for batch, waited, started in _timed(batches.epoch(rhythm.first_epoch + progress.epoch)):
            set_rates(stepper.optimizer, schedule, progress.step)
            result = stepper(batch)
            progress.step += 1
            progress.skipped += result.skipped
            progress.epoch_losses.append(result.loss)
            seconds = time.perf_counter() - started
            watcher.step(StepFacts(epoch, progress.step, result, batch, seconds, waited))
            if rhythm.evaluate_every and progress.step % rhythm.evaluate_every == 0 and progress.step < schedule.end:
                progress.stopped_early = not evaluate()
                if progress.stopped_early:
                    break
        progress.epoch = epoch
        last = epoch == rhythm.epochs
        if not progress.stopped_early and (rhythm.evaluate_every is None or last):
            progress.stopped_early = not evaluate() and not last
        watcher.epoch_ends(epoch, progress.epoch_losses)
        save()


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float, float]]:
    """Each batch with the seconds it was waited for and when the waiting began."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - started, started

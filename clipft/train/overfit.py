"""A single batch, again and again: can this model learn this data at these rates at all (P18)?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from clipft.config.load import Loaded
from clipft.config.schema import Config
from clipft.data.augment import train_transform
from clipft.data.batches import Batch, TrainBatches
from clipft.data.columns import Ints
from clipft.data.draws import ORDER, shuffled
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.model.standstill import set_modes
from clipft.report.train_view import Pulse, TrainView
from clipft.train.opening import show_start
from clipft.train.optim import Schedule, set_rates
from clipft.train.prepare import Prepared, prepare
from clipft.train.start import Started, start
from clipft.train.watch import peak_memory, peak_rates

MOST_ROWS = 64
WARMUP = 5


@dataclass(frozen=True)
class Overfit:
    """What came of it.

    Args:
        rows: in the batch.
        losses: of each step.
        chance: the loss of guessing.
        goal: half of the first loss, or of chance where that is lower.
    """

    rows: int
    losses: tuple[float, ...]
    chance: float
    goal: float

    @property
    def learns(self) -> bool:
        """Whether the loss came down to the goal."""
        return self.losses[-1] <= self.goal


def overfit(loaded: Loaded, view: TrainView, *, steps: int) -> Overfit:
    """Train on one batch at the config's rates until its loss reaches the goal, or for `steps`; nothing is written.

    Without augmentation, label smoothing and pulls to the base, so that the loss could come to zero.
    """
    prepared = prepare(_plain(loaded.config))
    if prepared.searches:
        raise InputError("strategy: where logit_scale alone trains, no row can be learnt; choose another for overfit")
    train = prepared.splits.train
    started = start(prepared)
    show_start(prepared, started, view)
    batch = _read(train.take(one_batch(prepared)), prepared, started)
    for fault in batch.faults:
        view.warn(str(fault))
    if prepared.loss != "classifier" and len(set(batch.indices.tolist())) < 2:
        raise InputError(f"data.train: {train.name} has no two readable rows that differ in image, caption and class")
    apart = "" if prepared.loss == "classifier" else " that share no caption, class or image"
    words = f"{len(batch.captions)} of {len(train)}{apart}, again and again, as they are; nothing is written"
    view.facts([("rows", words)])
    found = _repeat(batch, prepared, started, view, steps)
    view.facts([("loss", _in_words(found)), ("verdict", _verdict(found))])
    return found


def one_batch(prepared: Prepared) -> Ints:
    """Up to 64 rows in an order of the seed, no more than the run's own batch has, so that memory suffices.

    Where the loss compares rows with each other, no two of them share a caption, a class or an image.
    """
    rows, config = prepared.splits.train, prepared.config
    order = shuffled(len(rows), ORDER, config.run.seed)
    if prepared.loss != "classifier":
        order = order[told_apart(rows.take(order))]
    return order[: min(MOST_ROWS, config.train.batch_size)]


def told_apart(rows: Rows) -> list[int]:
    """The first rows, 64 at most, of which no two share a caption, a class or an image."""
    seen: set[tuple[str, object]] = set()
    chosen: list[int] = []
    for index in range(len(rows)):
        facts: set[tuple[str, object]] = {("image", int(rows.identities[index]))}
        if rows.labels is not None and rows.labels[index] >= 0:
            facts.add(("class", int(rows.labels[index])))
        if rows.captions is not None:
            facts.add(("caption", rows.captions[index]))
        if seen.isdisjoint(facts):
            seen |= facts
            chosen.append(index)
        if len(chosen) == MOST_ROWS:
            break
    return chosen


def _plain(config: Config) -> Config:
    data = config.data.model_copy(update={"augment": "none"})
    loss = config.loss.model_copy(update={"label_smoothing": 0.0})
    train = config.train.model_copy(update={"regularize": None, "ema": None})
    return config.model_copy(update={"data": data, "loss": loss, "train": train})


def _read(rows: Rows, prepared: Prepared, started: Started) -> Batch:
    batches = TrainBatches(
        rows,
        train_transform(started.clip.preprocess_cfg, None),
        templates=prepared.config.data.templates,
        batch_size=len(rows),
        seed=prepared.config.run.seed,
        workers=0,
        max_bad_fraction=1.0,
    )
    return next(batches.epoch(0))


def _repeat(batch: Batch, prepared: Prepared, started: Started, view: TrainView, steps: int) -> Overfit:
    stepper, schedule = started.stepper, Schedule("constant", steps, min(WARMUP, steps - 1), 0.0)
    chance = started.objective.chance(len(batch.captions))
    peaks = peak_rates(prepared)
    losses: list[float] = []
    set_modes(started.clip.model, prepared.plan, training=True)
    view.begin(1, steps)
    view.epoch(1)
    try:
        while len(losses) < steps and not (losses and losses[-1] <= _goal(losses, chance)):
            began = time.monotonic()
            set_rates(stepper.optimizer, schedule, len(losses))
            losses.append(stepper(batch).loss)
            scale = started.clip.scale if started.objective.needs_text else None
            rates = {part: schedule.rate(peak, len(losses) - 1) for part, peak in peaks.items()}
            whole_process = started.device.type != "cuda"
            pulse = Pulse(losses[-1], chance, rates, scale, peak_memory(started.device), None, whole_process)
            view.step(pulse, rows=len(batch.captions), seconds=time.monotonic() - began, waited=0.0)
    finally:
        view.stop()
    return Overfit(len(batch.captions), tuple(losses), chance, _goal(losses, chance))


def _goal(losses: Sequence[float], chance: float) -> float:
    return min(losses[0], chance) / 2


def _in_words(found: Overfit) -> str:
    first, last = found.losses[0], found.losses[-1]
    return f"{first:.3f} -> {last:.3f} in {len(found.losses)} steps; chance is {found.chance:.3f}"


def _verdict(found: Overfit) -> str:
    if found.learns:
        return (
            "this model learns these rows at these rates; where the whole run does not, look at its captions "
            "(do they tell the images apart?), its augmentation and its number of steps"
        )
    return (
        f"the loss did not come down to {found.goal:.3f}, half of where it could have begun. If it fell all the way, "
        "raise optim.lr (or optim.lr_heads) or let more train; if it stood or rose, lower them; if it did not move "
        "under any rate, the images or captions are not what they should be"
    )

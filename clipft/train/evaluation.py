"""Evaluations during a run: measured on data.val, logged, and the judge of the best checkpoint and of stopping."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from clipft.config.schema import Config
from clipft.data.batches import resolve_workers
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.evaluate.measure import Measurement, figure_names, higher_is_better, measure
from clipft.model.standstill import set_modes
from clipft.report.train_view import TrainView
from clipft.train.loop import Best, Progress
from clipft.train.losses import Features, Targets
from clipft.train.metrics_log import MetricsLog
from clipft.train.prepare import Prepared
from clipft.train.start import Started


@dataclass
class Evaluations:
    """Measures a run on its validation rows.

    Args:
        rows: the validation rows.
        on_best: called when a best is found, to save it where evaluations are not at epochs' ends.
        base: the metrics of epoch 0.
        latest: the figures of the newest evaluation.
        best: the figures of the best one.
    """

    prepared: Prepared
    started: Started
    progress: Progress
    rows: Rows
    view: TrainView
    log: MetricsLog
    base: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    on_best: Callable[[], None] = lambda: None
    _latest_step: int = field(init=False, default=0)
    _named: set[str] = field(init=False, default_factory=set)

    def measure_base(self) -> Measurement:
        """Epoch 0: the base's own figures, the first row of the table."""
        measurement = self._measure()
        self.base = measurement.figures()
        self.view.table_head(self.base)
        self.view.table_row("base", None, self.base)
        self._write(measurement)
        return measurement

    def __call__(self) -> bool:
        """Measure; whether to go on."""
        measurement = self._measure()
        self.take(measurement.figures(), self.progress.step)
        best = self._note_best()
        losses = self.progress.epoch_losses
        mean = sum(losses) / len(losses) if losses else None
        self.view.table_row(f"{self.progress.step / self._per_epoch:.3g}", mean, self.latest, best=best)
        self._write(measurement)
        if best:
            self.on_best()
        return self._go_on()

    @property
    def _per_epoch(self) -> int:
        return self.prepared.arithmetic.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch that the step belongs to, counted from 1; 0 is the base."""
        return -(-self.progress.step // self._per_epoch)

    def enter(self, prepared: Prepared, started: Started) -> None:
        """Go on with another stage of the run."""
        self.prepared, self.started = prepared, started

    def take(self, figures: dict[str, float], step: int) -> None:
        """Make these the newest figures."""
        self.latest, self._latest_step = figures, step

    def of_step(self, step: int) -> dict[str, float]:
        """The figures measured at this step; none where it was not measured."""
        return self.latest if step == self._latest_step else {}

    def of_chosen(self) -> dict[str, float]:
        """The figures of the checkpoint that later commands take: the best where one is kept, else the last."""
        return self.best if self.best_is_kept else self.latest

    @property
    def best_is_kept(self) -> bool:
        """Whether there is a best checkpoint on disk."""
        return self.progress.best is not None and self.prepared.config.checkpoint.keep.best > 0

    def _measure(self) -> Measurement:
        config, started = self.prepared.config, self.started
        measurement = measure(
            started.clip,
            self.rows,
            templates=config.data.templates,
            batch_size=config.train.batch_size,
            workers=resolve_workers(config.data.workers),
            device=started.device,
            autocast=lambda: started.precision.autocast(started.device),
            loss=self._loss,
            pooled=config.loss.features == "pooled",
            watch=self.view.watch,
        )
        set_modes(started.clip.model, self.prepared.plan, training=True)
        self._name_unreadable(measurement)
        return measurement

    def _name_unreadable(self, measurement: Measurement) -> None:
        """Name each unreadable validation image once; too many of them end the run (P3)."""
        for fault in measurement.faults:
            if fault.path not in self._named:
                self._named.add(fault.path)
                self.view.warn(f"{fault}; it is not measured")
        limit = self.prepared.config.data.max_bad_fraction
        if len(measurement.faults) > limit * len(self.rows):
            raise InputError(
                f"{len(measurement.faults)} of {len(self.rows)} validation images cannot be decoded, more than the "
                f"{limit:.2%} of data.max_bad_fraction; the first is {measurement.faults[0]}. Mend or remove them"
            )

    def _write(self, measurement: Measurement) -> None:
        stage, epoch = self.prepared.stage.number, self.epoch
        self.log.write("evaluation", stage=stage, epoch=epoch, step=self.progress.step, **measurement.to_json())

    def _loss(self, image: Tensor, text: Tensor | None, captions: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return self.started.objective(Features(image, text), Targets(captions, labels, images))

    def _note_best(self) -> bool:
        name = self.prepared.config.evaluate.best
        if name is None:
            return False
        value, best = self.latest.get(name, math.nan), self.progress.best  # an earlier stage may not measure it
        if not math.isfinite(value) or (best is not None and not _better(name, value, best.value)):
            return False
        self.progress.best = Best(value, self.progress.step, self.epoch)
        self.best = self.latest
        return True

    def _go_on(self) -> bool:
        config = self.prepared.config
        early = config.train.early_stop
        if early is None:
            return True
        name = early.metric or config.evaluate.best
        assert name is not None  # the schema asks for one of them
        value = self.latest.get(name, math.nan)
        first = self.progress.watched is None and math.isfinite(value)
        if first or (self.progress.watched is not None and _better(name, value, self.progress.watched)):
            self.progress.watched, self.progress.since_best = value, 0
        else:
            self.progress.since_best += 1
        if self.progress.since_best < early.patience:
            return True
        self.view.say(
            f" {name} has not improved for {early.patience} evaluations: the run ends here (train.early_stop)"
        )
        return False


def check_metrics(config: Config, rows: Rows, loss: str) -> None:
    """Refuse a metric that this run does not measure, before anything is computed (P59).

    Raises:
        InputError: `evaluate.best` or `train.early_stop.metric` is none of those measured.
    """
    known = figure_names(rows, classifier=loss == "classifier", loss=True)
    asked = {"evaluate.best": config.evaluate.best}
    if config.train.early_stop is not None:
        asked["train.early_stop.metric"] = config.train.early_stop.metric
    for key, name in asked.items():
        if name is not None and name not in known:
            raise InputError(
                f"{key}: {name!r} is not measured on {rows.name} under a {loss} loss; this run measures "
                f"{', '.join(known)}"
            )


def _better(name: str, value: float, than: float) -> bool:
    return value > than if higher_is_better(name) else value < than

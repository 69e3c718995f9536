"""Evaluations during a run: measured on data.val, logged, shown, and held against the signs of a collapse.

Beside it evaluate.keep is watched for what is forgotten; its figures stand among the others as `keep.NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from clipft.config.source_schema import FolderSource, HandsSource, SidecarSource, Source, TableSource
from clipft.data.batches import resolve_workers
from clipft.data.folders import SPLITS
from clipft.data.rows import Rows
from clipft.errors import ClipftError
from clipft.evaluate.measure import KEPT, BatchLoss, Measurement, measure
from clipft.model.standstill import set_modes
from clipft.report.train_view import TrainView
from clipft.train.checkpoint import committed
from clipft.train.health import collapsed, end_of_collapse, may_pass
from clipft.train.judge import better, note_best, tired_of
from clipft.train.loop import Progress
from clipft.train.losses import Features, Targets, ZeroShot
from clipft.train.metrics_log import MetricsLog
from clipft.train.prepare import Prepared
from clipft.train.start import Started
from clipft.train.unreadable import tell_unreadable

BEHIND = "(best) is the best of this run so far, and yet worse than its base"


@dataclass
class Evaluations:
    """Measures a run on its validation rows, and on those to watch for forgetting.

    The figure `loss` is what training minimises, label smoothing and class weights included, less what
    `train.regularize` adds: under contrastive and siglip over batches of the training size, under classifier and
    zero_shot among the classes that train; a search among classes has none, since it minimises `nll`. Novel classes and
    their rows have no part in a zero_shot loss; `nll` is the plain one over all classes.

    Args:
        rows: the validation rows.
        run: the run's folder; None in a rehearsal.
        keep: rows to watch for forgetting; None watches none.
        on_best: called when a best is found, to save it where evaluations are not at epochs' ends.
        base: the metrics of epoch 0.
        first_similarity: how alike different things are before the first step; beside prompt vectors or a feature
            adapter the higher of what they are to the base and to the model with these.
        latest: the figures of the newest evaluation.
        best: the figures of the best one.
        unreadable: paths of images that were told of, so that each is named once.
    """

    prepared: Prepared
    started: Started
    progress: Progress
    rows: Rows
    view: TrainView
    log: MetricsLog
    run: Path | None = None
    keep: Rows | None = None
    base: dict[str, float] = field(default_factory=dict)
    first_similarity: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    on_best: Callable[[], None] = lambda: None
    _latest_step: int = field(init=False, default=0)
    _warned: bool = field(init=False, default=False)
    _behind_said: bool = field(init=False, default=False)

    def measure_base(self) -> None:
        """Epoch 0: the base's own figures, the first row of the table."""
        clip = self.started.clip
        with clip.as_base():  # it has no vectors and no feature adapter; those of now are drawn
            found, kept = self._measure()
        self.base, self.first_similarity = _figures(found, kept), found.similarity
        if (clip.image.drawn | clip.text.drawn) - {"projection"}:  # what is added and drawn can make all look alike
            drawn = self._on(self.rows, self.prepared.config.data.templates).similarity
            self.first_similarity = {name: max(value, drawn[name]) for name, value in found.similarity.items()}
        self.table_head()
        self.view.table_row("base", None, self.base)

    def shorten(self, count: int) -> None:
        """Measure on so many rows of each source only, for a rehearsal."""
        self.rows = _spread(self.rows, count)
        self.keep = None if self.keep is None else _spread(self.keep, count)

    def table_head(self) -> None:
        """The head of the table; it says where the rows below the base's are of an average."""
        if self._ema:
            self.view.say(" ema: all below the base is measured with the average of the weights")
        evaluate = self.prepared.config.evaluate
        kept = "" if evaluate.keep is None else short_name(evaluate.keep)
        self.view.table_head(self.base, kept=kept, chooses=evaluate.best, searches=self.prepared.searches)

    def __call__(self) -> bool:
        """Measure; whether to go on.

        Raises:
            ClipftError: the embeddings have collapsed; nothing of now is saved.
        """
        found, kept = self._measure()
        self._check_collapse(found)
        self.take(_figures(found, kept), self.progress.step)
        best = note_best(self.prepared.config.evaluate.best, self.latest, self.progress, self.epoch)
        losses = self.progress.epoch_losses
        mean = sum(losses) / len(losses) if losses else None
        behind = best and not self.prepared.searches and self.behind_base(self.prepared.config.evaluate.best)
        mark = "(best)" if behind else "best" if best else ""
        if self.prepared.searches:
            self.view.table_row("found", mean, self.latest)
        else:
            self.view.table_row(f"{self.progress.step / self._per_epoch:.3g}", mean, self.latest, mark=mark)
        if behind and not self._behind_said:
            self._behind_said = True
            self.view.note(BEHIND)
        if best:
            self.best = self.latest
            self.on_best()
        tired = tired_of(self.prepared.config, self.latest, self.progress)
        if tired is not None:
            self.view.say(f" {tired}: {self.prepared.stage.stopped_in_words()}")
        return tired is None

    def behind_base(self, figure: str | None) -> bool:
        """Whether the newest evaluation is worse than the base by this figure, where both have it."""
        there = figure in self.latest and figure in self.base
        return figure is not None and there and better(figure, self.base[figure], self.latest[figure])

    @property
    def _ema(self) -> bool:
        """Whether an average of the weights is measured."""
        return bool(self.started.stepper.average)

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

    def _measure(self) -> tuple[Measurement, Measurement | None]:
        """Measure both sources and log what was found."""
        data, evaluate = self.prepared.config.data, self.prepared.config.evaluate
        by_class = self.prepared.searches and self.prepared.asks_classes  # not what the rows' own texts would give
        found = self._on(self.rows, data.templates, loss=None if by_class else self._loss)
        self._write(found)
        if self.keep is None:
            return found, None
        kept = self._on(self.keep, evaluate.keep_templates or data.templates, by_classifier=False)
        self._write(kept, keep=True)
        return found, kept

    def _on(
        self, rows: Rows, templates: Sequence[str], *, loss: BatchLoss | None = None, by_classifier: bool = True
    ) -> Measurement:
        config, started, objective = self.prepared.config, self.started, self.started.objective
        with started.stepper.average.in_place():
            measurement = measure(
                started.clip,
                rows,
                templates=templates,
                batch_size=config.train.batch_size,
                workers=resolve_workers(config.data.workers),
                device=started.device,
                autocast=lambda: started.precision.autocast(started.device),
                loss=loss,
                among=objective.trained.cpu() if loss is not None and isinstance(objective, ZeroShot) else None,
                by_classifier=by_classifier,
                pooled=config.loss.features == "pooled",
                watch=self.view.watch,
            )
        set_modes(started.clip.model, self.prepared.plan, training=True)
        tell_unreadable(
            measurement.faults, measurement.data, len(rows), config.data.max_bad_fraction, self.view, self.unreadable
        )
        return measurement

    def _check_collapse(self, measurement: Measurement) -> None:
        what = collapsed(self.first_similarity, measurement.similarity)
        if what is None:
            return
        clip = self.started.clip
        if clip.random or "projection" in clip.image.drawn | clip.text.drawn:
            if not self._warned:
                self.view.warn(may_pass(what))
            self._warned = True
            return
        sound = [kept for kept in committed(self.run) if kept.step <= self._latest_step] if self.run else []
        rates = sorted({group["peak"] for group in self.started.stepper.optimizer.param_groups}, reverse=True)
        raise ClipftError(end_of_collapse(what, rates, sound[-1] if sound else None))

    def _write(self, measurement: Measurement, *, keep: bool = False) -> None:
        where = {"stage": self.prepared.stage.number, "epoch": self.epoch, "step": self.progress.step}
        facts = measurement.to_json() | ({"weights": "ema"} if self._ema else {})
        self.log.write("evaluation", **where, keep=keep, board="keep" if keep else "", **facts)

    def _loss(self, image: Tensor, text: Tensor | None, captions: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return self.started.objective(Features(image, text), Targets(captions, labels, images))


def short_name(source: Source) -> str:
    """What a narrow column calls a source: `clothing` of folder data/clothing/test, `captions` of a captions.csv."""
    match source:
        case HandsSource():
            return source.builtin
        case FolderSource(folder=path) | SidecarSource(sidecar=path) | TableSource(table=path):
            names = [Path(part).stem for part in reversed(Path(path).parts)]
            return next((name for name in names if name.lower() not in SPLITS), names[0] if names else path)


def _figures(found: Measurement, kept: Measurement | None) -> dict[str, float]:
    """The figures by name, those of the rows that are watched for forgetting with a name of their own."""
    watched = {} if kept is None else {f"{KEPT}{name}": value for name, value in kept.figures().items()}
    return found.figures() | watched


def _spread(rows: Rows, count: int) -> Rows:
    """So many rows, evenly spread over all of them."""
    return rows.take(np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=np.int64))

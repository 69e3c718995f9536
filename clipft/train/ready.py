"""A run between its plan and its first step: weights loaded, folder open, all that can be refused refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clipft.config.data_schema import AugmentConfig
from clipft.config.load import Loaded
from clipft.data.augment import train_transform
from clipft.data.batches import TrainBatches, resolve_workers
from clipft.model.runfiles import peek_state
from clipft.report.train_view import TrainView
from clipft.train.evaluation import Evaluations
from clipft.train.folder import RunFolder
from clipft.train.judge import check_metrics
from clipft.train.keeper import Keeper
from clipft.train.loop import Progress
from clipft.train.metrics_log import MetricsLog, check_tensorboard
from clipft.train.opening import disk_in_words, show_plan, show_start
from clipft.train.prepare import Prepared, prepare_stages
from clipft.train.record import open_folder
from clipft.train.start import Started, next_stage, start


@dataclass
class Ready:
    """A run whose weights are loaded.

    Args:
        prepared: the stage that trains now, or comes next.
        later: the stages after it.
        started: what that stage trains with.
        evaluations: None where nothing is measured.
        checked: how many frozen tensors were found unmoved at the end of their stage.
        said: kinds of warnings that the run has said.
        named: images that could not be read and were named.
    """

    prepared: Prepared
    later: tuple[Prepared, ...]
    started: Started
    progress: Progress
    view: TrainView
    log: MetricsLog
    evaluations: Evaluations | None
    keeper: Keeper
    checked: int = 0
    said: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)

    def next_stage(self) -> None:
        """Put the next stage's plan on the model."""
        self.prepared, *later = self.later
        self.later = tuple(later)
        self.progress.enter_stage(self.prepared.stage.first_epoch, self.prepared.stage.first_step)
        self.started = next_stage(self.prepared, self.started)
        self.keeper.enter(self.prepared, self.started)
        if self.evaluations is not None:
            self.evaluations.enter(self.prepared, self.started)


def get_ready(loaded: Loaded, folder: RunFolder, view: TrainView, *, write: bool) -> Ready:
    """Config to weights: everything that can be refused is refused here, before anything is written or measured."""
    config = loaded.config
    if config.run.tensorboard:
        check_tensorboard()
    stages = prepare_stages(config)
    if stages[0].splits.val is not None:
        losses, by_class = [stage.loss for stage in stages], stages[0].searches and stages[0].asks_classes
        check_metrics(config, stages[0].splits.val, losses, stages[0].keep, without_loss=by_class)
    number = _stage_of(folder, stages)
    show_plan(stages, loaded, view, folder.notes, resumes=folder.resume_from is not None)
    prepared = stages[number]
    started = start(prepared)
    show_start(prepared, started, view)
    if write:
        open_folder(folder, config, [stage.plan for stage in stages])
        view.log_to(folder.path / "log.txt")
    resumed_at = None if folder.resume_from is None else int(folder.resume_from.name.removeprefix("step-"))
    progress = Progress()
    path = folder.path if write else None
    log = MetricsLog(path, tensorboard=config.run.tensorboard, keep_to_step=resumed_at)
    rows = prepared.splits.val
    evaluations = None
    if rows is not None:
        evaluations = Evaluations(prepared, started, progress, rows, view, log, path, prepared.keep)
    keeper = Keeper(folder.path, stages[: number + 1], started, progress, evaluations)
    view.facts([("disk", disk_in_words(keeper, stages))])
    return Ready(prepared, stages[number + 1 :], started, progress, view, log, evaluations, keeper)


def _stage_of(folder: RunFolder, stages: Sequence[Prepared]) -> int:
    """The stage that wrote the checkpoint to go on from; the first for a new run."""
    if folder.resume_from is None:
        return 0
    epoch: int = peek_state(folder.resume_from)["epoch"]
    return next(number for number, prepared in enumerate(stages) if epoch <= prepared.stage.last_epoch)


def training_batches(prepared: Prepared, started: Started) -> TrainBatches:
    """The batches that a stage trains on; to be closed."""
    data = prepared.config.data
    augment = data.augment if isinstance(data.augment, AugmentConfig) else None
    return TrainBatches(
        prepared.splits.train,
        train_transform(started.clip.preprocess_cfg, augment),
        templates=data.templates,
        batch_size=prepared.config.train.batch_size,
        seed=prepared.config.run.seed,
        workers=resolve_workers(data.workers),
        max_bad_fraction=data.max_bad_fraction,
        pin_memory=started.device.type == "cuda",
    )

"""One run, from a config to a finished folder: the story top to bottom."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import clipft
from clipft.config.data_schema import AugmentConfig
from clipft.config.dump import dump_config
from clipft.config.load import Loaded
from clipft.config.schema import Config
from clipft.data.augment import train_transform
from clipft.data.batches import TrainBatches, resolve_workers, worker_death
from clipft.data.captions import all_texts
from clipft.errors import ClipftError, InputError
from clipft.model.runfiles import CONFIG, peek_state
from clipft.model.standstill import frozen_hashes, set_modes
from clipft.report.train_view import TrainView, in_time
from clipft.train.checkpoint import set_aside, write_whole
from clipft.train.ending import Finished, show_end
from clipft.train.evaluation import Evaluations, check_metrics
from clipft.train.folder import RESULT, RunFolder, choose_folder, resolved
from clipft.train.interrupts import Interrupts, remember_interrupts
from clipft.train.keeper import Keeper
from clipft.train.loop import Progress, Rhythm, run_loop
from clipft.train.metrics_log import MetricsLog, check_tensorboard
from clipft.train.opening import disk_in_words, resume_in_words, show_plan, show_stage, show_start
from clipft.train.optim import set_rates
from clipft.train.prepare import Prepared, prepare_stages
from clipft.train.scale_search import search_scale
from clipft.train.start import Started, next_stage, start
from clipft.train.watch import Watch

SHEET = "first-batch.jpg"


@dataclass
class Ready:
    """A run whose weights are loaded.

    Args:
        prepared: the stage that trains now, or comes next.
        later: the stages after it.
        started: what that stage trains with.
        evaluations: None where nothing is measured.
        checked: how many frozen tensors were found unmoved at the end of their stage.
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

    def next_stage(self) -> None:
        """Put the next stage's plan on the model."""
        self.prepared, *later = self.later
        self.later = tuple(later)
        self.started = next_stage(self.prepared, self.started)
        self.keeper.enter(self.prepared, self.started)
        if self.evaluations is not None:
            self.evaluations.enter(self.prepared, self.started)


def train(loaded: Loaded, name: str, view: TrainView, *, resume: bool = False) -> Finished:
    """Train what a config asks for and return what came of it.

    Args:
        loaded: the checked config.
        name: the config file's stem, which names the run.
        view: the display.
        resume: the user expects an unfinished run to go on with.
    """
    began = time.monotonic()
    folder = choose_folder(loaded.config, name, resume=resume)
    ready = _get_ready(loaded, folder, view, write=True)
    last = (ready.prepared, *ready.later)[-1]
    view.begin(last.stage.last_epoch, last.arithmetic.steps_per_epoch)
    try:
        with remember_interrupts() as interrupts:
            if folder.resume_from is None:
                if ready.evaluations is not None:
                    ready.evaluations.measure_base()
            else:
                _take_up(ready, folder.resume_from, folder.damaged)
            _train(ready, interrupts)
            while ready.later and not ready.progress.stopped_early:
                ready.next_stage()
                show_stage(ready.prepared, view)
                _train(ready, interrupts)
    finally:
        view.stop()
        ready.log.close()
    finished = _finish(ready)
    show_end(finished, ready.prepared, ready.progress, view, time.monotonic() - began)
    return finished


def dry_run(loaded: Loaded, name: str, view: TrainView) -> None:
    """Everything up to one step and one evaluation batch, then say what would happen; nothing is written."""
    folder = choose_folder(loaded.config, name, resume=False)
    if folder.resume_from is not None:
        rehearsal = f"{folder.path} holds an unfinished run; this rehearsal begins with the base"
        folder = replace(folder, notes=(*folder.notes[:-1], rehearsal))  # in place of "going on with"
    ready = _get_ready(loaded, folder, view, write=False)
    prepared, stepper = ready.prepared, ready.started.stepper
    if ready.evaluations is not None:
        rows = len(ready.evaluations.rows)
        ready.evaluations.shorten(loaded.config.train.batch_size)
        view.note(f"the base on one evaluation batch, {len(ready.evaluations.rows)} of {rows} rows:")
        ready.evaluations.measure_base()
    if prepared.searches:
        words = f"the search for {prepared.plan.trainable[0].name} is left out; it would write to {folder.path}"
        view.facts([("dry run", f"{words}. Nothing was written")])
        return
    frozen = frozen_hashes(ready.started.clip.model, prepared.plan)
    set_modes(ready.started.clip.model, prepared.plan, training=True)
    begin = time.monotonic()
    batches = _batches(prepared, ready.started)
    batch = next(batches.epoch(loaded.config.train.first_epoch))
    set_rates(stepper.optimizer, ready.started.schedule, 0)
    stepper(batch)
    seconds = time.monotonic() - begin
    batches.close()
    check_frozen(frozen, frozen_hashes(ready.started.clip.model, prepared.plan))
    last = (prepared, *ready.later)[-1]
    steps = last.stage.first_step + last.arithmetic.steps
    words = f"one step took {seconds:.1f} s, loading included; {steps} steps would take at most about "
    words += f"{in_time(seconds * steps)} and write to {folder.path}. Nothing was written"
    view.facts([("dry run", words)])


def _get_ready(loaded: Loaded, folder: RunFolder, view: TrainView, *, write: bool) -> Ready:
    """Config to weights: everything that can be refused is refused here, before anything is written or measured."""
    config = loaded.config
    if config.run.tensorboard:
        check_tensorboard()
    stages = prepare_stages(config)
    if stages[0].splits.val is not None:
        check_metrics(config, stages[0].splits.val, [stage.loss for stage in stages], stages[0].keep)
    number = _stage_of(folder, stages)
    show_plan(stages, loaded, view, folder.notes)
    prepared = stages[number]
    started = start(prepared)
    show_start(prepared, started, view)
    if write:
        _open_folder(folder, config, stages)
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
    view.facts([("disk", disk_in_words(keeper, prepared))])
    return Ready(prepared, stages[number + 1 :], started, progress, view, log, evaluations, keeper)


def _stage_of(folder: RunFolder, stages: Sequence[Prepared]) -> int:
    """The stage that wrote the checkpoint to go on from; the first for a new run."""
    if folder.resume_from is None:
        return 0
    epoch: int = peek_state(folder.resume_from)["epoch"]
    return next(number for number, prepared in enumerate(stages) if epoch <= prepared.stage.last_epoch)


def _take_up(ready: Ready, checkpoint: Path, damaged: tuple[Path, ...]) -> None:
    for note in ready.keeper.take_up(checkpoint):
        ready.view.note(note)
    for old in damaged:
        ready.view.note(f"{old} is damaged and its steps come again: it is now called {set_aside(old).name}")
    ready.view.facts([("resume", resume_in_words(ready.progress, ready.started))])
    if ready.evaluations is not None:
        ready.evaluations.table_head()


def check_frozen(before: dict[str, str], after: dict[str, str]) -> int:
    """How many frozen tensors there are, all bit-identical.

    Raises:
        ClipftError: one of them moved, which no rule allows.
    """
    moved = [name for name, digest in before.items() if after.get(name) != digest]
    if moved:
        raise ClipftError(
            f"{len(moved)} frozen tensors changed during training, the first is {moved[0]}; this is a bug of clipft"
        )
    return len(before)


def _train(ready: Ready, interrupts: Interrupts) -> None:
    """One stage, and the proof that what it froze stood still."""
    model, plan, keeper = ready.started.clip.model, ready.prepared.plan, ready.keeper
    keeper.frozen = frozen_hashes(model, plan)
    if ready.prepared.searches:
        search_scale(
            ready.prepared, ready.started, ready.progress, ready.evaluations, ready.view, ready.log, save=keeper.save
        )
    else:
        _run_epochs(ready, interrupts)
    ready.checked += check_frozen(keeper.frozen, frozen_hashes(model, plan))


def _run_epochs(ready: Ready, interrupts: Interrupts) -> None:
    prepared, started, view, keeper = ready.prepared, ready.started, ready.view, ready.keeper
    config, evaluations = prepared.config, ready.evaluations
    _encode_frozen_texts(prepared, started, view)
    set_modes(started.clip.model, prepared.plan, training=True)
    every = config.evaluate.every
    rhythm = Rhythm(prepared.stage.last_epoch, None if every == "epoch" else every, config.train.first_epoch)
    if evaluations is not None and rhythm.evaluate_every is not None:
        evaluations.on_best = lambda: keeper.save(epoch_end=False)
    batches = _batches(prepared, started)
    try:
        run_loop(
            started.stepper,
            batches,
            started.schedule,
            ready.progress,
            rhythm,
            Watch(prepared, started, view, ready.log, keeper.run / SHEET, interrupts),
            evaluate=evaluations if evaluations is not None else lambda: True,
            save=keeper.save,
        )
    except RuntimeError as error:  # torch raises a worker's death wherever the main process is when the signal comes
        told = worker_death(error)
        if told is None:
            raise
        raise told from error
    finally:
        batches.close()
    if batches.bad:
        total = len(prepared.splits.train)
        view.note(f"{len(batches.bad)} of {total} training images could not be decoded and others took their place")


def _batches(prepared: Prepared, started: Started) -> TrainBatches:
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


def _encode_frozen_texts(prepared: Prepared, started: Started, view: TrainView) -> None:
    """All texts that training can show, where the text backbone stands still, and the base's for what pulls to it."""
    rows, templates = prepared.splits.train, prepared.config.data.templates
    texts = all_texts(rows, templates)

    def watch(parts: Iterable[int], total: int) -> Iterable[int]:
        return view.watch(parts, total, "encoding the texts once, in chunks")

    started.stepper.network.prepare_texts(texts, watch)
    if started.stepper.regularizer.base is not None:
        started.stepper.regularizer.base.prepare_texts(texts, watch)


def _open_folder(folder: RunFolder, config: Config, stages: Sequence[Prepared]) -> None:
    path = folder.path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a name that is too long, a disk that is full
        raise InputError(f"run.dir: {path} cannot be made ({error.strerror}); name another folder") from None
    if folder.resume_from is not None:
        return
    write_whole(path / CONFIG, dump_config(resolved(config)))
    plans = [prepared.plan.to_json() for prepared in stages]
    write_whole(path / "plan.json", json.dumps(plans[0] | ({"stages": plans} if len(plans) > 1 else {}), indent=1))
    write_whole(path / "environment.json", json.dumps(environment(), indent=1))


def environment() -> dict[str, Any]:
    """Versions and device: what a run may depend on. No environment variable is recorded."""
    packages = ("torch", "torchvision", "open_clip_torch", "timm", "safetensors", "pydantic")
    cuda = torch.cuda.is_available()
    return {
        "clipft": clipft.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _finish(ready: Ready) -> Finished:
    """Write result.json, by which a run counts as finished."""
    evaluations, progress = ready.evaluations, ready.progress
    base = evaluations.base if evaluations else {}
    tuned = evaluations.of_chosen() if evaluations else {}
    result = {
        "base": base,
        "tuned": tuned,
        "which": "best" if evaluations is not None and evaluations.best_is_kept else "last",
        "best": None if progress.best is None else asdict(progress.best),
        "frozen_checked": ready.checked,
        "stopped_early": progress.stopped_early,
        "skipped_steps": progress.skipped,
    }
    write_whole(ready.keeper.run / RESULT, json.dumps(result, indent=1))
    return Finished(ready.keeper.run, base, tuned, ready.checked)

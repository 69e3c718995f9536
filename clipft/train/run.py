"""One run, from a config to a finished folder: the story top to bottom."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clipft
from clipft.config.dump import dump_config
from clipft.config.load import Loaded
from clipft.config.schema import AugmentConfig
from clipft.data.augment import train_transform
from clipft.data.batches import TrainBatches, resolve_workers, worker_death
from clipft.data.captions import all_texts
from clipft.data.rows import Rows
from clipft.errors import ClipftError
from clipft.evaluate.measure import higher_is_better
from clipft.model.fill import RANDOM_BASE
from clipft.model.runfiles import CONFIG
from clipft.model.standstill import frozen_hashes, set_modes
from clipft.report.amounts import in_bytes
from clipft.report.freeze_table import print_freeze_report
from clipft.report.metric_words import WORDS
from clipft.report.train_view import TrainView, headlines, in_time
from clipft.train import arithmetic
from clipft.train.checkpoint import write_whole
from clipft.train.evaluation import Evaluations, check_metrics
from clipft.train.folder import RESULT, RunFolder, choose_folder, resolved
from clipft.train.keeper import Keeper
from clipft.train.loop import Progress, Rhythm, run_loop
from clipft.train.metrics_log import MetricsLog, check_tensorboard
from clipft.train.optim import set_rates
from clipft.train.prepare import Prepared, prepare
from clipft.train.reckoning import captions_in_words, reckoning
from clipft.train.start import Started, start
from clipft.train.watch import Watch

SHEET = "first-batch.jpg"


@dataclass(frozen=True)
class Finished:
    """What came of a run.

    Args:
        folder: the run's folder.
        base: the base's figures, empty where nothing was measured.
        tuned: those of the checkpoint that `evaluate` and `export` take: best where `evaluate.best` is set, else last.
        frozen: how many frozen tensors were found bit-identical at the end.
    """

    folder: Path
    base: dict[str, float]
    tuned: dict[str, float]
    frozen: int


def train(loaded: Loaded, name: str, view: TrainView, *, resume: bool = False) -> Finished:
    """Train what a config asks for and return what came of it.

    Args:
        loaded: the checked config.
        name: the config file's stem, which names the run.
        view: the display.
        resume: the user expects an unfinished run to go on with.
    """
    began = time.monotonic()
    config = loaded.config
    folder = choose_folder(config, name, resume=resume)
    if config.run.tensorboard:
        check_tensorboard()
    prepared = prepare(config)
    if prepared.splits.val is not None:
        check_metrics(config, prepared.splits.val, prepared.loss)
    show_plan(prepared, loaded, view, folder.notes)

    started = start(prepared)
    show_start(prepared, started, view)
    _open_folder(folder, prepared)
    view.log_to(folder.path / "log.txt")
    progress = Progress()
    frozen = frozen_hashes(started.clip.model, prepared.plan)
    resumed_at = None if folder.resume_from is None else int(folder.resume_from.name.removeprefix("step-"))
    log = MetricsLog(folder.path, tensorboard=config.run.tensorboard, keep_to_step=resumed_at)
    evaluations = _evaluations(prepared, started, progress, view, log)
    keeper = Keeper(folder.path, prepared, started, progress, evaluations)
    view.facts([("disk", _disk_words(keeper, prepared))])
    try:
        if folder.resume_from is not None:
            for note in keeper.take_up(folder.resume_from):
                view.note(note)
            view.facts([("resume", _resume_words(progress, started))])
            if evaluations is not None:
                view.table_head(evaluations.base)
        elif evaluations is not None:
            evaluations.measure_base()
        _train(prepared, started, progress, view, log, evaluations, keeper)
    finally:
        view.stop()
        log.close()
    checked = check_frozen(frozen, frozen_hashes(started.clip.model, prepared.plan))
    finished = _finish(folder.path, prepared, progress, evaluations, checked)
    show_end(finished, prepared, progress, view, time.monotonic() - began)
    return finished


def dry_run(loaded: Loaded, name: str, view: TrainView) -> None:
    """Everything up to one step and one evaluation batch, then say what would happen; nothing is written."""
    config = loaded.config
    folder = choose_folder(config, name, resume=False)
    prepared = prepare(config)
    if prepared.splits.val is not None:
        check_metrics(config, prepared.splits.val, prepared.loss)
    show_plan(prepared, loaded, view, folder.notes)
    started = start(prepared)
    show_start(prepared, started, view)
    progress, log = Progress(), MetricsLog(None)
    frozen = frozen_hashes(started.clip.model, prepared.plan)
    evaluations = _evaluations(prepared, started, progress, view, log)
    keeper = Keeper(folder.path, prepared, started, progress, evaluations)
    view.facts([("disk", _disk_words(keeper, prepared))])
    if evaluations is not None:
        count = min(config.train.batch_size, len(evaluations.rows))
        evaluations.rows = evaluations.rows.take(np.linspace(0, len(evaluations.rows) - 1, count, dtype=np.int64))
        view.note(f"the base on one evaluation batch of {count} of the {len(prepared.splits.val or ())} rows:")
        evaluations.measure_base()
    set_modes(started.clip.model, prepared.plan, training=True)
    begin = time.monotonic()
    batches = _batches(prepared, started)
    batch = next(batches.epoch(0))
    set_rates(started.stepper.optimizer, started.schedule, 0)
    started.stepper(batch)
    seconds = time.monotonic() - begin
    batches.close()
    check_frozen(frozen, frozen_hashes(started.clip.model, prepared.plan))
    steps = prepared.arithmetic.steps
    words = f"one step took {seconds:.1f} s, loading included; {steps} steps would take at most about "
    words += f"{in_time(seconds * steps)} and write to {folder.path}. Nothing was written"
    view.facts([("dry run", words)])


def show_plan(prepared: Prepared, loaded: Loaded, view: TrainView, notes: tuple[str, ...]) -> None:
    """Say where the run goes, what will train, on what, for how long; then what is odd about it."""
    for note in notes:
        view.note(note)
    optimizer, base = prepared.config.optim.name, prepared.meta.base
    view.show(lambda console: print_freeze_report(prepared.plan, console, base=base, optimizer=optimizer))
    view.facts(reckoning(prepared))
    for note in (*loaded.notes, *prepared.splits.notes):
        view.note(note)
    for warning in prepared.splits.warnings:
        view.warn(warning)
    pretrained = prepared.meta.base != RANDOM_BASE
    for warning in arithmetic.warnings(
        prepared.config, prepared.plan, prepared.arithmetic, loss=prepared.loss, pretrained=pretrained
    ):
        view.warn(warning)


def show_start(prepared: Prepared, started: Started, view: TrainView) -> None:
    """Say what the weights, the device and the precision turned out to be, and how long the captions are."""
    lines = [("weights", started.clip.base), ("compute", f"{started.device} in {started.precision.name}")]
    if started.objective.needs_text:
        rows, templates = prepared.splits.train, prepared.config.data.templates
        lines.append(("captions", captions_in_words(rows, templates, started.clip.tokenizer)))
    view.facts(lines)
    for note in started.clip.notes:
        (view.warn if note.startswith("RANDOM") else view.note)(note)
    for note in started.precision.notes:
        view.warn(note)


def show_end(finished: Finished, prepared: Prepared, progress: Progress, view: TrainView, seconds: float) -> None:
    """The table's last lines: what was proven, base against tuned, and what to type next."""
    best = f"best epoch {progress.best.epoch} · " if progress.best is not None else ""
    frozen = f"frozen tensors and buffers are bit-identical ({finished.frozen} checked)"
    view.say(f" {frozen if finished.frozen else 'nothing was frozen'} · {best}{in_time(seconds)}")
    if progress.skipped:
        view.say(f" {progress.skipped} steps were skipped because fp16 gradients overflowed")
    view.say()
    for name in headlines(finished.tuned):
        view.say(f" {WORDS[name]:<18} {finished.base[name]:.3f} -> {finished.tuned[name]:.3f}", style="bold")
    _say_if_base_was_better(finished, prepared, view)
    view.say()
    for command in next_commands(finished.folder, prepared.splits.train):
        view.say(f"   {command}", wrap=False)


def next_commands(run: Path, rows: Rows) -> tuple[str, ...]:
    """What to type next, ready to copy: by classes where the rows have some, else by captions."""
    data, asked = "folder:my/test", "photo.jpg"
    if rows.labels is None:
        data, asked = "table:my/test.csv,caption=caption", "--query 'a red boat' --data my/photos"
    return (
        f"clipft evaluate {run} --data {data}",
        f"clipft predict {run} {asked}",
        f"clipft export {run} --out {run.name}-model",
    )


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


def _train(
    prepared: Prepared,
    started: Started,
    progress: Progress,
    view: TrainView,
    log: MetricsLog,
    evaluations: Evaluations | None,
    keeper: Keeper,
) -> None:
    config = prepared.config
    _encode_frozen_texts(prepared, started)
    set_modes(started.clip.model, prepared.plan, training=True)
    every = config.evaluate.every
    rhythm = Rhythm(config.train.epochs, None if every == "epoch" else every)
    if evaluations is not None and rhythm.evaluate_every is not None:
        evaluations.on_best = lambda: keeper.save(epoch_end=False)
    view.begin(config.train.epochs, prepared.arithmetic.steps_per_epoch)
    batches = _batches(prepared, started)
    try:
        run_loop(
            started.stepper,
            batches,
            started.schedule,
            progress,
            rhythm,
            Watch(prepared, started, view, log, keeper.run / SHEET),
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


def _evaluations(
    prepared: Prepared, started: Started, progress: Progress, view: TrainView, log: MetricsLog
) -> Evaluations | None:
    rows = prepared.splits.val
    return None if rows is None else Evaluations(prepared, started, progress, rows, view, log)


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


def _encode_frozen_texts(prepared: Prepared, started: Started) -> None:
    """All texts that training can show, where the text backbone stands still."""
    rows, templates = prepared.splits.train, prepared.config.data.templates
    started.stepper.network.prepare_texts(all_texts(rows, templates))


def _open_folder(folder: RunFolder, prepared: Prepared) -> None:
    path = folder.path
    path.mkdir(parents=True, exist_ok=True)
    if folder.resume_from is not None:
        return
    write_whole(path / CONFIG, dump_config(resolved(prepared.config)))
    write_whole(path / "plan.json", json.dumps(prepared.plan.to_json(), indent=1))
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


def _finish(
    run: Path, prepared: Prepared, progress: Progress, evaluations: Evaluations | None, frozen: int
) -> Finished:
    base = evaluations.base if evaluations else {}
    tuned = evaluations.of_chosen() if evaluations else {}
    result = {
        "base": base,
        "tuned": tuned,
        "which": "best" if prepared.config.evaluate.best else "last",
        "best": None if progress.best is None else progress.best.__dict__,
        "frozen_checked": frozen,
        "stopped_early": progress.stopped_early,
        "skipped_steps": progress.skipped,
    }
    write_whole(run / RESULT, json.dumps(result, indent=1))
    return Finished(run, base, tuned, frozen)


def _say_if_base_was_better(finished: Finished, prepared: Prepared, view: TrainView) -> None:
    name = prepared.config.evaluate.best or next(iter(headlines(finished.tuned)[1:]), None)
    if name is None:
        return
    base, tuned = finished.base[name], finished.tuned[name]
    if base > tuned if higher_is_better(name) else base < tuned:
        view.warn(f"the base was better: {WORDS[name]} {base:.3f} before training, {tuned:.3f} after it")


def _disk_words(keeper: Keeper, prepared: Prepared) -> str:
    keep = prepared.config.checkpoint.keep
    count = keep.last + (1 if prepared.config.evaluate.best and keep.best else 0)
    return f"{count} checkpoint{'s' if count > 1 else ''} of {in_bytes(keeper.bytes)} into {keeper.run}"


def _resume_words(progress: Progress, started: Started) -> str:
    peak = max(group["peak"] for group in started.stepper.optimizer.param_groups)
    before = started.schedule.rate(peak, max(0, progress.step - 1))
    after = started.schedule.rate(peak, progress.step) if progress.step < started.schedule.steps else 0.0
    return (
        f"weights, optimiser, schedule and random states of step {progress.step} (epoch {progress.epoch}); "
        f"learning rate {before:.3g} before, {after:.3g} now"
    )

"""One run, from a config to a finished folder: the story top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from clipft.config.load import Loaded
from clipft.data.batches import worker_death
from clipft.data.captions import all_texts
from clipft.errors import ClipftError
from clipft.model.standstill import frozen_hashes, set_modes
from clipft.report.train_view import TrainView
from clipft.train.checkpoint import set_aside, write_whole
from clipft.train.ending import Finished, show_end
from clipft.train.folder import RESULT, RunFolder, choose_folder, where_it_stands
from clipft.train.interrupts import Interrupts, remember_interrupts
from clipft.train.loop import Rhythm, run_loop
from clipft.train.opening import resume_in_words, show_stage
from clipft.train.prepare import Prepared
from clipft.train.ready import Ready, get_ready, training_batches
from clipft.train.scale_search import search_scale
from clipft.train.start import Started
from clipft.train.watch import Watch

SHEET = "first-batch.jpg"


def train(loaded: Loaded, name: str, view: TrainView, *, resume: bool = False) -> Finished:
    """Train what a config asks for and return what came of it.

    Args:
        loaded: the checked config.
        name: the config file's stem, which names the run.
        view: the display.
        resume: the user expects an unfinished run to go on with.

    Raises:
        KeyboardInterrupt: Ctrl-C came, with what becomes of the run in words.
    """
    folder = choose_folder(loaded.config, name, resume=resume)
    try:
        return _train_into(folder, loaded, view)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(where_it_stands(folder.path)) from None


def _train_into(folder: RunFolder, loaded: Loaded, view: TrainView) -> Finished:
    began = time.monotonic()
    ready = get_ready(loaded, folder, view, write=True)
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
            while ready.later:
                ready.next_stage()
                show_stage(ready.prepared, view)
                _train(ready, interrupts)
    finally:
        view.stop()
        ready.log.close()
    finished = _finish(ready)
    show_end(finished, ready.prepared, ready.progress, view, time.monotonic() - began)
    return finished


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
    batches = training_batches(prepared, started)
    try:
        run_loop(
            started.stepper,
            batches,
            started.schedule,
            ready.progress,
            rhythm,
            Watch(
                prepared, started, view, ready.log, keeper.run / SHEET, interrupts, evaluations, ready.said, ready.named
            ),
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


def _encode_frozen_texts(prepared: Prepared, started: Started, view: TrainView) -> None:
    """All texts that training can show, where the text backbone stands still, and the base's for what pulls to it."""
    rows, templates = prepared.splits.train, prepared.config.data.templates
    texts = all_texts(rows, templates)

    def watch(parts: Iterable[int], total: int) -> Iterable[int]:
        return view.watch(parts, total, "encoding the texts once, in chunks")

    started.stepper.network.prepare_texts(texts, watch)
    if started.stepper.regularizer.base is not None:
        started.stepper.regularizer.base.prepare_texts(texts, watch)


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

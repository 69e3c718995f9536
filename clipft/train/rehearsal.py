"""The rehearsal of a run: `clipft train --dry-run`."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

from clipft.config.load import Loaded
from clipft.model.standstill import frozen_hashes, set_modes
from clipft.report.train_view import TrainView, in_time
from clipft.train.folder import choose_folder
from clipft.train.optim import set_rates
from clipft.train.ready import Ready, get_ready, training_batches
from clipft.train.run import check_frozen


def dry_run(loaded: Loaded, name: str, view: TrainView) -> None:
    """Everything up to two steps and one evaluation batch, then say what would happen; nothing is written."""
    folder = choose_folder(loaded.config, name, resume=False)
    if folder.resume_from is not None:
        rehearsal = f"{folder.path} holds an unfinished run; this rehearsal begins with the base"
        # in place of "going on with"
        folder = replace(folder, resume_from=None, damaged=(), notes=(*folder.notes[:-1], rehearsal))
    ready = get_ready(loaded, folder, view, write=False)
    prepared = ready.prepared
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
    first, again = _two_steps(ready)
    check_frozen(frozen, frozen_hashes(ready.started.clip.model, prepared.plan))
    last = (prepared, *ready.later)[-1]
    steps = last.stage.first_step + last.arithmetic.steps
    words = f"a step took {again:.1f} s (the first {first:.1f} s, with what is loaded once); {steps} steps would take "
    words += f"about {in_time(first + again * (steps - 1))}, what is measured aside, and write to {folder.path}"
    view.facts([("dry run", f"{words}. Nothing was written")])


def _two_steps(ready: Ready) -> tuple[float, float]:
    """Seconds of the first step, which waits for data workers and caches to begin, and of one more."""
    stepper, times = ready.started.stepper, []
    set_rates(stepper.optimizer, ready.started.schedule, 0)
    begin = time.monotonic()
    with closing(training_batches(ready.prepared, ready.started)) as batches:
        epoch = batches.epoch(ready.prepared.config.train.first_epoch)
        batch = next(epoch)
        for _ in range(2):
            stepper(batch)
            times.append(time.monotonic() - begin)
            begin = time.monotonic()
            batch = next(epoch, batch)  # an epoch may have but one
    return times[0], times[1]

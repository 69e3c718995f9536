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
from clipft.train.ready import get_ready, training_batches
from clipft.train.run import check_frozen


def dry_run(loaded: Loaded, name: str, view: TrainView) -> None:
    """Everything up to one step and one evaluation batch, then say what would happen; nothing is written."""
    folder = choose_folder(loaded.config, name, resume=False)
    if folder.resume_from is not None:
        rehearsal = f"{folder.path} holds an unfinished run; this rehearsal begins with the base"
        # in place of "going on with"
        folder = replace(folder, resume_from=None, damaged=(), notes=(*folder.notes[:-1], rehearsal))
    ready = get_ready(loaded, folder, view, write=False)
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
    with closing(training_batches(prepared, ready.started)) as batches:
        set_rates(stepper.optimizer, ready.started.schedule, 0)
        stepper(next(batches.epoch(loaded.config.train.first_epoch)))
        seconds = time.monotonic() - begin
    check_frozen(frozen, frozen_hashes(ready.started.clip.model, prepared.plan))
    last = (prepared, *ready.later)[-1]
    steps = last.stage.first_step + last.arithmetic.steps
    words = f"one step took {seconds:.1f} s, loading included; {steps} steps would take at most about "
    words += f"{in_time(seconds * steps)} and write to {folder.path}. Nothing was written"
    view.facts([("dry run", words)])

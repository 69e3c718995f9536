"""Which evaluation is the best, when it is time to stop, and whether the figures that decide it are measured at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from clipft.config.schema import Config
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.evaluate.measure import KEPT, figure_names, higher_is_better
from clipft.train.loop import Best, Progress
from clipft.words import counted


def check_metrics(
    config: Config, rows: Rows, losses: Sequence[str], keep: Rows | None = None, *, without_loss: bool = False
) -> None:
    """Refuse a metric that this run does not measure, before anything is computed (P59).

    Args:
        losses: of the run's stages; the last one's figures choose.
        without_loss: whether the run has no figure `loss`: a search among classes minimises `nll`.

    Raises:
        InputError: `evaluate.best` or `train.early_stop.metric` is none of those measured, or is not the same thing in
            all stages.
    """
    loss = losses[-1]
    known = figure_names(rows, classifier=loss == "classifier", loss=not without_loss)
    if keep is not None:
        known += tuple(f"{KEPT}{name}" for name in figure_names(keep, classifier=False, loss=False))
    asked = {"evaluate.best": config.evaluate.best}
    if config.train.early_stop is not None:
        asked["train.early_stop.metric"] = config.train.early_stop.metric
    for key, name in asked.items():
        if name == "loss" and len(set(losses)) > 1:
            raise InputError(f"{key}: loss is another one in each stage ({', '.join(losses)}); name a figure instead")
        if name is not None and name.startswith(KEPT) and keep is None:
            raise InputError(f"{key}: {name!r} is not measured: evaluate.keep is not written; name a source there")
        if name is not None and name not in known:
            same = next((f"; write {key}: {other}" for other in _counterparts(name) if other in known), "")
            raise InputError(
                f"{key}: {name!r} is not measured on {rows.name} under a {loss} loss{same}; this run measures "
                f"{', '.join(known)}"
            )


def _counterparts(name: str) -> tuple[str, ...]:
    """The same figure by a classifier, or by prompts."""
    plain = name.removeprefix("classifier_").removeprefix("zero_shot_")
    return f"classifier_{plain}", f"zero_shot_{plain}", plain


def note_best(name: str | None, figures: Mapping[str, float], progress: Progress, epoch: int) -> bool:
    """Whether an evaluation is the best so far; if so, `progress` has it.

    Args:
        name: `evaluate.best`; None chooses none.
        figures: what was measured; an earlier stage may not measure the one that chooses.
        progress: changed in place.
        epoch: the one that its step belongs to.
    """
    value, best = figures.get(name or "", math.nan), progress.best
    if name is None or not math.isfinite(value) or (best is not None and not better(name, value, best.value)):
        return False
    progress.best = Best(value, progress.step, epoch)
    return True


def tired_of(config: Config, figures: Mapping[str, float], progress: Progress) -> str | None:
    """What has not improved for as long as `train.early_stop` has patience, in words; None to go on.

    Args:
        config: the stage's.
        figures: what was measured; an earlier stage may not measure the one that is watched.
        progress: counts evaluations without an improvement; changed in place.
    """
    early = config.train.early_stop
    if early is None:
        return None
    name = early.metric or config.evaluate.best
    assert name is not None  # the schema asks for one of them
    if name not in figures:
        return None
    value, watched = figures[name], progress.watched
    if math.isfinite(value) if watched is None else better(name, value, watched):
        progress.watched, progress.since_best = value, 0
    else:
        progress.since_best += 1
    if progress.since_best < early.patience:
        return None
    return f"{name} has not improved for {counted(early.patience, 'evaluation')}"


def better(name: str, value: float, than: float) -> bool:
    """Whether a figure's value is better than another, whichever direction is good."""
    return value > than if higher_is_better(name) else value < than

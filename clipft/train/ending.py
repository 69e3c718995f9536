"""What is said at the end: what was proven, base against tuned, what to type next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from clipft.config.stages import classifier_init
from clipft.data.rows import Rows
from clipft.evaluate.measure import KEPT
from clipft.model.fill import RANDOM_BASE
from clipft.model.plan import NEW
from clipft.report.metric_words import WORDS, words_of
from clipft.report.run_table import heading_of, headlines, kept_headline, main_figure
from clipft.report.train_view import TrainView, in_time
from clipft.train.judge import better
from clipft.train.loop import Progress
from clipft.train.prepare import Prepared


@dataclass(frozen=True)
class Finished:
    """What came of a run.

    Args:
        folder: the run's folder.
        base: the base's figures, empty where nothing was measured.
        tuned: those of the checkpoint that `evaluate` and `export` take: best where one is kept, else last.
        frozen: how many frozen tensors were found bit-identical at the end.
    """

    folder: Path
    base: dict[str, float]
    tuned: dict[str, float]
    frozen: int


def show_end(finished: Finished, prepared: Prepared, progress: Progress, view: TrainView, seconds: float) -> None:
    """The table's last lines: what was proven, base against tuned, and what to type next."""
    best = f"best epoch {progress.best.epoch} · " if progress.best is not None and not prepared.searches else ""
    frozen = f"frozen tensors are bit-identical ({finished.frozen:,} checked)"
    view.say(f" {frozen if finished.frozen else 'nothing was frozen'} · {best}{in_time(seconds)}")
    if progress.skipped:
        were = "step was" if progress.skipped == 1 else "steps were"
        view.say(f" {progress.skipped} {were} skipped because fp16 gradients overflowed")
    view.say()
    chooses = prepared.config.evaluate.best
    for name in headlines(finished.tuned, chooses):
        base = f"{finished.base[name]:.3f}" if name in finished.base else "-"  # a later stage's classifier
        view.say(f" {heading_of(name):<18} {base} -> {finished.tuned[name]:.3f}", style="bold")
    kept = kept_headline(finished.tuned, chooses)
    if kept is not None and prepared.keep is not None:  # P62
        words = f" {'kept':<18} {finished.base[kept]:.3f} -> {finished.tuned[kept]:.3f}"
        view.say(f"{words}   {WORDS[kept.removeprefix(KEPT)]} of {prepared.keep.name}", style="bold")
    worse = _worse_than_base(finished, prepared)
    mixes = worse is not None and _mixes(prepared)
    if worse is not None:
        view.warn(f"the base was better: {worse}{_what_to_try(prepared, mixes=mixes)}")
    view.say()
    for command in next_commands(finished.folder, prepared.splits.train, mix=mixes):
        view.say(f"   {command}", wrap=False)


def next_commands(run: Path, rows: Rows, *, mix: bool = False) -> tuple[str, ...]:
    """What to type next, ready to copy: by classes where the rows have some, else by captions.

    Args:
        mix: whether the base was better, so that a mixture of both is what to look for and to export.
    """
    data, asked = "folder:my/test", "photo.jpg"
    if rows.labels is None:
        data, asked = "table:my/test.csv,caption=caption", "--query 'a red boat' --data my/photos"
    there = shlex.quote(str(run))
    model = f"clipft export {there} --out {shlex.quote(f'{run.name}-model')}"
    return (
        *((f"clipft interpolate {there}",) if mix else ()),
        f"clipft evaluate {there} --data {data}",
        f"clipft predict {there} {asked}",
        *(() if mix else (model,)),  # interpolate exports what it chose
    )


def _worse_than_base(finished: Finished, prepared: Prepared) -> str | None:
    """By which figure the run is worse than its base, in words; None where it is not."""
    name = prepared.config.evaluate.best or main_figure(finished.tuned)
    if name is None or name not in finished.base:
        return None
    base, tuned = finished.base[name], finished.tuned[name]
    return f"{words_of(name)} {base:.3f} before training, {tuned:.3f} after it" if better(name, base, tuned) else None


def _what_to_try(prepared: Prepared, *, mixes: bool) -> str:
    """The next step; none after a search, which has no other answer."""
    if prepared.searches:
        return ""
    blocks = any(p.tower in ("image", "text") and p.group not in ("projection", *NEW) for p in prepared.plan.trainable)
    tries = ["smaller rates", *(["strategy: heads, which trains less"] if blocks else [])]
    tries += ["a mix of both, as clipft interpolate makes it"] if mixes else []
    return f". Try {', or '.join(tries)}"


def _mixes(prepared: Prepared) -> bool:
    """Whether something lies between the base and the run, for `clipft interpolate`."""
    head_drawn = prepared.loss == "classifier" and classifier_init(prepared.config) != "prompts"
    drawn = (prepared.meta.image.drawn | prepared.meta.text.drawn) & {"projection", "prompt"}
    return not (prepared.searches or head_drawn or drawn or prepared.meta.base == RANDOM_BASE)

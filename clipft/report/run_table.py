"""Which figures the table of a run's evaluations shows, under which headings, within 80 columns."""

from __future__ import annotations

from collections.abc import Mapping

from clipft.evaluate.measure import HEADLINES, KEPT
from clipft.report.metric_words import WORDS

_BASE_TO_NOVEL = ("base_top1", "novel_top1", "harmonic_mean")
_SHORT = {"negative log-likelihood": "val NLL", "classifier negative log-likelihood": "val NLL"}
_WIDE = 18  # of a column, where there is room
_KEPT_ROOM = len("kept") + 2
_ROOM = 80 - len(" epoch  train loss") - len(" (best)")  # for a row's figures


def headlines(metrics: Mapping[str, float], chooses: str | None = None) -> list[str]:
    """The figures that a line has room for: the loss and what the data is about (of base and novel classes, these),
    and always the one that chooses the best.

    Args:
        metrics: all that was measured.
        chooses: `evaluate.best`; one of the rows that are watched for forgetting is `kept_headline`'s.
    """
    watched = kept_headline(metrics, chooses)
    names = list(_BASE_TO_NOVEL)
    if "harmonic_mean" not in metrics:
        loss = "loss" if "loss" in metrics else "nll"  # a search for logit_scale among classes
        names = [name for name in (loss, *HEADLINES) if name in metrics][: 2 if watched else 3]
    if chooses is None or chooses in names or chooses not in metrics or chooses.startswith(KEPT):
        return names
    names.append(chooses)
    room = _ROOM - (_KEPT_ROOM if watched else 0)
    others = [name for name in names if name not in (chooses, main_figure(metrics))]
    while others and sum(map(_narrow, names)) > room:
        names.remove(others.pop())
    return names


def main_figure(metrics: Mapping[str, float]) -> str | None:
    """The one figure that says most; None where nothing but a loss was measured."""
    return next((name for name in ("harmonic_mean", *HEADLINES) if name in metrics), None)


def kept_headline(metrics: Mapping[str, float], chooses: str | None = None) -> str | None:
    """The figure that says what was kept of what the base knew; None where that is not watched.

    Args:
        chooses: `evaluate.best`, which is taken where it is such a figure.
    """
    if chooses is not None and chooses.startswith(KEPT) and chooses in metrics:
        return chooses
    return next((f"{KEPT}{name}" for name in HEADLINES if f"{KEPT}{name}" in metrics), None)


def heading_of(figure: str) -> str:
    """A figure's name in a table of few columns."""
    words = WORDS[figure.removeprefix(KEPT)]
    return _SHORT.get(words, words if words.endswith("top-1") else words.removeprefix("classifier "))


def columns(metrics: Mapping[str, float], *, kept: str = "", chooses: str | None = None) -> dict[str, tuple[str, int]]:
    """Each figure of a row with its heading and its width.

    Args:
        kept: what to call the source that is watched for forgetting.
    """
    names, watched = headlines(metrics, chooses), kept_headline(metrics, chooses)
    narrow = {name: (heading_of(name), _narrow(name)) for name in names}
    if watched is None:
        wide = {name: (words, max(width, _WIDE)) for name, (words, width) in narrow.items()}
        return wide if sum(width for _, width in wide.values()) <= _ROOM else narrow
    figure = heading_of(watched)
    figure = figure.split()[-1] if figure.endswith(("top-1", "top-5")) or "R@" in figure else figure
    room = _ROOM - sum(width for _, width in narrow.values())
    long_to_short = (f"kept ({kept} {figure})", f"kept ({figure})", "kept")
    heading = next((words for words in long_to_short if len(words) + 2 <= room), "kept")
    return narrow | {watched: (heading, len(heading) + 2)}


def _narrow(figure: str) -> int:
    """The width of a figure's column with as much room beside its heading as it needs."""
    return len(heading_of(figure)) + 2

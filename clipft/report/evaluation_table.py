"""`clipft evaluate` in the terminal: what was measured on what, the base beside the tuned."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipft.evaluate.compare import Evaluation
from clipft.evaluate.measure import Measurement, higher_is_better
from clipft.report.metric_words import WORDS
from clipft.report.words_grid import add_faults_and_notes, words_grid


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    """The figures with all that is needed to read them; what changed for the better stands out."""
    last = evaluation.measurements()[-1]
    return Group(
        Padding(_facts(evaluation, last), (0, 0, 1, 1)),
        Padding(_figures(evaluation), (0, 0, 1, 1)),
        Padding(_remarks(evaluation, last), (0, 0, 0, 1)),
    )


def measured_on(measurement: Measurement) -> str:
    """Images, classes and captions of a measurement in a line."""
    counts = measurement.counts
    words = f"{counts['images']:,} images"
    if counts["rows"] != counts["images"]:
        words += f" in {counts['rows']:,} rows"
    if "classes" in counts:
        measured = counts["classes_measured"]
        some = f"{measured:,} of {counts['classes']:,}" if measured < counts["classes"] else f"{measured:,}"
        words += f" · {some} classes"
    if "captions" in counts:
        words += f" · {counts['captions']:,} captions"
    return f"{words} · {counts['unreadable']:,} unreadable"


def _facts(evaluation: Evaluation, last: Measurement) -> Table:
    grid = words_grid()
    grid.add_row("model", Text(evaluation.target, style="bold"))
    if evaluation.base is not None and evaluation.base_name != evaluation.target:
        grid.add_row("base", Text(evaluation.base_name))
    grid.add_row("data", Text(last.data))
    grid.add_row("", measured_on(last))
    for index, prompt in enumerate(last.prompts):
        grid.add_row("prompts" if index == 0 else "", Text(f'"{prompt}"'))
    return grid


def _figures(evaluation: Evaluation) -> Table:
    base = {} if evaluation.base is None else evaluation.base.figures()
    tuned = {} if evaluation.tuned is None else evaluation.tuned.figures()
    both = bool(base and tuned)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for heading in [*(["base"] if base else []), *(["tuned"] if tuned else []), *(["change"] if both else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name in WORDS:
        if name in base or name in tuned:
            cells = [Text(_number(figures.get(name))) for figures in (base, tuned) if figures]
            table.add_row(WORDS[name], *cells, *([_change(name, base, tuned)] if both else []))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(name: str, base: dict[str, float], tuned: dict[str, float]) -> Text:
    if name not in base or name not in tuned:
        return Text("")
    change = tuned[name] - base[name]
    better = abs(change) >= 0.0005 and (change > 0) == higher_is_better(name)
    return Text(f"{change:+.3f}", style="green" if better else "")


def _remarks(evaluation: Evaluation, last: Measurement) -> Table:
    """The images that could not be read, and what else to know, each beside its word."""
    grid = words_grid()
    add_faults_and_notes(grid, last.faults, evaluation.notes)
    return grid

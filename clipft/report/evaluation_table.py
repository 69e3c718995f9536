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
    parts = [_facts(evaluation, last), _figures(evaluation.base, evaluation.tuned)]
    if evaluation.kept is not None:
        parts += [_kept(evaluation.kept), _figures(evaluation.kept_base, evaluation.kept_tuned)]
    return Group(*(Padding(part, (0, 0, 1, 1)) for part in parts), Padding(_remarks(evaluation, last), (0, 0, 0, 1)))


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
    _add_rows(grid, "data", last)
    return grid


def _kept(measurement: Measurement) -> Table:
    """What was watched for forgetting (P62)."""
    grid = words_grid()
    _add_rows(grid, "keep", measurement)
    return grid


def _add_rows(grid: Table, word: str, measurement: Measurement) -> None:
    grid.add_row(word, Text(measurement.data))
    grid.add_row("", measured_on(measurement))
    for index, prompt in enumerate(measurement.prompts):
        grid.add_row("prompts" if index == 0 else "", Text(f'"{prompt}"'))


def _figures(of_base: Measurement | None, of_tuned: Measurement | None) -> Table:
    base = {} if of_base is None else of_base.figures()
    tuned = {} if of_tuned is None else of_tuned.figures()
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
    faults = (*last.faults, *(() if evaluation.kept is None else evaluation.kept.faults))
    add_faults_and_notes(grid, faults, evaluation.notes)
    return grid

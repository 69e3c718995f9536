"""`clipft interpolate` in the terminal: a row an alpha, a column a data set, the base and the tuned model marked."""

from __future__ import annotations

from string import ascii_uppercase

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipft.evaluate.interpolate import Interpolation
from clipft.report.evaluation_table import measured_on
from clipft.report.metric_words import WORDS
from clipft.report.words_grid import add_faults_and_notes, words_grid


def interpolation_view(found: Interpolation) -> RenderableType:
    """What was measured, the table, and which point is best for what; the best of a column has a star."""
    return Group(
        Padding(_facts(found), (0, 0, 1, 1)),
        Padding(_table(found), (0, 0, 1, 1)),
        Padding(_remarks(found), (0, 0, 0, 1)),
    )


def letters(found: Interpolation) -> list[str]:
    """What the data sets are called in table and picture: A, B, C."""
    return [ascii_uppercase[number % 26] * (1 + number // 26) for number in range(len(found.figures))]


def _headings(found: Interpolation) -> list[str]:
    """The letters, that of evaluate.keep said to be so."""
    *first, last = letters(found)
    return [*first, f"{last} (keep)" if found.kept else last]


def _facts(found: Interpolation) -> Table:
    grid = words_grid()
    grid.add_row("tuned", Text(found.run, style="bold"))
    grid.add_row("base", Text(found.base_name))
    for heading, figure, measured in zip(_headings(found), found.figures, found.points[0].measured, strict=True):
        grid.add_row(f"data {heading}", Text(measured.data))
        grid.add_row("", Text(f"{WORDS[figure]} · {measured_on(measured)}"))
    return grid


def _table(found: Interpolation) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("alpha", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    columns = [(heading, found.values(i), found.best(i)) for i, heading in enumerate(_headings(found))]
    if len(found.averaged) > 1:
        columns.append(("mean", found.means(), found.best_mean()))
    for heading, _, _ in columns:
        table.add_column(f"{heading} ", justify="right", no_wrap=True)
    for number, point in enumerate(found.points):
        cells = (
            Text(f"{values[number]:.3f}{'*' if number == best else ' '}", style="green" if number == best else "")
            for _, values, best in columns
        )
        table.add_row(f"{point.alpha:g}", _mark(found, number), *cells)
    return table


def _mark(found: Interpolation, number: int) -> Text:
    words = {0: ["base"], len(found.points) - 1: ["tuned"]}.get(number, [])
    if number == found.chosen:
        words = [*words, "chosen"]
    return Text(", ".join(words), style="bold")


def _remarks(found: Interpolation) -> Table:
    grid = words_grid()
    grid.add_row("chosen", f"alpha {found.points[found.chosen].alpha:g}, {found.why}")
    for number, letter in enumerate(letters(found)):
        values = found.values(number)
        grid.add_row("", f"{letter} {values[found.chosen]:.3f} (base {values[0]:.3f}, tuned {values[-1]:.3f})")
    for measured in found.points[0].measured:
        add_faults_and_notes(grid, measured.faults, ())
    add_faults_and_notes(grid, (), found.notes)
    return grid

"""`clipft soup` in the terminal: the runs in the order they were tried, and which were taken."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipft.evaluate.measure import headline
from clipft.evaluate.soup import Soup
from clipft.report.evaluation_table import measured_on
from clipft.report.metric_words import WORDS
from clipft.report.words_grid import add_faults_and_notes, words_grid


def soup_view(soup: Soup) -> RenderableType:
    """What was measured, the runs, the soup's own figure."""
    return Group(
        Padding(_facts(soup), (0, 0, 1, 1)), Padding(_table(soup), (0, 0, 1, 1)), Padding(_remarks(soup), (0, 0, 0, 1))
    )


def _facts(soup: Soup) -> Table:
    grid = words_grid()
    taken = f"{len(soup.taken)} of {len(soup.names)} runs"
    grid.add_row("soup", Text(f"{soup.recipe}, {taken}", style="bold"))
    grid.add_row("base", Text(soup.base_name))
    if soup.measured is not None and soup.figure is not None:
        grid.add_row("data", Text(soup.measured.data))
        grid.add_row("", Text(f"{WORDS[soup.figure]} · {measured_on(soup.measured)}"))
    if soup.kept is not None:
        grid.add_row("kept", Text(soup.kept.data))
        grid.add_row("", Text(f"{WORDS[headline(soup.kept.figures())]} · {measured_on(soup.kept)}"))
    return grid


def _table(soup: Soup) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run", overflow="fold")
    for heading in ("alone", "soup with it", *(("kept alone",) if soup.kept is not None else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in soup.tasted:
        style = "bold" if each.taken else "dim"
        table.add_row(
            Text(soup.names[each.run], style=style),
            _number(each.alone),
            _number(each.together),
            *((_number(each.kept),) if soup.kept is not None else ()),
            Text("taken" if each.taken else "left out", style=style),
        )
    return table


def _remarks(soup: Soup) -> Table:
    grid = words_grid()
    if soup.measured is not None and soup.figure is not None:
        value = soup.measured.figures()[soup.figure]
        best = f"the best run alone {_number(soup.tasted[0].alone)}"
        if len(soup.taken) == 1:
            one = soup.names[soup.taken[0]]
            best = f"the soup is {one} itself, nothing mixed, since any other run makes it worse"
        grid.add_row("result", f"{WORDS[soup.figure]} {value:.3f}: {best}")
        add_faults_and_notes(grid, soup.measured.faults, ())
    if soup.kept is not None:
        value = soup.kept.figures()[headline(soup.kept.figures())]
        grid.add_row("kept", f"{value:.3f}: the best run alone {_number(soup.tasted[0].kept)}")
        add_faults_and_notes(grid, soup.kept.faults, ())
    add_faults_and_notes(grid, (), soup.notes)
    return grid


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

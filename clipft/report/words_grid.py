"""Lines below a table, a dim word before each: unreadable images, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

_NAMED_FAULTS = 5


def words_grid() -> Table:
    """A word and what it says, with room between."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def add_faults_and_notes(grid: Table, faults: Sequence[object], notes: Iterable[str]) -> None:
    """The first of the images that could not be read, how many more there are, and the notes."""
    for fault in faults[:_NAMED_FAULTS]:
        grid.add_row("unreadable", Text(str(fault), style="yellow"))
    if len(faults) > _NAMED_FAULTS:
        grid.add_row("", f"and {len(faults) - _NAMED_FAULTS:,} more")
    for note in notes:
        grid.add_row("note", Text(note))

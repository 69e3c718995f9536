"""`clipft export` in the terminal: what was written, how it compared, how to load it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from clipft.export import Written
from clipft.report.amounts import in_bytes


def export_view(written: Written) -> RenderableType:
    """The files, how they compared when the other library loaded them, the lines to load them, the notes."""
    files = [Text(f"   {name}  {in_bytes(size)}") for name, size in written.files.items()]
    return Group(
        Text(f" wrote {written.path}", style="bold"),
        *files,
        Text(f" {written.checked}"),
        Text(),
        *(Text(f"   {line}", style="cyan") for line in written.load),
        *(Text(f" note: {note}", style="yellow") for note in written.notes),
    )

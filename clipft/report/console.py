"""The two consoles: results go to stdout, talk goes to stderr; both honour NO_COLOR and pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text


def result() -> Console:
    """Where a command's result goes."""
    return Console(file=sys.stdout, highlight=False)


def mistake(words: str) -> None:
    """Tell a mistake, wrapped between words on a terminal and not at all in a pipe."""
    console = talk()
    console.print(Text(f"error: {words}", style="red"), soft_wrap=not console.is_terminal)


def talk() -> Console:
    """Where progress and warnings go."""
    return Console(file=sys.stderr, highlight=False)


def say(notes: Iterable[str]) -> None:
    """Tell what a person should know beside the result; random weights stand out (P70)."""
    console = talk()
    for note in notes:
        console.print(Text(f"note: {note}", style="yellow" if note.startswith("RANDOM") else ""), soft_wrap=True)

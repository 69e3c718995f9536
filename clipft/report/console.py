"""The two consoles: results go to stdout, talk goes to stderr; both honour NO_COLOR and pipes."""

from __future__ import annotations

import sys

from rich.console import Console


def result() -> Console:
    """Where a command's result goes."""
    return Console(file=sys.stdout, highlight=False)


def talk() -> Console:
    """Where progress and warnings go."""
    return Console(file=sys.stderr, highlight=False)

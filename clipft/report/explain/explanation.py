"""What an explanation is made of: paragraphs, and at most one table between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells under headings.

    Args:
        shown: which of the rows a person is shown; all where it is empty.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shown: tuple[int, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Half a screen on one topic: paragraphs, perhaps a table, and what is said below it."""

    paragraphs: tuple[str, ...]
    table: Table | None = None
    after: tuple[str, ...] = ()


def paragraphs(text: str) -> tuple[str, ...]:
    """The paragraphs of an indented text, each on one line; empty lines are between them."""
    found = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return tuple(paragraph for paragraph in found if paragraph)


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def by(shape: Sequence[int]) -> str:
    """A shape as 768 x 512."""
    return " x ".join(map(str, shape))

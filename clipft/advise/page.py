"""YAML with comments, line by line: comments wrapped at 100 columns, values as clipft's own reader reads them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from clipft.config.dump import dump_yaml, inline_yaml

WIDTH = 100


class Page:
    """A file in the making."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gap(self) -> None:
        """An empty line."""
        self._lines.append("")

    def say(self, words: str, indent: int = 0, first: str = "", hang: int = 0) -> None:
        """A comment.

        Args:
            words: on one line; nothing in them can end the comment.
            indent: columns in front of it.
            first: what its first line begins with, such as "- ".
            hang: columns that its further lines stand in.
        """
        head = " " * indent + "# "
        lines = textwrap.wrap(
            first + printable(words),
            WIDTH - len(head),
            subsequent_indent=" " * (hang or len(first)),
            break_on_hyphens=False,
        )
        self._lines += [(head + line).rstrip() for line in lines]

    def points(self, sentences: Iterable[str]) -> None:
        """A comment with a line a sentence."""
        for sentence in sentences:
            self.say(sentence, first="- ")

    def put(self, key: str, value: Any, indent: int = 0, comment: str = "") -> None:
        """A key with its value, on one line where that is not too long."""
        line = f"{' ' * indent}{key}: {inline_yaml(value)}"
        if len(line) > WIDTH and isinstance(value, dict) and value:
            block = dump_yaml({key: value})
            self._lines += textwrap.indent(block.rstrip("\n"), " " * indent).split("\n")
            return
        self._lines.append(f"{line}  # {comment}" if comment else line)

    def section(self, key: str) -> None:
        """The key of a section whose keys follow."""
        self._lines.append(f"{key}:")

    def say_as_it_is(self, line: str, indent: int = 0) -> None:
        """A comment that is to be copied, or a key that is to be written by taking the # away: not wrapped."""
        self._lines.append(f"{' ' * indent}# {line}")

    def text(self) -> str:
        """The whole file."""
        return "\n".join(self._lines) + "\n"


def printable(words: str) -> str:
    """The words on one line, what does not print replaced."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(words.split()))

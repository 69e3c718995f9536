"""What explains each topic, and how an explanation is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from clipft.model.anatomy import Anatomy
from clipft.report.explain import space, towers, training
from clipft.report.explain.explanation import Explanation, Table

EXPLAINERS: dict[str, Callable[[Anatomy], Explanation]] = {
    "block": towers.block,
    "embeddings": towers.embeddings,
    "projection": towers.projection,
    "similarity": space.similarity,
    "logit_scale": space.logit_scale,
    "alignment": space.alignment,
    "quickgelu": towers.quickgelu,
    "pooling": towers.pooling,
    "freezing": training.freezing,
    "strategies": training.strategies,
}
"""By the names in `topic_names.TOPICS`, which the command line has without this file's imports."""


def explain(topic: str, model: Anatomy) -> Explanation:
    """The explanation of one of TOPICS."""
    return EXPLAINERS[topic](model)


def print_explanation(topic: str, name: str, explanation: Explanation, console: Console) -> None:
    """The topic and the model's name, then paragraphs and table in at most 80 columns, which read well."""
    width = min(console.width, 80)
    console.print(Text(f"{topic} · {_end_of(name, width - len(topic) - 3)}", style="bold"), soft_wrap=True)
    for paragraph in explanation.paragraphs:
        _print(paragraph, width, console)
    if explanation.table is not None and explanation.table.rows:
        console.print()
        for number, line in enumerate(_table(explanation.table, width)):
            console.print(Text(line, style="underline" if number == 0 and console.color_system else ""), soft_wrap=True)
        console.print()
    for paragraph in explanation.after:
        _print(paragraph, width, console)


def _print(paragraph: str, width: int, console: Console) -> None:
    """The first line stands out by one column, so that paragraphs need no empty lines between them."""
    lines = textwrap.wrap(paragraph, width, initial_indent=" ", subsequent_indent="   ", break_on_hyphens=False)
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _table(table: Table, width: int) -> list[str]:
    """Words to the left, numbers to the right; of a first cell too long for the width its end is kept."""
    shown = table.shown or range(len(table.rows))
    rows = [table.headings, *(table.rows[i] for i in shown)]
    others = [max(map(len, column)) for column in list(zip(*rows, strict=True))[1:]]
    room = width - len(_MARGIN) - sum(len(_BETWEEN) + other for other in others)
    rows = [(_end_of(first, room), *cells) for first, *cells in rows]
    widths = [max(len(row[0]) for row in rows), *others]
    right = [any(cell[:1].isdigit() or cell[:1] == "-" for cell in column) for column in zip(*rows[1:], strict=True)]
    lines = []
    for row in rows:
        cells = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
        lines.append(f"{_MARGIN}{_BETWEEN.join(cells)}".rstrip())
    return lines


def _end_of(name: str, most: int) -> str:
    """A name or path in so many characters; the end tells more."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


_MARGIN, _BETWEEN = "   ", "  "

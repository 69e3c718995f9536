"""One image and one text through a model, a line a step: name, shape, what it is for; with weights, real values."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from clipft.model.walkthrough import Step, Table, Walkthrough

_HEADINGS = {"image": "the image", "text": "the text", "both": "the two together"}


def print_walkthrough(walkthrough: Walkthrough, console: Console) -> None:
    """The steps of each tower, then of both; where values are known, a line of them below a step."""
    title = max(len(step.title) for step in walkthrough.steps) + 3
    shape = max(len(_shape(step.shape)) for step in walkthrough.steps) + 2
    if any(step.first for step in walkthrough.steps):
        console.print("below each step: the first values that it gives, and a vector's length\n")
    for number, (tower, steps) in enumerate(groupby(walkthrough.steps, key=lambda step: step.tower)):
        if number:
            console.print()
        console.print(Text(_HEADINGS[tower], style="bold"))
        for step in steps:
            _print_step(step, title, shape, console)
    if walkthrough.tables:
        console.print()
        _print_tables(walkthrough.tables, console)


def _print_step(step: Step, title: int, shape: int, console: Console) -> None:
    for i, why in enumerate(textwrap.wrap(step.why, max(console.width - title - shape, 20))):
        left = f" {step.title:<{title - 1}}{_shape(step.shape):<{shape}}" if i == 0 else " " * (title + shape)
        console.print(Text(f"{left}{why}"), soft_wrap=True)
    said = [_values(step.first, more=len(step.first) < _size(step.shape))] if step.first else []
    said += [f"length {step.norm:.4g}"] if step.norm is not None else []
    if said:
        console.print(Text(f"{'':<{title}}{' · '.join(said)}", style="cyan"), soft_wrap=True)


def _print_tables(tables: Sequence[Table], console: Console) -> None:
    console.print(Text("first values of what was learnt", style="bold"))
    name = max(len(table.name) for table in tables) + 2
    shape = max(len(_shape(table.shape)) for table in tables) + 2
    for table in tables:
        values = Text(_values(table.first, more=len(table.first) < _size(table.shape)), style="cyan")
        left = f" {table.name:<{name}}{_shape(table.shape):<{shape}}"
        if len(left) + len(values) <= console.width:
            console.print(Text(left) + values, soft_wrap=True)
        else:
            console.print(Text(left.rstrip()), soft_wrap=True)
            console.print(Text("   ") + values, soft_wrap=True)


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else "one number"


def _size(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def _values(first: Sequence[float], *, more: bool) -> str:
    words = " ".join(str(value) if isinstance(value, int) else f"{value:.4g}" for value in first)
    return f"{words} …" if more else words

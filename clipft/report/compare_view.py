"""Two models side by side: what differs is marked, and what one image and one text cost each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.text import Text

from clipft.model.describe import ModelFacts
from clipft.model.forward_cost import ForwardCost, ModelCost
from clipft.report.amounts import grouped, in_bytes
from clipft.report.inspect_view import PARTS, SIZES, part_sizes

_LABEL = 18
_COLUMN = 31


@dataclass(frozen=True)
class Measured:
    """A model's facts and what it costs."""

    facts: ModelFacts
    cost: ModelCost

    def to_json(self) -> dict[str, Any]:
        """What `inspect --compare --json` prints of it."""
        return self.facts.to_json() | {"cost": asdict(self.cost) | {"one_pair": self.cost.one_pair}}


@dataclass(frozen=True)
class _Row:
    """A label and what each of the two says; a heading says nothing."""

    label: str
    one: str = ""
    other: str = ""


def print_comparison(one: Measured, other: Measured, console: Console) -> None:
    """A row a fact, tower by tower; a star and bold type where the two differ."""
    _print(" ", _Row("", one.facts.name, other.facts.name), console, style="bold")
    for row in _rows(one, other):
        if not row.one and not row.other:
            console.print()
            console.print(Text(f"  {row.label}", style="bold"))
        else:
            differs = row.one != row.other
            _print("*" if differs else " ", row, console, style="" if differs else "dim")
    console.print("\n * differs. A multiplication and its addition count as two operations; memory in")
    console.print("   float32, for one image and one text of full length, where everything trains;")
    console.print("   gradients and the optimiser come on top: clipft freeze-report counts them.")


def _rows(one: Measured, other: Measured) -> Iterator[_Row]:
    for tower in ("image", "text"):
        yield _Row(tower)
        for label, words in SIZES:
            cells = [words(getattr(side.facts, tower)) for side in (one, other)]
            if any(cells):
                yield _Row(label, *(cell or "-" for cell in cells))
        yield _Row(f"{tower} parameters")
        sizes = [part_sizes(side.facts.parts, tower) for side in (one, other)]
        for part in PARTS:
            if any(part in size for size in sizes):
                yield _Row(part, *(grouped(s[part]) if part in s else "-" for s in sizes))
    yield _Row("both")
    yield _Row("parameters", *(grouped(side.facts.parameters) for side in (one, other)))
    yield _Row("initial scale", *(f"{side.facts.logit_scale:.3f}" for side in (one, other)))
    biases = [side.facts.logit_bias for side in (one, other)]
    if any(bias is not None for bias in biases):
        yield _Row("initial bias", *("-" if bias is None else f"{bias:g}" for bias in biases))
    yield _Row("cost")
    for tower in ("image", "text"):
        costs: list[ForwardCost] = [getattr(side.cost, tower) for side in (one, other)]
        yield _Row(f"{tower} forward", *(f"{cost.flops / 1e9:,.1f} GFLOP" for cost in costs))
        yield _Row(f"{tower} keeps", *(in_bytes(cost.kept) for cost in costs))
    yield _Row("weights", *(in_bytes(side.cost.weights) for side in (one, other)))
    yield _Row("weights + kept", *(in_bytes(side.cost.one_pair) for side in (one, other)))


def _print(mark: str, row: _Row, console: Console, *, style: str) -> None:
    """A cell too wide for its column goes on below."""
    cells = (textwrap.wrap(cell, _COLUMN - 2) or [""] for cell in (row.one, row.other))
    for i, (one, other) in enumerate(zip_longest(*cells, fillvalue="")):
        left = f"{mark} {row.label}" if i == 0 else ""
        console.print(Text(f"{left:<{_LABEL}}{one:<{_COLUMN}}{other}".rstrip(), style=style), soft_wrap=True)

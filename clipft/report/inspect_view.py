"""What a model is made of, its two towers side by side, in 80 columns and without need of colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.text import Text

from clipft.model.describe import ModelFacts, PartSize
from clipft.model.facts import TowerFacts
from clipft.model.plan import block_number
from clipft.report.amounts import grouped

_LABEL = 14  # width of the first column
_COLUMN = 30  # of a tower's


def print_inspection(facts: ModelFacts, console: Console) -> None:
    """The towers' sizes, the parameters by part, the scale of the logits, the exports that fit."""
    title = f"{facts.name} · {grouped(facts.parameters)} parameters · shared space of {grouped(facts.image.embed_dim)}"
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print()
    _print_line(console, "", "image", "text", style="bold")
    for label, words in SIZES:
        image, text = words(facts.image), words(facts.text)
        if image or text:
            _print_line(console, label, image or "-", text or "-")
    both = f"both towers end in {grouped(facts.image.embed_dim)} numbers, so that an image and a text can be compared"
    console.print(Text(f"\n {both}"), soft_wrap=True)
    console.print()
    _print_parameters(facts, console)
    console.print()
    for line in _scales(facts):
        console.print(Text(line), soft_wrap=True)
    _print_line(console, "exports", ", ".join(facts.exports), "")


def _print_line(console: Console, label: str, image: str, text: str, *, style: str = "") -> None:
    """A label and a cell for each tower; a cell too wide for its column goes on below."""
    room = max(console.width - _LABEL - _COLUMN - 1, _COLUMN)
    cells = (textwrap.wrap(image, _COLUMN - 2) or [""], textwrap.wrap(text, room) or [""])
    for i, (left, right) in enumerate(zip_longest(*cells, fillvalue="")):
        line = f" {label if i == 0 else '':<{_LABEL}}{left:<{_COLUMN}}{right}".rstrip()
        console.print(Text(line, style=style), soft_wrap=True)


# --- a tower's sizes -----------------------------------------------------------------------------


def _depth(tower: TowerFacts) -> str:
    if tower.stages is None:
        return f"{tower.depth} blocks"
    return f"{tower.depth} stages of {_row(tower.stages)}"


def _stage_widths(tower: TowerFacts) -> str:
    return "" if tower.stage_widths is None else _row(tower.stage_widths)


def _row(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _pooled_width(tower: TowerFacts) -> str:
    return grouped(tower.pooled_width) if tower.pooled_width != tower.width else ""


def _heads(tower: TowerFacts) -> str:
    return "" if tower.heads is None else f"{tower.heads} x {tower.head_width}"


def _input(tower: TowerFacts) -> str:
    if tower.image_size is not None:
        return f"{_by(tower.image_size)} pixels"
    return f"{tower.context_length} tokens"


def _tokens(tower: TowerFacts) -> str:
    return str(tower.tokens) if tower.image_size is not None and tower.tokens is not None else ""


def _sight(tower: TowerFacts) -> str:
    return "" if tower.causal is None else "causal" if tower.causal else "both ways"


def _projection(tower: TowerFacts) -> str:
    if not tower.projection:
        return "none"
    matrices = ", ".join(_by(shape) for shape in tower.projection)
    return f"{matrices}{' and bias' if tower.projection_bias else ''}"


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


SIZES: tuple[tuple[str, Callable[[TowerFacts], str]], ...] = (
    ("family", lambda tower: tower.family),
    ("depth", _depth),
    ("stage widths", _stage_widths),
    ("width", lambda tower: grouped(tower.width)),
    ("heads", _heads),
    ("MLP width", lambda tower: "" if tower.mlp_width is None else grouped(tower.mlp_width)),
    ("activation", lambda tower: tower.activation),
    ("input", _input),
    ("patch", lambda tower: "" if tower.patch is None else f"{_by(tower.patch)} pixels"),
    ("a token is", lambda tower: tower.token),
    ("tokens", _tokens),
    ("positions", lambda tower: tower.positions),
    ("vocabulary", lambda tower: "" if tower.vocabulary is None else grouped(tower.vocabulary)),
    ("attention", _sight),
    ("pooling", lambda tower: tower.pooling),
    ("pooled width", _pooled_width),
    ("projection", _projection),
    ("ends in", lambda tower: grouped(tower.embed_dim)),
)


# --- parameters by part --------------------------------------------------------------------------


def _print_parameters(facts: ModelFacts, console: Console) -> None:
    image, text = (part_sizes(facts.parts, tower) for tower in ("image", "text"))
    width = max(len(grouped(size)) for size in (*image.values(), *text.values()))
    _print_line(console, "parameters", f"{'image':>{width}}", f"{'text':>{width}}", style="bold")
    for label in PARTS:
        if label in image or label in text:
            cells = [grouped(sizes[label]) if label in sizes else "-" for sizes in (image, text)]
            _print_line(console, label, *(f"{c:>{width}}" for c in cells), style="bold" if label == "total" else "")

    others = [part for part in facts.parts if part.tower not in ("image", "text")]
    for tower, words in (
        ("heads", " and ".join(part.group for part in others if part.tower == "heads")),
        ("decoder", _DECODER),
    ):
        if size := sum(part.parameters for part in others if part.tower == tower):
            console.print(Text(f" {_BESIDE[tower]:<{_LABEL}}{grouped(size):>{width}}  {words}"), soft_wrap=True)


_BESIDE = {"heads": "beside them", "decoder": "decoder"}
_DECODER = "writes captions; no loss here reaches it"
PARTS = ("embeddings", "blocks", "  each", "norm", "pooling", "projection", "total")


def part_sizes(parts: Sequence[PartSize], tower: str) -> dict[str, int]:
    """How many numbers each part of a tower holds, its blocks together and, where they are alike, each."""
    own = [part for part in parts if part.tower == tower]
    blocks = [part.parameters for part in own if block_number(part.group) is not None]
    sizes = {part.group: part.parameters for part in own if block_number(part.group) is None}
    alike = {"  each": blocks[0]} if len(set(blocks)) == 1 else {}
    return {**sizes, "blocks": sum(blocks), **alike, "total": sum(part.parameters for part in own)}


# --- heads ---------------------------------------------------------------------------------------


def _scales(facts: ModelFacts) -> list[str]:
    """logit_scale with its exponential, and logit_bias; without weights they are initial values, and it is said."""
    initial = " · initial value, weights bring their own" if facts.initial else ""
    scale = f"{facts.logit_scale:.3f}, exp {math.exp(facts.logit_scale):.2f}"
    lines = [f" {'logit_scale':<{_LABEL}}{scale}{initial}"]
    if facts.logit_bias is not None:
        lines.append(f" {'logit_bias':<{_LABEL}}{facts.logit_bias:g}{initial}")
    return lines

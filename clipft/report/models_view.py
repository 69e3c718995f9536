"""`clipft models` in the terminal: a line an architecture, and what trains in how much memory."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from rich.console import Console
from rich.text import Text

from clipft.model.profiles import BATCH_SIZES, Architecture, Catalogue, Fit, Profile, Tag
from clipft.report.amounts import in_bytes

_NAMED = 34  # cells of the widest name of an architecture, with its margin


@dataclass(frozen=True)
class _Column:
    heading: str
    width: int


_SIZES = (_Column("M params", 8), _Column("px", 4), _Column("GFLOPs", 7))
_LISTED = (*_SIZES, _Column("tags", 4), _Column("top-1", 5))
_FITS = (_SIZES[0], _SIZES[1], _Column("top-1", 5), _Column("full", 5), _Column("LoRA", 5), _Column("heads", 5))


def print_models(found: Catalogue, console: Console, *, with_tags: bool) -> None:
    """A line an architecture, its tags below it where they are asked for, then how to read the figures."""
    tags = [tag for each in found.architectures for tag in each.tags]
    _head(console, f"open_clip {found.installed} · {_many(found.architectures, 'architecture')} · {_many(tags, 'tag')}")
    width = max(_NAMED, *(len(tag.name) + 3 for tag in tags)) if with_tags and tags else _NAMED
    room = console.width - width - _taken(_LISTED)
    wide = not with_tags and room >= max(len(_best(each)) for each in found.architectures) + 2
    _heading(console, width, _LISTED, "best tag" if wide else "")
    for each in found.architectures:
        cells = (*_sizes(each.profile), str(len(each.loading)) if each.loading else "-", _accuracy(each.best))
        _line(console, f" {each.name}", width, _LISTED, cells, _best(each) if wide else "", "bold" if with_tags else "")
        for tag in each.tags if with_tags else ():
            _tag_line(console, tag, width)
    _foot(console, [*_READING, *_unknown(found), *([] if with_tags else [_MORE])])


def print_fits(found: Catalogue, fits: Sequence[Fit], console: Console, *, size: int, precision: str) -> None:
    """For each architecture the largest batch that fits, by way of training, then what was counted and how.

    Args:
        size: bytes.
        precision: as the tables have it.
    """
    of = f"{len(fits)} of {_many(found.architectures, 'architecture')}"
    kind = "bf16 or fp16" if precision == "bf16" else precision
    _head(console, f"open_clip {found.installed} · {of} train in {in_bytes(size)} · {kind}")
    console.print(Text(f" the largest batch that fits at once, of {_row(BATCH_SIZES)}"), soft_wrap=True)
    console.print()
    _heading(console, _NAMED, _FITS)
    for fit in fits:
        name, sizes = fit.architecture.name, _sizes(fit.architecture.profile)
        cells = (*sizes[:2], _accuracy(fit.architecture.best), *map(_batch, (fit.full, fit.lora, fit.heads)))
        _line(console, f" {name}", _NAMED, _FITS, cells)
    _foot(console, [*_COUNTED, *_unknown(found)])


# --- what it means -------------------------------------------------------------------------------

_TOP1 = ("top-1", "of the best tag on ImageNet, zero-shot, as open_clip's documents have it; - where they do not")
_READING = (
    ("GFLOPs", "a forward pass of one image and one text of full length; a multiply-add is two"),
    ("tags", "for model.pretrained: weights trained with the activation that this name computes with"),
    _TOP1,
)
_MORE = (
    "more",
    "clipft models SigLIP · clipft models laion2b · clipft models --fits 8GB · clipft inspect --model NAME",
)
_COUNTED = (
    _TOP1,
    ("full", "all that the loss reaches"),
    ("LoRA", "rank 8 beside every matrix of the blocks, no dropout: about the most it takes"),
    ("heads", "both projections and logit_scale"),
    ("-", "not even 2 rows; more rows than fit at once go in pieces: train.micro_batch_size"),
    (
        "counted",
        "all tensors at the peak of a step: AdamW, images of this size, captions of full length; within 20 % of real "
        "steps on a CPU. A GPU's context and its allocator's gaps come on top",
    ),
)


def _unknown(found: Catalogue) -> list[tuple[str, str]]:
    """What to say where the tables are of another version than the names."""
    if found.tables == found.installed:
        return []
    words = f"these figures are of open_clip {found.tables}"
    missing = [each.name for each in found.architectures if each.profile is None]
    if missing:
        words += f", which had no {missing[0]}: clipft inspect --model {missing[0]}"
    return [("note", words)]


# --- cells ---------------------------------------------------------------------------------------


def _sizes(profile: Profile | None) -> tuple[str, str, str]:
    if profile is None:
        return "-", "-", "-"
    height, width = profile.image_size
    pixels = str(height) if height == width else f"{height}x{width}"
    return f"{profile.parameters / 1e6:,.1f}", pixels, f"{profile.pair_flops / 1e9:,.1f}"


def _accuracy(tag: Tag | None) -> str:
    if tag is None or tag.zero_shot_top1 is None:
        return "-"
    exact = Decimal(str(tag.zero_shot_top1))  # 0.7525 is 0.753, as open_clip rounds it, not the float below it
    return str(exact.quantize(Decimal("0.001"), ROUND_HALF_UP))


def _best(each: Architecture) -> str:
    return each.best.name if each.best is not None else ""


def _batch(rows: int | None) -> str:
    return "-" if rows is None else f"{rows}+" if rows == BATCH_SIZES[-1] else str(rows)


def _many(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _row(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))


# --- lines ---------------------------------------------------------------------------------------


def _head(console: Console, words: str) -> None:
    console.print(Text(words, style="bold"), soft_wrap=True)
    console.print()


def _heading(console: Console, width: int, columns: Sequence[_Column], last: str = "") -> None:
    style = "underline" if console.color_system else ""
    _line(console, " architecture", width, columns, [column.heading for column in columns], last, style)


def _line(
    console: Console,
    name: str,
    width: int,
    columns: Sequence[_Column],
    cells: Sequence[str],
    last: str = "",
    style: str = "",
) -> None:
    numbers = "".join(f"  {cell:>{column.width}}" for cell, column in zip(cells, columns, strict=True))
    console.print(Text(f"{name:<{width}}{numbers}  {last}".rstrip(), style=style), soft_wrap=True)


def _tag_line(console: Console, tag: Tag, width: int) -> None:
    """Its accuracy below that of the architecture; where it belongs to another, which."""
    if tag.loads:
        numbers = _taken(_LISTED)
        console.print(Text(f"{f'   {tag.name}':<{width}}{_accuracy(tag):>{numbers}}"), soft_wrap=True)
        return
    where = f"belongs to {tag.instead}" if tag.instead else "was trained with another activation"
    console.print(Text(f"{f'   {tag.name}':<{width}}  {where}", style="dim"), soft_wrap=True)


def _taken(columns: Sequence[_Column]) -> int:
    return sum(column.width + 2 for column in columns)


def _foot(console: Console, words: Iterable[tuple[str, str]]) -> None:
    console.print()
    for row in _wrapped(words, console.width):
        console.print(Text(row, style="dim"), soft_wrap=True)


def _wrapped(words: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    for word, meaning in words:
        yield from textwrap.wrap(meaning, width, initial_indent=f" {word:<8}", subsequent_indent=" " * 9)

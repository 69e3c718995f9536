"""The curve of `clipft interpolate` as an SVG: a line a data set from the base to the tuned model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from clipft import __version__
from clipft.evaluate.interpolate import Interpolation
from clipft.report.interpolate_view import letters
from clipft.report.map_words import COLOURS
from clipft.report.metric_words import WORDS

MARK = "clipft interpolate"
"""Stands in every picture that is written here."""

_WIDTH, _LEFT, _RIGHT, _PLOT = 760, 64, 32, 320  # pixels
_LINE = 20
_INK, _DIM, _GRID = "#222222", "#666666", "#e4e4e4"


def write_curve(found: Interpolation, path: Path) -> None:
    """Write the picture."""
    path.write_text("\n".join(_picture(found)) + "\n", encoding="utf-8")


def _picture(found: Interpolation) -> Iterator[str]:
    columns = [found.values(number) for number in range(len(found.figures))]
    ticks = _ticks([value for values in columns for value in values])
    top = 44 + _LINE * len(columns) + 34
    height = top + _PLOT + 58
    alphas = [point.alpha for point in found.points]

    def x(alpha: float) -> float:
        return _LEFT + alpha * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return top + _PLOT * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="{_INK}">'
    )
    yield f"<!-- {MARK} {__version__} -->"
    yield f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    yield _text(16, 26, f"{_end(found.run, 48)} mixed with its base", "start", 'font-weight="bold" font-size="15"')
    for number, letter in enumerate(letters(found)):
        level = 44 + _LINE * (number + 0.5)
        yield f'<line x1="18" x2="46" y1="{level:g}" y2="{level:g}" {_stroke(number)}/>'
        yield _marker(32, level, number)
        name = _end(found.points[0].measured[number].data, 64)
        yield _text(56, level + 4.5, f"{letter}  {WORDS[found.figures[number]]} · {name}")
    for tick in ticks:
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{_GRID}"/>'
        yield _text(_LEFT - 8, y(tick) + 4.5, f"{tick:g}", "end", f'fill="{_DIM}"')
    for tick in range(0, 11, 2):
        words = {0: "0 base", 10: "1 tuned"}.get(tick, f"{tick / 10:g}")
        yield _text(x(tick / 10), top + _PLOT + 20, words, "middle", f'fill="{_DIM}"')
    yield f'<path d="M{_LEFT} {top}V{top + _PLOT}H{_WIDTH - _RIGHT}" fill="none" stroke="{_DIM}"/>'
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, height - 14, "alpha: share of the tuned weights", "middle")
    chosen = alphas[found.chosen]
    yield (
        f'<line x1="{x(chosen):.1f}" x2="{x(chosen):.1f}" y1="{top}" y2="{top + _PLOT}" stroke="{_DIM}" '
        'stroke-dasharray="4 4"/>'
    )
    yield _text(min(max(x(chosen), 48), _WIDTH - 48), top - 8, f"chosen: {chosen:g}", "middle", f'fill="{_DIM}"')
    for number, values in enumerate(columns):
        points = " ".join(f"{x(alpha):.1f},{y(value):.1f}" for alpha, value in zip(alphas, values, strict=True))
        yield f'<polyline points="{points}" fill="none" {_stroke(number)}/>'
        yield from (_marker(x(alpha), y(value), number) for alpha, value in zip(alphas, values, strict=True))
    yield "</svg>"


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around the values, four to seven of them."""
    low, high = min(values), max(values)
    span = max(high - low, 0.02)
    step = next(step for step in _steps() if span / step <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _steps() -> Iterator[float]:
    power = -4
    while True:
        yield from (round(digit * 10**power, 10) for digit in (1, 2, 5))
        power += 1


def _stroke(number: int) -> str:
    dashes = ("", ' stroke-dasharray="7 3"', ' stroke-dasharray="2 3"')[number // len(_SHAPES) % 3]
    return f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"{dashes}'


_SHAPES = ("circle", "square", "diamond")


def _marker(x: float, y: float, number: int) -> str:
    """A dot whose shape tells lines apart where colour does not."""
    colour = f'fill="{COLOURS[number % len(COLOURS)]}"'
    match _SHAPES[number % len(_SHAPES)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {colour}/>'
        case "square":
            return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" {colour}/>'
        case _:
            return f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" {colour}/>'


def _text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    printable = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in words)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(printable)}</text>'


def _end(words: str, most: int) -> str:
    """For paths, whose end tells more."""
    return words if len(words) <= most else f"…{words[1 - most :]}"

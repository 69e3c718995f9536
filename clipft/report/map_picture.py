"""The map as a picture, by matplotlib: models side by side, a row of panels for each method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipft import __version__
from clipft.data.columns import Ints
from clipft.embed.features import Embeddings, Side
from clipft.embed.maps import Layout, Map, Points
from clipft.embed.outfile import MARK
from clipft.embed.vectors import printable
from clipft.report.map_labels import name_points
from clipft.report.map_words import (
    CAPTION_COLOUR,
    COLOURS,
    HOW,
    IMAGE_COLOUR,
    NO_CLASS,
    PAIRS_DRAWN,
    counts_line,
    figures_lines,
    layout_line,
    side_words,
)

DPI = 120
_PANEL, _GAP, _LINE = 7.0, 0.3, 0.24  # inches: a panel's side, between panels, a line of text
_SHAPES = "os^DvP<Xp"  # nine, ten colours: neighbours differ in both, and 90 classes are marked apart
_IN_LEGEND = 60  # classes; more would fill the picture, and each class's name stands in the map


def write_picture(
    embeddings: Embeddings, drawn: Map, figures: Mapping[Side, dict[str, float]], path: Path
) -> tuple[str, ...]:
    """Write a .png and return what to say about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", ".*missing from font", UserWarning)
        figure = _compose(embeddings, drawn, figures)
        figure.savefig(path, format="png", metadata={"Software": f"{MARK} {__version__}"})
    if any("missing from font" in str(warning.message) for warning in caught):
        return ("the fonts of this machine lack letters of some names in the picture; a page (.html) shows them",)
    return ()


def _compose(embeddings: Embeddings, drawn: Map, figures: Mapping[Side, dict[str, float]]) -> Any:
    """The whole figure, laid out in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = _legend_entries(embeddings)
    lines = -(-len(entries) // (5 * len(embeddings.sides)))
    above = _LINE * (4.2 + max(len(figures_lines(found)) for found in figures.values()))
    below = _LINE * (lines + 2.5)
    width = len(embeddings.sides) * (_PANEL + _GAP) + _GAP
    height = above + len(drawn.methods) * (_PANEL + _GAP) + below
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)  # names are measured before they are placed
    title = f"{_end_of(embeddings.rows.name, 40 * len(embeddings.sides))} · {counts_line(embeddings, drawn)}"
    figure.text(_GAP / width, 1 - 0.4 / height, title, fontsize=14, parse_math=False)
    for column, side in enumerate(embeddings.sides):
        left = _GAP + column * (_PANEL + _GAP)
        _write_head(figure, left / width, 1 - 0.7 / height, side_words(embeddings, side), figures[side])
        for row, method in enumerate(drawn.methods):
            bottom = height - above - (row + 1) * _PANEL - row * _GAP
            panel = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
            _draw(panel, embeddings, drawn, drawn.layout(side, method))
    _write_legend(figure, entries, lines, _GAP / width, (below - _LINE / 2) / height)
    figure.text(_GAP / width, 0.1 / height, HOW, fontsize=7.5, color="#555555", wrap=True)
    return figure


def _write_head(figure: Any, left: float, top: float, head: str, figures: dict[str, float]) -> None:
    """The model's name and figures above its panels."""
    figure.text(left, top, _end_of(head, 70), fontsize=11, fontweight="bold", va="top", parse_math=False)
    figure.text(left, top, "\n" + "\n".join(figures_lines(figures)), fontsize=9, va="top", linespacing=1.4)


def _draw(panel: Any, embeddings: Embeddings, drawn: Map, layout: Layout) -> None:
    _frame(panel, layout)
    labels = embeddings.labels()
    images, captions = layout.points["image"], layout.points.get("caption")
    size = float(np.clip(6000 / len(images), 5, 22))
    if captions is not None:
        if len(drawn.pairs) <= PAIRS_DRAWN:
            _join(panel, images[drawn.pairs[:, 0]], captions[drawn.pairs[:, 1]])
        of_captions = labels[embeddings.first_captions()[drawn.captions]]
        _scatter(panel, captions, of_captions, embeddings, size, caption=True)
    _scatter(panel, images, labels[embeddings.first_rows()[drawn.images]], embeddings, size, caption=False)
    if "class" in layout.points:
        names = [_short(name, 24) for name in embeddings.classes]
        name_points(panel, layout.points["class"], names, [_mark(i, embeddings)[1] for i in range(len(names))])


def _frame(panel: Any, layout: Layout) -> None:
    """A square around all points, the same scale both ways; the axes' own numbers say nothing."""
    everything = np.concatenate(list(layout.points.values()))
    low, high = everything.min(axis=0), everything.max(axis=0)
    half = max(float((high - low).max()) / 2 * 1.08, 1e-6)
    middle = (low + high) / 2
    panel.set(
        xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), xticks=[], yticks=[]
    )
    panel.set_title(layout_line(layout), fontsize=9, loc="left", pad=3)
    for spine in panel.spines.values():
        spine.set_color("#bbbbbb")


def _join(panel: Any, images: Points, captions: Points) -> None:
    from matplotlib.collections import LineCollection

    lines = np.stack([images, captions], axis=1)  # (P, 2 ends, 2)
    panel.add_collection(LineCollection(list(lines), colors="#888888", linewidths=0.4, alpha=0.5, zorder=1))


def _scatter(panel: Any, points: Points, labels: Ints, embeddings: Embeddings, size: float, *, caption: bool) -> None:
    """Dots in the colour and shape of their class; captions are rings."""
    if not embeddings.classes:
        labels = np.full(len(points), -1)
    for label in np.unique(labels):
        some = points[labels == label]
        shape, colour = _mark(int(label), embeddings, caption=caption)
        if caption:
            panel.scatter(*some.T, s=size, marker=shape, facecolors="none", edgecolors=colour, linewidths=0.8, zorder=2)
        else:
            panel.scatter(*some.T, s=size, marker=shape, color=colour, linewidths=0, zorder=3)


def _mark(label: int, embeddings: Embeddings, *, caption: bool = False) -> tuple[str, str]:
    """Shape and colour of a class's dots."""
    if not embeddings.classes:
        return "o", CAPTION_COLOUR if caption else IMAGE_COLOUR
    if label < 0:
        return "o", NO_CLASS
    return _SHAPES[label % len(_SHAPES)], COLOURS[label % len(COLOURS)]


def _legend_entries(embeddings: Embeddings) -> list[tuple[str, str, str, bool]]:
    """Words, shape, colour and whether it is filled."""
    if not embeddings.classes:
        rings = [("captions", "o", CAPTION_COLOUR, False)] if embeddings.caption_of is not None else []
        return [("images", "o", IMAGE_COLOUR, True), *rings]
    classes = [(_short(name, 24), *_mark(i, embeddings), True) for i, name in enumerate(embeddings.classes)]
    kinds = [("prompts of a class", "*", "black", False)]
    if embeddings.caption_of is not None:
        kinds.append(("captions", "o", "black", False))
    if (embeddings.labels() < 0).any():
        kinds.append(("no class", "o", NO_CLASS, True))
    return [*(classes if len(classes) <= _IN_LEGEND else []), *kinds]


def _write_legend(figure: Any, entries: list[tuple[str, str, str, bool]], lines: int, left: float, top: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=shape, color=colour, fillstyle="full" if filled else "none")
        for _, shape, colour, filled in entries
    ]
    legend = figure.legend(
        handles,
        [words for words, *_ in entries],
        loc="upper left",
        bbox_to_anchor=(left, top),
        borderpad=0,
        borderaxespad=0,
        ncols=-(-len(entries) // lines),
        frameon=False,
        fontsize=9,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(text: str, most: int) -> str:
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _end_of(text: str, most: int) -> str:
    """For paths, whose end tells more."""
    text = printable(text)
    return text if len(text) <= most else f"…{text[1 - most :]}"

"""The map as one page that needs no network: point at a dot to see its picture, its caption, and where it moved to."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from clipft import __version__
from clipft.embed.features import Embeddings, Side
from clipft.embed.maps import Kind, Layout, Map
from clipft.embed.methods import NAMES
from clipft.embed.outfile import MARK
from clipft.embed.vectors import printable
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

THUMBNAILS = 2000
"""Small pictures in a page at most: about 8 MB of it."""
_KINDS: tuple[Kind, ...] = ("image", "caption", "class")
_MARGIN = 0.05  # of the panel, around all points


def write_page(
    embeddings: Embeddings, drawn: Map, figures: Mapping[Side, dict[str, float]], path: Path
) -> tuple[str, ...]:
    """Write a .html and return what to say about it."""
    notes = _thumbnail_notes(embeddings, drawn)
    data = page_data(embeddings, drawn, figures) | {"notes": notes}
    page = files("clipft.report").joinpath("map_page.html").read_text(encoding="utf-8")
    # "<" would let a caption end the element that holds the data
    values = {
        "generator": html.escape(f"{MARK} {__version__}"),
        "title": html.escape(data["title"]),
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    path.write_text(re.sub(r"\{\{(\w+)\}\}", lambda name: values[name[1]], page), encoding="utf-8")
    return tuple(notes)


def page_data(embeddings: Embeddings, drawn: Map, figures: Mapping[Side, dict[str, float]]) -> dict[str, Any]:
    """All that the page's script draws; points are between 0 and 1, from the upper left."""
    labels, rows = embeddings.labels(), embeddings.rows
    image_rows = embeddings.first_rows()[drawn.images]
    images = [
        {
            "name": printable(rows.images[row]),
            "label": int(labels[row]),
            **({"thumbnail": base64.b64encode(thumb).decode()} if (thumb := embeddings.thumbnails[place]) else {}),
        }
        for row, place in zip(image_rows, drawn.images, strict=True)
    ]
    captions = []
    if rows.captions is not None:
        caption_rows = embeddings.first_captions()[drawn.captions]
        captions = [{"name": printable(rows.captions[row]), "label": int(labels[row])} for row in caption_rows]
    return {
        "title": f"{printable(rows.name)} · {counts_line(embeddings, drawn)}",
        "how": HOW,
        "classes": [printable(name) for name in embeddings.classes],
        "template": printable(embeddings.templates[0]),
        "images": images,
        "captions": captions,
        "pairs": drawn.pairs.tolist(),
        "pairs_drawn": PAIRS_DRAWN,
        "methods": [{"key": method, "name": NAMES[method]} for method in drawn.methods],
        "sides": [_side(embeddings, drawn, side, figures[side]) for side in embeddings.sides],
        "colours": COLOURS,
        "image_colour": IMAGE_COLOUR,
        "caption_colour": CAPTION_COLOUR,
        "no_class": NO_CLASS,
    }


def _side(embeddings: Embeddings, drawn: Map, side: Side, figures: dict[str, float]) -> dict[str, Any]:
    features = embeddings.sides[side]
    nearest: list[int] = []
    if features.classes is not None:
        nearest = (features.images[drawn.images] @ features.classes.T).argmax(dim=1).tolist()
    layouts = {method: drawn.layout(side, method) for method in drawn.methods}
    return {
        "side": side,
        "heading": printable(side_words(embeddings, side)),
        "figures": figures_lines(figures),
        "nearest": nearest,
        "layouts": {m: {"words": layout_line(layout), "points": _on_panel(layout)} for m, layout in layouts.items()},
    }


def _on_panel(layout: Layout) -> list[list[float]]:
    """Images, captions, classes after each other, in a square of side 1 with the same scale both ways."""
    everything = np.concatenate([layout.points[kind] for kind in _KINDS if kind in layout.points])
    low, high = everything.min(axis=0), everything.max(axis=0)
    extent = max(float((high - low).max()), 1e-9) / (1 - 2 * _MARGIN)
    placed = (everything - (low + high) / 2) / extent * [1, -1] + 0.5
    return [[round(x, 4), round(y, 4)] for x, y in placed.tolist()]


def _thumbnail_notes(embeddings: Embeddings, drawn: Map) -> list[str]:
    there = sum(embeddings.thumbnails[place] is not None for place in drawn.images)
    if there == len(drawn.images):
        return []
    return [f"The page holds small pictures of {there:,} of its {len(drawn.images):,} images."]

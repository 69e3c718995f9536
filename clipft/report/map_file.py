"""A map as the file that its suffix names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from clipft.embed.features import Embeddings, Side
from clipft.embed.maps import Map
from clipft.embed.methods import NAMES
from clipft.report.map_page import THUMBNAILS, write_page
from clipft.report.map_picture import write_picture


def thumbnails_for(path: Path | None) -> int:
    """How many small pictures a map of this form holds at most."""
    return THUMBNAILS if path is not None and path.suffix.lower() == ".html" else 0


def write_map(
    embeddings: Embeddings, drawn: Map, figures: Mapping[Side, dict[str, float]], path: Path
) -> tuple[str, tuple[str, ...]]:
    """Write it; return what it holds and what to say about it."""
    by = " and ".join(NAMES[method] for method in drawn.methods)
    if path.suffix.lower() == ".html":
        return f"{by}, to be opened in a browser", write_page(embeddings, drawn, figures, path)
    notes = write_picture(embeddings, drawn, figures, path)
    with Image.open(path) as picture:
        return f"{by}, {picture.width:,} x {picture.height:,} pixels", notes

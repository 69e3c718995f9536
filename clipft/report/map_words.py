"""What both forms of a map say and how they mark classes."""

from __future__ import annotations

from clipft.embed.features import Embeddings, Side
from clipft.embed.maps import Layout, Map
from clipft.embed.methods import NAMES
from clipft.report.amounts import share
from clipft.report.metric_words import WORDS

COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Ten that the colour-blind tell apart (Petroff 2021, arXiv:2107.02270); each class takes the next shape too."""
IMAGE_COLOUR, CAPTION_COLOUR = COLOURS[0], COLOURS[6]
"""Where there are no classes."""
NO_CLASS = "#c8c8c8"
PAIRS_DRAWN = 500
"""More lines between images and captions than this hide what they join."""

HOW = (
    "Images and texts are each moved to their own mean and scaled to the same spread before they are laid out "
    "together: otherwise only the gap between the two kinds would show."
)


def counts_line(embeddings: Embeddings, drawn: Map) -> str:
    """What is on the map, and of how much."""
    whole = len(next(iter(embeddings.sides.values())).images)
    images = f"{whole:,} images" if len(drawn.images) == whole else f"{len(drawn.images):,} of {whole:,} images"
    words = [images]
    if embeddings.classes:
        words.append(f"{len(embeddings.classes):,} classes")
    if embeddings.caption_of is not None:
        words.append(f"{len(drawn.captions):,} captions")
    return " · ".join(words)


def figures_lines(figures: dict[str, float]) -> list[str]:
    """A model's figures beside its map, which cannot show them; a line for classes, one for captions."""
    lines = []
    for kind, name in (("class", "zero_shot_top1"), ("caption", "image_to_text_r1")):
        if name in figures:
            own, every = figures[f"cosine_own_{kind}"], figures[f"cosine_any_{kind}"]
            lines.append(f"{WORDS[name]} {figures[name]:.3f} · cosine with own {kind} {own:.2f}, with any {every:.2f}")
    return lines


def layout_line(layout: Layout) -> str:
    """How far the map can be trusted."""
    if layout.share is not None:
        return f"PCA: its two axes hold {share(round(1e6 * layout.share), 1_000_000)} of the spread"
    return f"{NAMES[layout.method]}: neighbours stay neighbours; how far groups are apart means little"


def side_words(embeddings: Embeddings, side: Side) -> str:
    """Which model a panel shows."""
    return f"{side} · {embeddings.sides[side].name}" if side == "base" else f"{side} · {embeddings.target}"

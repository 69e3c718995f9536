"""`clipft embed` in the terminal: what was embedded, how near texts lie to their images, what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipft.embed.features import Embeddings, Side
from clipft.report.amounts import in_bytes
from clipft.report.metric_words import WORDS
from clipft.report.words_grid import add_faults_and_notes, words_grid

_FIGURES = {
    "zero_shot_top1": WORDS["zero_shot_top1"],
    "cosine_own_class": "cosine of image and own class",
    "cosine_any_class": "cosine of image and any class",
    "image_to_text_r1": WORDS["image_to_text_r1"],
    "cosine_own_caption": "cosine of image and own caption",
    "cosine_any_caption": "cosine of image and any caption",
}


def embed_view(
    embeddings: Embeddings,
    figures: Mapping[Side, dict[str, float]],
    written: Sequence[tuple[Path, str]],
    notes: Sequence[str],
) -> RenderableType:
    """Facts, figures and files.

    Args:
        embeddings: what was embedded.
        figures: by model.
        written: each file with what is in it.
        notes: what else to know.
    """
    return Group(
        Padding(_facts(embeddings), (0, 0, 1, 1)),
        Padding(_figures(figures), (0, 0, 1, 1)),
        Padding(_files(embeddings, written, (*embeddings.notes, *notes)), (0, 0, 0, 1)),
    )


def shapes(embeddings: Embeddings) -> str:
    """What a file of vectors holds, in a line."""
    features = next(iter(embeddings.sides.values()))
    width, rows = features.images.shape[1], len(embeddings.rows)
    words = [f"images {rows:,} x {width}"]
    if features.captions is not None:
        words.append(f"captions {rows:,} x {width}")
    if features.classes is not None:
        words.append(f"classes {len(features.classes):,} x {width}")
    return f"{' and '.join(embeddings.sides)}: {', '.join(words)}"


def _facts(embeddings: Embeddings) -> Table:
    grid = words_grid()
    grid.add_row("model", Text(embeddings.target, style="bold"))
    base = embeddings.sides.get("base")
    if base is not None and base.name != embeddings.target:
        grid.add_row("base", Text(base.name))
    grid.add_row("data", Text(embeddings.rows.name))
    words = [f"{len(embeddings.first_rows()):,} images"]
    if embeddings.classes:
        words.append(f"{len(embeddings.classes):,} classes")
    if embeddings.caption_of is not None:
        words.append(f"{len(embeddings.first_captions()):,} captions")
    grid.add_row("", " · ".join([*words, f"{len(embeddings.faults):,} unreadable"]))
    if embeddings.classes:
        prompt = embeddings.templates[0].replace("{}", embeddings.classes[0])
        grid.add_row("prompts", Text(f'"{prompt}"'))
    return grid


def _figures(figures: Mapping[Side, dict[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    for side in figures:
        table.add_column(side, justify="right", no_wrap=True)
    for name, words in _FIGURES.items():
        if any(name in found for found in figures.values()):
            table.add_row(words, *(f"{found[name]:.3f}" for found in figures.values()))
    return table


def _files(embeddings: Embeddings, written: Sequence[tuple[Path, str]], notes: Sequence[str]) -> Table:
    grid = words_grid()
    for path, content in written:
        grid.add_row("wrote", Text(f"{path}  {in_bytes(path.stat().st_size)}", style="bold"))
        grid.add_row("", Text(content))
    add_faults_and_notes(grid, embeddings.faults, notes)
    return grid

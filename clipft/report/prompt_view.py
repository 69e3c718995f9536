"""Learnt prompt vectors on a page: which words each is nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from clipft.model.prompt_words import VectorWords

_CLASSES = 5  # of vectors of their own that are printed


def print_prompt_words(found: Sequence[VectorWords], layout: str, console: Console) -> None:
    """A line a vector: its length and the nearest words with their distances.

    Args:
        found: the vectors, class by class where they are a class's own.
        layout: what the model reads for a text.
    """
    console.print(Text(f" {layout}", style="bold"))
    console.print(Text("\n vector  length  nearest words (Euclidean distance of their embeddings)"))
    groups = [(owner, list(vectors)) for owner, vectors in groupby(found, lambda vector: vector.owner)]
    for owner, vectors in groups[:_CLASSES]:
        if owner is not None:
            console.print(Text(f" {owner}", style="bold"))
        for vector in vectors:
            near = " · ".join(f"{near.word} {near.distance:.3f}" for near in vector.words)
            console.print(Text(f" {f'V{vector.vector}':<6}  {vector.length:6.3f}  {near}"), soft_wrap=True)
    if len(groups) > _CLASSES:
        console.print(Text(f"\n {len(groups) - _CLASSES} more classes have vectors of their own; --json has them all"))

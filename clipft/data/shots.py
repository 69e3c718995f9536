"""Few shots: so many images of each class train, the same ones for the same draw."""

from __future__ import annotations

import numpy as np

from clipft.config.data_schema import ShotsConfig
from clipft.data.columns import Ints
from clipft.data.draws import SHOTS, draw
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.words import counted, some


def few_shots(rows: Rows, shots: ShotsConfig) -> tuple[Rows, tuple[str, ...]]:
    """The drawn images of each class with all their rows, in the order they had; and what makes figures doubtful.

    Images are drawn, not rows: one with five captions is one shot. Which images these are hangs on the draw's seed
    alone, and fewer shots of a seed are among the more. A class with fewer images gives all it has, as in CoOp's own
    draws (Dassl, `generate_fewshot_dataset`), and is named. A row without a class is not drawn.

    Raises:
        InputError: the rows have no classes.
    """
    if rows.labels is None or not (rows.labels >= 0).any():
        raise InputError(
            f"data.shots: draws images of each class, and {rows.name} has no classes; name a label column, or leave "
            "data.shots out"
        )
    drawn, images = [], np.zeros(len(rows.classes), np.int64)
    priority = {identity: draw(SHOTS, shots.seed, identity) for identity in np.unique(rows.identities).tolist()}
    for label in range(len(rows.classes)):
        members = np.flatnonzero(rows.labels == label)
        chosen = _first(rows.identities[members], priority, shots.per_class)
        drawn.append(members[np.isin(rows.identities[members], chosen)])
        images[label] = len(chosen)
    return rows.take(np.sort(np.concatenate(drawn))), _short(rows, images, shots.per_class)


def shots_in_words(shots: ShotsConfig) -> str:
    """`16 shots a class (draw 0)`."""
    return f"{counted(shots.per_class, 'shot')} a class (draw {shots.seed})"


def _first(identities: Ints, priority: dict[int, int], count: int) -> list[int]:
    """The distinct images that come first in the draw's order."""
    return sorted(np.unique(identities).tolist(), key=priority.__getitem__)[:count]


def _short(rows: Rows, images: Ints, count: int) -> tuple[str, ...]:
    """Which classes have fewer images than were asked for."""
    there = zip(rows.classes, images.tolist(), strict=True)
    fewer = [f"{name} ({has})" for name, has in there if has < count and name not in rows.novel]
    if not fewer:
        return ()
    classes = counted(len(fewer), "class") if len(fewer) == 1 else f"{len(fewer)} classes"
    return (f"{rows.name}: {classes} with fewer than {counted(count, 'image')} to draw: {some(fewer)}; all are taken",)

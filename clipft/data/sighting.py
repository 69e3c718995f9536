"""What a look at the rows shows before any training: counts, faults, copies. No more is opened than is quick."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from clipft.data.captions import RepeatReport, repeats
from clipft.data.columns import Ints
from clipft.data.images import ImageFault
from clipft.data.rows import Rows

MOST_IMAGES = 200
MOST_SECONDS = 5.0


@dataclass(frozen=True)
class Sighting:
    """What was seen.

    Args:
        rows: of the training source, with what is held out of it.
        training: those of them that are trained on.
        validation: rows to measure on; 0 for none.
        classes: as the data names them.
        counts: rows of each class among `rows`.
        unlabelled: rows without a class.
        repeats: how often captions come again; None where there are none.
        opened: images that were decoded.
        faults: those of them that could not be.
        missing: rows whose image is no file, or an empty one.
        copies: rows whose image was there before, byte for byte.
        across: images that lie in two classes, by two of their paths.
    """

    rows: int
    training: int
    validation: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    unlabelled: int
    repeats: RepeatReport | None
    opened: int
    faults: tuple[str, ...]
    missing: int
    copies: int
    across: tuple[tuple[str, str], ...]


def look(whole: Rows, *, training: int, validation: int) -> Sighting:
    """Look at all rows, at the size of every file, and into some of the images.

    Args:
        whole: the training source before anything is held out of it, images identified by content.
        training: how many of them stay.
        validation: rows to measure on.
    """
    opened, faults = _open_some(whole)
    return Sighting(
        rows=len(whole),
        training=training,
        validation=validation,
        classes=whole.classes,
        counts=tuple(whole.class_counts().tolist()),
        unlabelled=0 if whole.labels is None else int((whole.labels < 0).sum()),
        repeats=None if whole.captions is None else repeats(whole),
        opened=opened,
        faults=faults,
        missing=_missing(whole),
        copies=len(whole) - len(np.unique(whole.identities)),
        across=_across(whole),
    )


def _open_some(rows: Rows) -> tuple[int, tuple[str, ...]]:
    """How many images were opened, evenly over the rows, and the faults found."""
    _, first = np.unique(rows.identities, return_index=True)  # each image once
    chosen = first[np.linspace(0, len(first) - 1, min(MOST_IMAGES, len(first)), dtype=np.int64)]
    faults, opened, begin = [], 0, time.monotonic()
    for row in chosen.tolist():
        if rows.images.size(row) <= 0:
            continue
        opened += 1
        try:
            rows.images.read(row)
        except ImageFault as fault:
            faults.append(str(fault))
        if time.monotonic() - begin > MOST_SECONDS:
            break
    return opened, tuple(faults)


def _missing(rows: Rows) -> int:
    """Rows whose image has no file or an empty one; each image is asked once."""
    values, first, inverse = np.unique(rows.identities, return_index=True, return_inverse=True)
    gone = np.array([rows.images.size(row) <= 0 for row in first.tolist()], bool)
    return int(gone[inverse].sum()) if len(values) else 0


def _across(rows: Rows) -> tuple[tuple[str, str], ...]:
    """Images that lie in two classes or more: the first row of each, and the first one in another class."""
    if rows.labels is None:
        return ()
    labels: Ints = rows.labels
    _, first, inverse = np.unique(rows.identities, return_index=True, return_inverse=True)
    before = first[inverse]  # (N,) the first row with the same image
    other = np.flatnonzero((labels != labels[before]) & (labels >= 0) & (labels[before] >= 0))
    pairs = {int(before[row]): row for row in reversed(other.tolist())}
    return tuple((rows.images[one], rows.images[row]) for one, row in sorted(pairs.items()))

"""What a look at the rows shows before any training: counts, faults, copies. No more is opened than is quick."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipft.data.captions import RepeatReport, repeats
from clipft.data.columns import Ints
from clipft.data.images import ImageFault
from clipft.data.rows import Rows

MOST_IMAGES = 200
MOST_SECONDS = 5.0
MOST_NAMED = 3


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
        checked: images of which the header alone was looked at.
        faults: those of both that cannot be read.
        missing: rows whose image is no file, or an empty one.
        copies: rows whose image was there before, byte for byte.
        pairs: the first few of them, each with the one that was there.
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
    checked: int
    faults: tuple[str, ...]
    missing: int
    copies: int
    pairs: tuple[tuple[str, str], ...]
    across: tuple[tuple[str, str], ...]


def look(whole: Rows, *, training: int, validation: int) -> Sighting:
    """Look at all rows, at the size of every file, and into some of the images.

    Args:
        whole: the training source before anything is held out of it, images identified by content.
        training: how many of them stay.
        validation: rows to measure on.
    """
    opened, checked, faults = _open_some(whole)
    return Sighting(
        rows=len(whole),
        training=training,
        validation=validation,
        classes=whole.classes,
        counts=tuple(whole.class_counts().tolist()),
        unlabelled=0 if whole.labels is None else int((whole.labels < 0).sum()),
        repeats=None if whole.captions is None else repeats(whole),
        opened=opened,
        checked=checked,
        faults=faults,
        missing=_missing(whole),
        copies=len(whole) - len(np.unique(whole.identities)),
        pairs=_pairs(whole),
        across=_across(whole),
    )


def _open_some(rows: Rows) -> tuple[int, int, tuple[str, ...]]:
    """How many images were opened, evenly over the rows; of how many others the header; the faults found."""
    _, first = np.unique(rows.identities, return_index=True)  # each image once
    chosen = first[np.linspace(0, len(first) - 1, min(MOST_IMAGES, len(first)), dtype=np.int64)]
    opened, damaged = _faults(rows, chosen, rows.images.read)
    checked, no_pictures = _faults(rows, np.setdiff1d(first, chosen), rows.images.check)
    return opened, checked, damaged + no_pictures


def _faults(rows: Rows, chosen: Ints, look_at: Callable[[int], object]) -> tuple[int, tuple[str, ...]]:
    """How many of these images were looked at in the time there is, and what is wrong with them."""
    faults, seen, begin = [], 0, time.monotonic()
    for row in chosen.tolist():
        if rows.images.size(row) <= 0:
            continue
        seen += 1
        try:
            look_at(row)
        except ImageFault as fault:
            faults.append(str(fault))
        if time.monotonic() - begin > MOST_SECONDS:
            break
    return seen, tuple(faults)


def _missing(rows: Rows) -> int:
    """Rows whose image has no file or an empty one; each image is asked once."""
    values, first, inverse = np.unique(rows.identities, return_index=True, return_inverse=True)
    gone = np.array([rows.images.size(row) <= 0 for row in first.tolist()], bool)
    return int(gone[inverse].sum()) if len(values) else 0


def _pairs(rows: Rows) -> tuple[tuple[str, str], ...]:
    """The first copies: the row that was there before, and the copy."""
    _, first, inverse = np.unique(rows.identities, return_index=True, return_inverse=True)
    before = first[inverse]
    copies = np.flatnonzero(before != np.arange(len(rows)))[:MOST_NAMED]
    return tuple((rows.images[int(before[row])], rows.images[row]) for row in copies.tolist())


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

"""The first bytes of every image, looked at before the first step: what is no picture shows there already."""

from __future__ import annotations

import time

import numpy as np

from clipft.data.images import ImageFault
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.words import counted, some

MOST_SECONDS = 5.0
"""A header takes 0.05 ms, 0.3 ms where the file is not in memory yet (2 cores, JPEGs of 400 x 300); a longer check
leaves the rest of the rows to training, which decodes them anyway."""


def refuse_no_pictures(rows: Rows, max_bad_fraction: float) -> None:
    """Refuse rows of which too many are no pictures, as training would once it had met them.

    Truncated ones have a sound header: they show when they are decoded.

    Raises:
        InputError: more than the allowed share of the rows.
    """
    _, first, inverse = np.unique(rows.identities, return_index=True, return_inverse=True)
    times = np.bincount(inverse)  # rows that show the image
    bad, faults, begin = 0, [], time.monotonic()
    for row, shown in zip(first.tolist(), times.tolist(), strict=True):
        try:
            rows.images.check(row)
        except ImageFault as fault:
            bad += shown
            faults.append(str(fault))
        if time.monotonic() - begin > MOST_SECONDS:
            break
    if bad > max_bad_fraction * len(rows) or bad == len(rows):
        raise InputError(
            f"{bad:,} of {counted(len(rows), 'image')} of {rows.name} ({100 * bad / len(rows):.2g} %) cannot be read, "
            f"more than the {100 * max_bad_fraction:g} % of data.max_bad_fraction: {some(faults, 3)}. Mend or remove "
            "them, or raise the limit"
        )

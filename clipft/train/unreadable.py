"""Images to measure or to search on that cannot be read: named once, and too many of them end the run (P3)."""

from __future__ import annotations

from collections.abc import Sequence

from clipft.data.decoding import RowFault
from clipft.errors import InputError
from clipft.report.train_view import TrainView


def tell_unreadable(
    faults: Sequence[RowFault], source: str, rows: int, limit: float, view: TrainView, named: set[str]
) -> None:
    """Warn of each image that was left out.

    Args:
        faults: what could not be read of the source.
        source: its name.
        rows: how many it has.
        limit: `data.max_bad_fraction`.
        view: who is told.
        named: paths of the images that were told of before; those of now are added.

    Raises:
        InputError: they are more than the limit.
    """
    for fault in faults:
        if fault.path not in named:
            named.add(fault.path)
            view.warn(f"{fault}; it is left out")
    if len(faults) > limit * rows:
        raise InputError(
            f"{len(faults)} of {rows} images of {source} cannot be decoded, more than the {limit:.2%} of "
            f"data.max_bad_fraction; the first is {faults[0]}. Mend or remove them"
        )

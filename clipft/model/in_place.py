"""Other values in a model's tensors for a moment: the base's, or an average's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

Pairs = Sequence[tuple[Tensor, Tensor]]
"""A tensor of the model, and one of the same shape, type and device that may stand in for it."""


@contextmanager
def in_place(pairs: Pairs) -> Iterator[None]:
    """Let the second of each pair be the model's, and the first again afterwards.

    Storage changes hands and nothing is copied, so it costs no memory and no bit changes. A graph of the model that is
    still to be gone back through must not be read meanwhile.
    """
    own = [tensor.data for tensor, _ in pairs]
    for tensor, other in pairs:
        tensor.data = other
    try:
        yield
    finally:
        for (tensor, _), data in zip(pairs, own, strict=True):
            tensor.data = data

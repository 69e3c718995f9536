"""Which images are the same file content, over one source or several (P10): sizes first, so that it stays cheap."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from clipft.data.columns import Ints
from clipft.data.rows import Images


@dataclass(frozen=True, eq=False)
class Identified:
    """Of one source's images.

    Args:
        ids: (N,) equal where the content is equal, over all sources identified together.
        absent: indices of images that have no file, or one of 0 bytes.
    """

    ids: Ints
    absent: Ints


def identify(sources: Sequence[Images]) -> list[Identified]:
    """Compare all images of these sources by path, then size, then tail, then all bytes.

    Files of different pictures almost never agree in size and last 4 KB, so whole files are read only for true
    copies: a million images cost a million stats and short reads.
    """
    images = [(source, index) for source in sources for index in range(len(source))]
    first_at: dict[str, int] = {}  # path -> its first row
    ids = np.array([first_at.setdefault(source[index], row) for row, (source, index) in enumerate(images)], np.int64)
    sizes = {row: source.size(index) for row in first_at.values() for source, index in [images[row]]}
    candidates = [row for row in first_at.values() if sizes[row] > 0]
    marks: tuple[Callable[[int], Hashable], ...] = (
        sizes.__getitem__,
        lambda row: images[row][0].digest(images[row][1], tail=True),
        lambda row: images[row][0].digest(images[row][1], tail=False),
    )
    alike = [candidates]
    for mark in marks:
        alike = [finer for members in alike for finer in _split(members, mark) if len(finer) > 1]
    same_as = np.arange(len(images))
    for members in alike:
        same_as[members] = members[0]
    absent = np.array([sizes[row] <= 0 for row in ids.tolist()], bool)
    cuts = np.cumsum([len(source) for source in sources])[:-1]
    return [
        Identified(part, np.flatnonzero(gone))
        for part, gone in zip(np.split(same_as[ids], cuts), np.split(absent, cuts), strict=True)
    ]


def _split(members: list[int], mark: Callable[[int], Hashable]) -> list[list[int]]:
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for member in members:
        groups[mark(member)].append(member)
    return list(groups.values())

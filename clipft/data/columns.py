"""Text in flat memory: a million captions are two arrays, not a million objects.

A forked worker shares their pages, which a list's reference counts would copy one by one; a spawned one gets the two.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class TextColumn(Sequence[str]):
    """An immutable column of strings over one byte array.

    Args:
        data: the UTF-8 bytes of all strings, one after the other.
        ends: (N + 1,) string i is data[ends[i]:ends[i + 1]].
    """

    __slots__ = ("_data", "_ends")

    def __init__(self, data: NDArray[np.uint8], ends: Ints) -> None:
        self._data = data
        self._ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumn:
        """The column of these strings."""
        builder = TextColumnBuilder()
        for text in texts:
            builder.append(text)
        return builder.build()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> TextColumn: ...
    def __getitem__(self, index: int | slice) -> str | TextColumn:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a column of {len(self)}")
        index %= len(self)
        return self._data[self._ends[index] : self._ends[index + 1]].tobytes().decode("utf-8", "surrogatepass")

    def take(self, indices: Ints) -> TextColumn:
        """The column of the rows at these indices, in their order."""
        starts, lengths = self._ends[indices], np.diff(self._ends)[indices]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(starts - ends[:-1], lengths)  # where each kept byte stood
        return TextColumn(self._data[places], ends)

    def codes(self) -> Ints:
        """(N,) equal numbers for equal strings, counted in order of first appearance."""
        seen: dict[str, int] = {}
        return np.fromiter((seen.setdefault(text, len(seen)) for text in self), np.int64, len(self))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._data.nbytes + self._ends.nbytes


class TextColumnBuilder:
    """Grows a column string by string."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Add one string; undecodable bytes of file names survive as they are."""
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def build(self) -> TextColumn:
        """The column so far."""
        return TextColumn(np.array(self._data, dtype=np.uint8), np.array(self._ends, dtype=np.int64))

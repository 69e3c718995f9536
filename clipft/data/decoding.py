"""What runs in the worker processes: a batch of keys becomes one tensor, faults beside it.

A worker holds no state: the same key gives the same tensor in any worker, process or epoch's order.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from clipft.data.augment import Transform
from clipft.data.draws import AUGMENT, REPLACE, draw
from clipft.data.images import ImageFault
from clipft.data.rows import Rows

_REPLACEMENTS = 100
"""Rows tried in place of a bad one before the batch does without."""


@dataclass(frozen=True)
class RowFault:
    """A row whose image cannot be decoded: its index, where it stands, and what is wrong with which file."""

    index: int
    place: str
    path: str
    reason: str

    def __str__(self) -> str:
        where = self.path if self.place == self.path else f"{self.path} ({self.place})"
        return f"{where}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a worker sends back: one tensor in shared memory, few objects."""

    images: torch.Tensor  # (B, 3, H, W)
    indices: torch.Tensor  # (B,)
    faults: tuple[RowFault, ...]

    def pin_memory(self) -> Decoded:
        """The same with images in pinned memory; the loader asks for it."""
        return Decoded(self.images.pin_memory(), self.indices, self.faults)


class TrainItems(Dataset[Any]):
    """Decodes a whole batch of (epoch, row) keys at once, so that a bad row can be replaced knowing its neighbours."""

    def __init__(self, rows: Rows, transform: Transform, seed: int) -> None:
        self._rows = replace(rows, captions=None, labels=None)  # workers need images only
        self._transform = transform
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Decoded:
        taken = {row for _, row in keys}
        done: list[tuple[int, torch.Tensor]] = []
        faults: dict[int, RowFault] = {}
        for epoch, row in keys:
            for candidate in itertools.chain([row], self._replacements(epoch, row)):
                if candidate != row and (candidate in taken or candidate in faults):
                    continue
                image = _read(self._rows, candidate, faults)
                if image is not None:
                    taken.add(candidate)
                    done.append((candidate, self._transform(image, draw(AUGMENT, self._seed, epoch, candidate))))
                    break
        return _collate(done, faults)

    def _replacements(self, epoch: int, row: int) -> Iterator[int]:
        for attempt in range(_REPLACEMENTS):
            yield draw(REPLACE, self._seed, epoch, row, attempt) % len(self._rows)


class EvalItems(Dataset[Any]):
    """Decodes a whole batch of rows, without the bad ones."""

    def __init__(self, rows: Rows, preprocess: Callable[[Image.Image], torch.Tensor]) -> None:
        self._rows = rows
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, keys: list[int]) -> Decoded:
        done: list[tuple[int, torch.Tensor]] = []
        faults: dict[int, RowFault] = {}
        for row in keys:
            image = _read(self._rows, row, faults)
            if image is not None:
                done.append((row, self._preprocess(image)))
        return _collate(done, faults)


def _read(rows: Rows, index: int, faults: dict[int, RowFault]) -> Image.Image | None:
    try:
        return rows.images.read(index)
    except ImageFault as fault:
        faults[index] = RowFault(index, rows.place(index), fault.path, fault.reason)
        return None


def _collate(done: list[tuple[int, torch.Tensor]], faults: dict[int, RowFault]) -> Decoded:
    images = torch.stack([image for _, image in done]) if done else torch.empty(0, 3, 0, 0)
    return Decoded(images, torch.tensor([row for row, _ in done], dtype=torch.int64), tuple(faults.values()))


def start_worker(worker: int) -> None:
    """Set up a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to answer; workers end with it
    torch.set_num_threads(1)  # the workers are the parallelism


def as_it_is(decoded: Any) -> Any:
    """A collate function for batches that are made whole."""
    return decoded

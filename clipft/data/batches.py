"""Rows to batches, by worker processes. What a batch holds follows from (seed, epoch, row) alone.

Keys travel to the workers and tensors back: workers hold no state, so their number changes nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from clipft.data.augment import Transform
from clipft.data.captions import training_text
from clipft.data.decoding import Decoded, EvalItems, RowFault, TrainItems, as_it_is, start_worker
from clipft.data.draws import ORDER, shuffled
from clipft.data.rows import Rows
from clipft.errors import ClipftError, InputError
from clipft.words import some

MAX_WORKERS = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows ready for a model.

    Args:
        images: (B, 3, H, W) float32, preprocessed.
        captions: B texts to tokenize; empty where the rows of an evaluation have none.
        labels: (B,) int64, -1 where a row has none.
        identities: (B,) int64, equal for rows that show the same image.
        indices: (B,) int64, the rows in Rows.
        faults: rows that were found bad for the first time while this batch was made.
    """

    images: torch.Tensor
    captions: list[str]
    labels: torch.Tensor
    identities: torch.Tensor
    indices: torch.Tensor
    faults: tuple[RowFault, ...]


def resolve_workers(workers: int | Literal["auto"]) -> int:
    """How many worker processes `data.workers` stands for on this machine."""
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, max(1, cores - 1))


class TrainBatches:
    """Shuffled full batches of training rows, epoch by epoch, bad rows replaced.

    Args:
        rows: what to train on.
        transform: of `train_transform`.
        templates: prompts for rows without a caption.
        max_bad_fraction: more bad rows than this share end the run.
        start_method: how workers start; None is the platform's way.
        pin_memory: copy batches into pinned memory for an accelerator.
    """

    def __init__(
        self,
        rows: Rows,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        max_bad_fraction: float,
        templates: Sequence[str] = ("{}",),
        start_method: str | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.bad: dict[int, RowFault] = {}  # rows known to be bad, in the order they were found
        self._seed = seed
        self._templates = tuple(templates)
        self._max_bad_fraction = max_bad_fraction
        self._order = _EpochOrder(len(rows), batch_size, seed)
        self._loader = _loader(
            TrainItems(rows, transform, seed), self._order, workers, start_method, pin_memory, persistent=True
        )

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch; the same number gives the same batches."""
        self._order.epoch = number
        for decoded in _sentences(self._loader):
            new = tuple(fault for fault in decoded.faults if fault.index not in self.bad)
            self.bad.update((fault.index, fault) for fault in new)
            self._refuse_too_many()
            yield self._batch(decoded, number, new)

    def close(self) -> None:
        """End the worker processes now."""
        self._loader._iterator = None

    def _batch(self, decoded: Decoded, epoch: int, faults: tuple[RowFault, ...]) -> Batch:
        indices = decoded.indices.tolist()
        texts = [training_text(self.rows, i, self._templates, seed=self._seed, epoch=epoch) for i in indices]
        return _batch(self.rows, decoded, texts, faults)

    def _refuse_too_many(self) -> None:
        bad, total = len(self.bad), len(self.rows)
        if bad <= self._max_bad_fraction * total and bad < total:
            return
        named = some([str(fault) for fault in self.bad.values()], 3)
        raise InputError(
            f"{bad:,} of {total:,} training images ({100 * bad / total:.2g} %) cannot be decoded, more than the "
            f"{100 * self._max_bad_fraction:g} % of data.max_bad_fraction: {named}. "
            "Mend or remove them, or raise the limit"
        )


def eval_batches(
    rows: Rows,
    preprocess: Callable[[Image.Image], torch.Tensor],
    *,
    batch_size: int,
    workers: int,
    start_method: str | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """All rows in order, the last batch as small as it comes; bad rows are left out and named in `faults`."""
    chunks = [list(range(start, min(start + batch_size, len(rows)))) for start in range(0, len(rows), batch_size)]
    loader = _loader(EvalItems(rows, preprocess), chunks, workers, start_method, pin_memory, persistent=False)
    for decoded in _sentences(loader):
        indices = decoded.indices.tolist()
        captions = [] if rows.captions is None else [rows.captions[index] for index in indices]
        yield _batch(rows, decoded, captions, decoded.faults)


def worker_death(error: RuntimeError) -> ClipftError | None:
    """The sentence for an error that says a data worker died, None for any other error.

    Such an error can also rise outside of the loader, wherever the main process is when the signal comes.
    """
    if "DataLoader worker" not in str(error):
        return None
    reason = " ".join(str(error).split())
    return ClipftError(
        f"a data worker died ({reason}). Most often shared memory (/dev/shm) or memory is too small: "
        "lower data.workers (0 decodes in the training process) or train.batch_size, or give the container more"
    )


class _EpochOrder:
    """A batch sampler whose batches follow from its seed and `epoch`; full batches only."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.epoch = 0
        self._count = count
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return self._count // self._batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = shuffled(self._count, ORDER, self._seed, epoch)
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            yield [(epoch, int(row)) for row in order[start : start + self._batch_size]]


def _loader(
    items: Dataset[Any],
    keys: Any,
    workers: int,
    start_method: str | None,
    pin_memory: bool,
    *,
    persistent: bool,
) -> DataLoader[Any]:
    return DataLoader(
        items,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method if workers else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=pin_memory,
        # Ours, so that starting workers draws nothing from the global generator that dropout draws from.
        generator=torch.Generator(),
    )


def _sentences(loader: DataLoader[Any]) -> Iterator[Decoded]:
    """The loader's batches, with a worker's death in words."""
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside threads; torch's loader is built for it.
            warnings.filterwarnings("ignore", ".*use of fork\\(\\) may lead to deadlocks", DeprecationWarning)
            batches = iter(loader)
        yield from batches
    except RuntimeError as error:
        told = worker_death(error)
        if told is None:
            raise
        raise told from error


def _batch(rows: Rows, decoded: Decoded, captions: list[str], faults: tuple[RowFault, ...]) -> Batch:
    indices = decoded.indices.numpy()
    labels = np.full(len(indices), -1) if rows.labels is None else rows.labels[indices]
    return Batch(
        images=decoded.images,
        captions=captions,
        labels=torch.from_numpy(labels),
        identities=torch.from_numpy(rows.identities[indices]),
        indices=decoded.indices,
        faults=faults,
    )

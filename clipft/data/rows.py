"""Rows: what every source becomes. An image each, with its caption and / or label, in flat memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from clipft.config.hints import nearest
from clipft.data.columns import Ints, TextColumn
from clipft.data.images import check_image, read_image
from clipft.data.names import natural_key
from clipft.errors import InputError
from clipft.words import some

TAIL_BYTES = 4096


class Images(Protocol):
    """A row of images that are read one at a time; it pickles into worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str:
        """The image's path or name."""
        ...

    def read(self, index: int) -> Image.Image:
        """The image as RGB, or an ImageFault."""
        ...

    def check(self, index: int) -> None:
        """An ImageFault where the file's header is that of no picture."""
        ...

    def take(self, indices: Ints) -> Images:
        """The images at these indices."""
        ...

    def size(self, index: int) -> int:
        """Bytes of the file: the cheap half of knowing whether two images are the same. -1 where there is none."""
        ...

    def digest(self, index: int, tail: bool) -> bytes:
        """A hash of the content, or of its last few kilobytes."""
        ...


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files: a root and names below it, or absolute ones."""

    root: str
    names: TextColumn

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> Image.Image:
        """The image as RGB, or an ImageFault."""
        return read_image(self[index])

    def check(self, index: int) -> None:
        """An ImageFault where the file's header is that of no picture."""
        check_image(self[index])

    def take(self, indices: Ints) -> FileImages:
        """The images at these indices."""
        return replace(self, names=self.names.take(indices))

    def size(self, index: int) -> int:
        """Bytes of the file; -1 where there is none."""
        try:
            return os.stat(self[index]).st_size
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return -1

    def digest(self, index: int, tail: bool) -> bytes:
        """BLAKE2b over the bytes, or over the last few kilobytes; of the path where the file cannot be read."""
        try:
            with open(self[index], "rb") as file:
                if tail:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                return hashlib.file_digest(file, _blake2b).digest()
        except OSError:
            return self[index].encode("utf-8", "surrogatepass")


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=20)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one source or of a part of it.

    Args:
        name: the source's name in metrics, such as "folder data/hands/train".
        images: N images.
        captions: (N,) or None where the source has labels only.
        labels: (N,) index into classes, -1 where a row has none; or None.
        classes: class names as the user wants them said; a label's index.
        identities: (N,) equal for the same image.
        groups: (N,) equal for rows that must stay together when splitting; the image itself by default.
        table: the table's path, where rows come from one.
        lines: (N,) the table's line of each row.
        notes: what reading them found worth saying.
        novel: classes that no training row has, so that they are measured apart.
    """

    name: str
    images: Images
    captions: TextColumn | None
    labels: Ints | None
    classes: tuple[str, ...]
    identities: Ints
    groups: Ints
    table: str | None = None
    lines: Ints | None = None
    notes: tuple[str, ...] = ()
    novel: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Ints) -> Rows:
        """The rows at these indices; classes and notes stay."""
        return replace(
            self,
            images=self.images.take(indices),
            captions=None if self.captions is None else self.captions.take(indices),
            labels=None if self.labels is None else self.labels[indices],
            identities=self.identities[indices],
            groups=self.groups[indices],
            lines=None if self.lines is None else self.lines[indices],
        )

    def place(self, index: int) -> str:
        """Where row `index` stands: "a.csv:12", or the image's path."""
        if self.table is not None and self.lines is not None:
            return f"{self.table}:{self.lines[index]}"
        return self.images[index]

    def class_counts(self) -> Ints:
        """(classes,) rows of each class."""
        labels = np.zeros(0, np.int64) if self.labels is None else self.labels
        return np.bincount(labels[labels >= 0], minlength=len(self.classes))

    def renamed(self, class_names: Mapping[str, str]) -> Rows:
        """The same rows with classes said in the user's words; names it does not mention stay.

        Raises:
            InputError: two classes would get the same words.
        """
        words = tuple(class_names.get(name, name) for name in self.classes)
        for word in words:
            same = [name for name, now in zip(self.classes, words, strict=True) if now == word]
            if len(same) > 1:
                raise InputError(
                    f"data.class_names: {some(same)} would all be called {word!r}; each class needs words of its own"
                )
        return replace(self, classes=words)

    def aligned(self, classes: Sequence[str]) -> Rows:
        """The same rows with labels that index `classes`, matched by name.

        Raises:
            InputError: the rows have a class that `classes` lacks.
        """
        if self.labels is None or self.classes == tuple(classes):
            return self
        position = {name: index for index, name in enumerate(classes)}
        strange = [name for name in self.classes if name not in position]
        if strange:
            close = nearest(strange[0], classes)
            raise InputError(
                f"{self.name}: has {len(strange)} class{'es' if len(strange) > 1 else ''} that training lacks: "
                f"{some(strange)}; training has {some(classes)}{f' (did you mean {close[0]}?)' if close else ''}. "
                "data.class_names can map names, else remove these images"
            )
        missing = sorted(set(classes) - set(self.classes), key=natural_key)
        note = f"{self.name}: has {len(self.classes)} of {len(classes)} classes; without {some(missing)}"
        table = np.array([position[name] for name in self.classes] + [-1], dtype=np.int64)  # label -1 stays -1
        return replace(
            self,
            labels=table[self.labels],
            classes=tuple(classes),
            notes=(*self.notes, note) if missing else self.notes,
        )

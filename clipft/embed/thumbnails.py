"""Small pictures of images as the model sees them, taken from the batches on their way to it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipft.data.batches import Batch

MOST_DRAWN = 5_000
"""Rows in a map; of more, every so many images with theirs: a picture does not hold them, and t-SNE takes minutes."""
SIDE = 96  # pixels of the longer side
QUALITY = 70  # of the JPEG: about 3 kB each


def drawn_every(rows: int) -> int:
    """A map holds the first of every so many images."""
    return max(1, -(-rows // MOST_DRAWN))


class Thumbnails:
    """Keeps some of the images that go past, of those that a map holds.

    Args:
        total: how many images will come.
        every: a map holds the first of so many.
        most: how many to keep at most.
        preprocess_cfg: the model's `mean` and `std`, to be undone.
    """

    def __init__(self, total: int, every: int, most: int, preprocess_cfg: Mapping[str, Any]) -> None:
        self.pictures: list[bytes | None] = []
        self._every = every * max(1, -(-total // (every * most))) if most else 0
        self._mean = torch.tensor(preprocess_cfg["mean"])[:, None, None]
        self._std = torch.tensor(preprocess_cfg["std"])[:, None, None]

    def keep(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass the batches on."""
        for batch in batches:
            for image in batch.images:
                wanted = self._every and len(self.pictures) % self._every == 0
                self.pictures.append(self._jpeg(image) if wanted else None)
            yield batch

    def _jpeg(self, image: Tensor) -> bytes:
        """(3, H, W), normalised, as a small JPEG."""
        picture = to_pil_image((image.cpu() * self._std + self._mean).clamp(0, 1))
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

"""Retrieval: how often a right caption is among the nearest to an image, and the reverse.

An image may have several right captions and a caption several right images; any of them is a hit. The similarities
are never in memory at once: tiles of them are looked at and forgotten, so 100,000 pairs fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

AT = (1, 5, 10)
IMAGES_AT_ONCE, CAPTIONS_AT_ONCE = 512, 2048  # a tile of 8 MB in float64: larger ones are given back and fetched anew
# Two float64 products of the same unit vectors differ by at most some 1e-13, whatever the tile's shape; what is
# nearer than this is a tie, so ranks do not hang on it.
_TIE = 1e-11


@dataclass(frozen=True, eq=False)
class Ranks:
    """For each image (N,) and each caption (M,): how many wrong answers come before the best right one."""

    of_images: Tensor
    of_captions: Tensor


def rank(
    images: Tensor,
    captions: Tensor,
    pairs: Tensor,
    *,
    images_at_once: int = IMAGES_AT_ONCE,
    captions_at_once: int = CAPTIONS_AT_ONCE,
) -> Ranks:
    """Exact ranks; a wrong answer as near as the right one counts as before it.

    Args:
        images: (N, D) L2-normalised, a distinct image each.
        captions: (M, D) L2-normalised, a distinct caption each.
        pairs: (P, 2) which image belongs to which caption; every image and every caption has at least one.
        images_at_once: rows of a tile; changes memory and speed, never the ranks.
        captions_at_once: columns of a tile.
    """
    pairs = pairs.unique(dim=0)  # sorted by image
    right = _right_similarities(images, captions, pairs)
    bar_of_images = _highest(right, pairs[:, 0], len(images)) - _TIE
    bar_of_captions = _highest(right, pairs[:, 1], len(captions)) - _TIE
    of_images = torch.zeros(len(images), dtype=torch.int64)
    of_captions = torch.zeros(len(captions), dtype=torch.int64)
    for row in range(0, len(images), images_at_once):
        rows = slice(row, row + images_at_once)
        ours = pairs[torch.searchsorted(pairs[:, 0].contiguous(), row) :]
        ours = ours[: torch.searchsorted(ours[:, 0].contiguous(), row + images_at_once)]
        some_images = images[rows].double()
        for column in range(0, len(captions), captions_at_once):
            columns = slice(column, column + captions_at_once)
            tile = some_images @ captions[columns].double().T  # (images, captions)
            here = ours[(ours[:, 1] >= column) & (ours[:, 1] < column + captions_at_once)]
            tile[here[:, 0] - row, here[:, 1] - column] = -torch.inf  # right answers never stand in the way
            of_images[rows] += (tile >= bar_of_images[rows, None]).sum(dim=1)
            of_captions[columns] += (tile >= bar_of_captions[None, columns]).sum(dim=0)
    return Ranks(of_images, of_captions)


def recall(images: Tensor, captions: Tensor, pairs: Tensor) -> dict[str, float]:
    """image_to_text_r1, _r5, _r10 and text_to_image_r1, _r5, _r10; the arguments are those of `rank`."""
    ranks = rank(images, captions, pairs)
    directions = {"image_to_text": ranks.of_images, "text_to_image": ranks.of_captions}
    return {f"{name}_r{k}": float((before < k).double().mean()) for name, before in directions.items() for k in AT}


def _right_similarities(images: Tensor, captions: Tensor, pairs: Tensor) -> Tensor:
    # in pieces: 100,000 pairs of 1,024-wide features would be 1.6 GB in float64
    pieces = [(images[piece[:, 0]].double() * captions[piece[:, 1]].double()).sum(dim=1) for piece in pairs.split(8192)]
    return torch.cat(pieces)  # (P,)


def _highest(values: Tensor, owners: Tensor, count: int) -> Tensor:
    highest = torch.full((count,), -torch.inf, dtype=values.dtype)
    return highest.scatter_reduce_(0, owners, values, "amax")

"""How alike the embeddings of different things are: near 1 a model has collapsed and always answers the same (P25)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipft.evaluate.parts import Part


def mean_similarity(features: Tensor, kinds: Tensor) -> float | None:
    """The mean cosine over all pairs of rows of different kinds; None where there are none.

    Rows of one kind, such as images of one class, may lie as near to each other as they like.

    Args:
        features: (N, D) L2-normalised.
        kinds: (N,) numbers from 0 on.
    """
    features = features.double()
    sums = torch.zeros(int(kinds.max()) + 1, features.shape[1], dtype=torch.double).index_add_(0, kinds, features)
    counts = kinds.bincount().double()
    pairs = counts.sum() ** 2 - counts.square().sum()
    if not pairs:
        return None
    # the sum over all pairs is the squared length of the sum; that over pairs of one kind is taken off
    return float((sums.sum(dim=0).square().sum() - sums.square().sum()) / pairs)


def similarities(part: Part, image_of: Tensor) -> dict[str, float]:
    """`image_similarity` of images that say different things and `text_similarity` of different texts, -1 to 1.

    Args:
        part: what the loss is about.
        image_of: (N,) which of the distinct images a row shows; an image counts with the first text that it has.
    """
    known = part.text_of >= 0
    images, first = np.unique(image_of[known].numpy(), return_index=True)
    found = {"image_similarity": mean_similarity(part.images[images], part.text_of[known][first])}
    if part.texts is not None:
        found["text_similarity"] = mean_similarity(part.texts, torch.arange(len(part.texts)))
    return {name: value for name, value in found.items() if value is not None}

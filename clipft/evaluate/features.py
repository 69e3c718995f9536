"""Features of the images of rows, for measuring: in large batches, those that could not be read beside them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from clipft.data.batches import Batch
from clipft.data.decoding import RowFault
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast, measuring, normalised


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """The images that could be read, as features.

    Args:
        features: (N, D) float32, L2-normalised.
        pooled: (N, width) the same before the projection, float32, L2-normalised; None where they were not asked for.
        indices: (N,) which row each belongs to.
        labels: (N,) class numbers, -1 where a row has none.
        faults: the images that were left out.
    """

    features: Tensor
    pooled: Tensor | None
    indices: Tensor
    labels: Tensor
    faults: tuple[RowFault, ...]


def encode_images(
    clip: ClipModel,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    pooled: bool = False,
) -> ImageFeatures:
    """Features of all images in the batches, in their order.

    Args:
        clip: the model, on `device`.
        batches: what `eval_batches` yields.
        device: where to compute.
        autocast: the precision's context.
        pooled: give the features before the projection too.
    """
    features, before, indices, labels = [], [], [], []
    faults: list[RowFault] = []
    for batch in batches:
        faults += batch.faults
        if not len(batch.indices):
            continue
        with measuring(clip.model), autocast():
            inner = clip.image.pool(batch.images.to(device, non_blocking=True))  # (B, width)
            encoded = clip.image.shared(inner)  # (B, D)
        features.append(normalised(encoded))
        if pooled:
            before.append(normalised(inner))
        indices.append(batch.indices)
        labels.append(batch.labels)
    nothing = torch.zeros(0, dtype=torch.int64)
    return ImageFeatures(
        torch.cat(features) if features else torch.zeros(0, clip.image.embed_dim),
        torch.cat(before) if before else torch.zeros(0, clip.image.pooled_width) if pooled else None,
        torch.cat(indices) if indices else nothing,
        torch.cat(labels) if labels else nothing,
        tuple(faults),
    )

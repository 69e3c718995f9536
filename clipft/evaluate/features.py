"""Features for measuring: in large batches, without a graph, in evaluation mode, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.data.batches import Batch
from clipft.data.decoding import RowFault
from clipft.model.clip_model import ClipModel

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context that towers run in, such as a precision's autocast."""

TEXTS_AT_ONCE = 256


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


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without a graph; afterwards every module is back in the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


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


def encode_texts(
    clip: ClipModel, texts: Sequence[str], *, device: torch.device, autocast: Autocast = nullcontext
) -> Tensor:
    """(len(texts), D) features of the texts; equal texts are encoded once."""
    numbers: dict[str, int] = {}
    places = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], dtype=torch.int64)
    distinct = list(numbers)
    features = [torch.zeros(0, clip.text.embed_dim)]
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        tokens = clip.tokenizer(distinct[start : start + TEXTS_AT_ONCE]).to(device)  # (B, context_length)
        with measuring(clip.model), autocast():
            encoded = clip.text.encode(tokens)  # (B, D)
        features.append(normalised(encoded))
    return torch.cat(features)[places]


def normalised(features: Tensor) -> Tensor:
    """Features (N, D) of length 1, in float32 on the CPU."""
    return F.normalize(features.float(), dim=-1).cpu()

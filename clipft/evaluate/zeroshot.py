"""Zero-shot classification: which class's prompts is an image nearest to?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from clipft.data.captions import class_prompts
from clipft.evaluate.classify import answer, answer_metrics
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast, encode_prompts


def class_embeddings(
    clip: ClipModel,
    classes: Sequence[str],
    templates: Sequence[str],
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
) -> Tensor:
    """(C, D) the normalised mean of each class's normalised prompts.

    Raises:
        InputError: beside prompt vectors a class name is too long, or has none of its own.
    """
    clip.tokenizer.know(classes, templates)
    return encode_prompts(clip, class_prompts(classes, templates), device=device, autocast=autocast)


def probabilities(image_features: Tensor, embeddings: Tensor, scale: float) -> Tensor:
    """(N, C) softmax of the scaled cosines; a `logit_bias` would change nothing here."""
    return (scale * image_features.double() @ embeddings.double().T).softmax(dim=1)


def base_to_novel_metrics(
    image_features: Tensor, embeddings: Tensor, labels: Tensor, novel: Sequence[int]
) -> dict[str, float]:
    """base_top1, novel_top1 and harmonic_mean; none where a side has no rows.

    A row of a base class is asked which of the base classes it is, one of a novel class which of the novel ones
    (CoCoOp: Conditional Prompt Learning for Vision-Language Models, CVPR 2022, section 4.1; the harmonic mean: Xian et
    al., Zero-Shot Learning - The Good, the Bad and the Ugly, CVPR 2017).

    Args:
        image_features: (N, D) L2-normalised.
        embeddings: (C, D) L2-normalised.
        labels: (N,) class numbers, -1 where a row has none.
        novel: the numbers of the novel classes; the others are the base.
    """
    is_novel = torch.zeros(len(embeddings), dtype=torch.bool)
    is_novel[list(novel)] = True
    found = {}
    for name, side in (("base_top1", ~is_novel), ("novel_top1", is_novel)):
        rows = (labels >= 0) & side[labels]
        if not rows.any():
            return {}
        within = (side.cumsum(0) - 1)[labels[rows]]  # a class's number among those of its side
        found[name] = zero_shot_metrics(image_features[rows], embeddings[side], within, 1.0)["zero_shot_top1"]
    base, new = found.values()
    return found | {"harmonic_mean": 2 * base * new / (base + new) if base + new else 0.0}


def zero_shot_metrics(image_features: Tensor, embeddings: Tensor, labels: Tensor, scale: float) -> dict[str, float]:
    """zero_shot_top1, zero_shot_top5 (of more than 5 classes), mean_per_class, nll, ece and confident_wrong.

    Args:
        image_features: (N, D) L2-normalised.
        embeddings: (C, D) L2-normalised.
        labels: (N,) class numbers, -1 where a row has none.
        scale: exp(logit_scale).
    """
    weights = scale * embeddings.double().T  # (D, C)
    return answer_metrics(answer(image_features, labels, lambda some: some @ weights, len(embeddings)), "zero_shot")

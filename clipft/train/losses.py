"""The losses, as functions of features, and the objective that a run minimises.

Rows of a batch that share a caption, a class or an image are positives of each other, never negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from clipft.model.classifier import Classifier


@dataclass(frozen=True)
class Targets:
    """What a batch's rows are: equal numbers mean equal captions, classes, images.

    Args:
        captions: (B,) caption numbers.
        labels: (B,) class numbers, -1 where a row has none.
        images: (B,) image numbers, since an image may stand in several rows.
    """

    captions: Tensor
    labels: Tensor
    images: Tensor


@dataclass(frozen=True)
class Features:
    """Both towers' L2-normalised features of a batch, float32: (B, D) each; text is None where the loss needs none."""

    image: Tensor
    text: Tensor | None


class Objective(Protocol):
    """A loss with its own parameters (`logit_scale`, a classifier) bound: features and targets to a scalar."""

    @property
    def needs_text(self) -> bool:
        """Whether it looks at the text features."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts whose features it wants at each step; empty for a batch's own captions."""
        ...

    def __call__(self, features: Features, targets: Targets) -> Tensor:
        """The loss of a batch, a scalar."""
        ...

    def chance(self, batch_size: int) -> float:
        """What the loss is when every answer is equally likely."""
        ...


def positive_pairs(targets: Targets) -> Tensor:
    """Which image belongs to which text: (B, B) bool, symmetric, true on the diagonal."""
    same_caption = targets.captions[:, None] == targets.captions[None, :]
    same_label = (targets.labels[:, None] == targets.labels[None, :]) & (targets.labels >= 0)[:, None]
    same_image = targets.images[:, None] == targets.images[None, :]
    return same_caption | same_label | same_image


def contrastive_loss(image: Tensor, text: Tensor, logit_scale: Tensor, positives: Tensor) -> Tensor:
    """Symmetric cross-entropy whose target is spread evenly over a row's positives.

    With one positive a row it is CLIP's loss (Radford et al. 2021, figure 3); spreading the target is UniCL's
    (Yang et al. 2022, equation 2, as a cross-entropy with soft targets).

    Args:
        image: (B, D) L2-normalised.
        text: (B, D) L2-normalised.
        logit_scale: the scale itself, exp() already taken.
        positives: (B, B) bool, symmetric.
    """
    logits = logit_scale * image @ text.T  # (B, D) @ (D, B) -> (B, B)
    target = positives.to(logits.dtype) / positives.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip_loss(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, positives: Tensor) -> Tensor:
    """Sigmoid loss: each of the B x B pairs is a yes or no of its own (Zhai et al. 2023, algorithm 1).

    Args:
        image: (B, D) L2-normalised.
        text: (B, D) L2-normalised.
        logit_scale: the scale itself, exp() already taken.
        logit_bias: added to every logit.
        positives: (B, B) bool.
    """
    logits = logit_scale * image @ text.T + logit_bias  # (B, B)
    signs = positives.to(logits.dtype) * 2 - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


@dataclass(frozen=True)
class Contrastive:
    """The softmax loss over a CLIP's own `logit_scale`."""

    logit_scale: nn.Parameter
    needs_text: bool = True
    texts: tuple[str, ...] = ()

    def __call__(self, features: Features, targets: Targets) -> Tensor:
        """The loss of a batch, a scalar."""
        assert features.text is not None
        scale = self.logit_scale.exp()
        return contrastive_loss(features.image, features.text, scale, positive_pairs(targets))

    def chance(self, batch_size: int) -> float:
        """ln(batch): also with spread targets, since equal logits give every text the same probability."""
        return math.log(batch_size)


@dataclass(frozen=True)
class Siglip:
    """The sigmoid loss over a CLIP's own `logit_scale` and `logit_bias`."""

    logit_scale: nn.Parameter
    logit_bias: nn.Parameter
    needs_text: bool = True
    texts: tuple[str, ...] = ()

    def __call__(self, features: Features, targets: Targets) -> Tensor:
        """The loss of a batch, a scalar."""
        assert features.text is not None
        scale = self.logit_scale.exp()
        return siglip_loss(features.image, features.text, scale, self.logit_bias, positive_pairs(targets))

    def chance(self, batch_size: int) -> float:
        """The loss of the best constant logit with one positive a row: B times the entropy of 1/B."""
        yes = 1 / batch_size
        no = 1 - yes
        entropy = -yes * math.log(yes) - (no * math.log(no) if no else 0.0)
        return entropy * batch_size


@dataclass(frozen=True)
class ZeroShot:
    """Cross-entropy of an image against the prompts of all classes, over a CLIP's own `logit_scale`.

    What zero-shot classification asks (CLIP, section 3.1.2), as a loss: CoOp, section 3.2, equation 2.

    Args:
        texts: the prompts of class 0, of class 1 and so on, the same number of each.
        classes: C, how many classes there are to choose from.
        columns: (all classes,) which of these a label is, rising, on the features' device; -1 for one that does not
            train.
        label_smoothing: share of the target spread over all classes.
        weights: (C,) weight of each class, on the features' device, or None.
    """

    logit_scale: nn.Parameter
    texts: tuple[str, ...]
    classes: int
    columns: Tensor
    label_smoothing: float = 0.0
    weights: Tensor | None = None
    needs_text: bool = True

    @property
    def trained(self) -> Tensor:
        """(C,) the labels among which it asks, in the order of `texts`."""
        return (self.columns >= 0).nonzero()[:, 0]

    def __call__(self, features: Features, targets: Targets) -> Tensor:
        """The loss of a batch, a scalar; `features.text` has a row for each of `texts`, or for each class its mean."""
        assert features.text is not None
        prompts = features.text.unflatten(0, (self.classes, -1))  # (C, T, D)
        embeddings = F.normalize(prompts.mean(dim=1), dim=-1)  # (C, D)
        logits = self.logit_scale.exp() * features.image @ embeddings.T  # (B, C)
        labels = self.columns[targets.labels]
        return F.cross_entropy(logits, labels, weight=self.weights, label_smoothing=self.label_smoothing)

    def chance(self, batch_size: int) -> float:
        """ln(classes)."""
        return math.log(self.classes)


@dataclass(frozen=True)
class Classify:
    """Cross-entropy of a linear head on the image features.

    Args:
        classifier: the head.
        label_smoothing: share of the target spread over all classes.
        weights: (C,) weight of each class, on the features' device, or None.
    """

    classifier: Classifier
    label_smoothing: float = 0.0
    weights: Tensor | None = None
    needs_text: bool = False
    texts: tuple[str, ...] = ()

    def __call__(self, features: Features, targets: Targets) -> Tensor:
        """The loss of a batch, a scalar."""
        logits = self.classifier(features.image)  # (B, C)
        return F.cross_entropy(logits, targets.labels, weight=self.weights, label_smoothing=self.label_smoothing)

    def chance(self, batch_size: int) -> float:
        """ln(classes)."""
        return math.log(len(self.classifier.weight))

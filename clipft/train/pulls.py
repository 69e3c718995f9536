"""The formulas that hold a model near its base while it trains, and their share in a step.

Titles of the sources: `clipft.config.forgetting_schema`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipft.train.base import Base, BaseFeatures
from clipft.train.losses import Features, Targets
from clipft.train.network import Network
from clipft.train.regularize import Pull


def feature_distance(features: Features, base: Features, towers: Sequence[str]) -> Tensor:
    """The sum over the towers of mean(1 - cosine) between a row's feature and the base's.

    CLIPFit holds the text features of all classes like this, as here under `zero_shot`; under other losses the texts
    are the batch's captions, so a class counts as often as the batch shows it.

    Args:
        features: (B, D) L2-normalised.
        base: likewise, of the same images and texts.
        towers: image, text or both.
    """
    pairs = [(features.image, base.image)] if "image" in towers else []
    if "text" in towers:
        assert features.text is not None
        assert base.text is not None
        pairs.append((features.text, base.text))
    return torch.stack([(1 - (ours * theirs).sum(dim=1)).mean() for ours, theirs in pairs]).sum()


def zero_shot_divergence(features: Features, base: Features, scale: float, captions: Tensor) -> Tensor:
    """KL(base || tuned) of the softmax over the batch's distinct captions, the mean over its images.

    The answers of the model as it was are the target, on new data (LwF; for CLIP's similarities ZSCL). Both sides at
    the base's own scale, so that a moving `logit_scale` cannot make it small.

    Args:
        features: (B, D) L2-normalised.
        base: likewise, of the same images and texts.
        scale: the base's exp(logit_scale).
        captions: (B,) caption numbers.
    """
    assert features.text is not None
    assert base.text is not None
    first = (captions[:, None] == captions[None, :]).int().argmax(dim=1)  # (B,) where a row's caption stands first
    distinct = first == torch.arange(len(captions), device=captions.device)
    ours = scale * features.image @ features.text[distinct].T  # (B, D) @ (D, U) -> (B, U)
    theirs = scale * base.image @ base.text[distinct].T
    return F.kl_div(ours.log_softmax(dim=1), theirs.log_softmax(dim=1), reduction="batchmean", log_target=True)


def pull_weights(pairs: Sequence[tuple[Tensor, Tensor]], weight: float) -> float:
    """Add the gradient of weight * sum of (p - p0)^2 to what the loss has left in `grad`; returns that sum's value.

    L2-SP without its half, and as a sum, not a mean (ProLIP).

    Args:
        pairs: each parameter p, which has a gradient, with its value p0 in the base.
        weight: the factor.
    """
    total = torch.zeros((), device=pairs[0][0].device)
    for parameter, base in pairs:
        assert parameter.grad is not None
        difference = parameter.detach() - base
        total += difference.square().sum()
        parameter.grad.add_(difference, alpha=2 * weight)
    return weight * float(total)


@dataclass(frozen=True)
class Regularizer:
    """The share of `train.regularize` in a step; that of none is nothing.

    Args:
        pulls: what there is.
        base: gives the base's features; None where none are asked for.
        scale: the base's exp(logit_scale).
        pairs: what l2sp holds, each parameter with its value in the base.
    """

    pulls: tuple[Pull, ...] = ()
    base: BaseFeatures | None = None
    scale: float = 1.0
    pairs: Sequence[tuple[Tensor, Tensor]] = ()

    def base_features(self, images: Tensor, captions: Sequence[str], rows_at_once: int) -> Features | None:
        """A batch's features as the base has them; None where nothing asks."""
        return None if self.base is None else self.base(images, captions, rows_at_once)

    def of_features(self, features: Features, base: Features | None, targets: Targets) -> dict[str, Tensor]:
        """What is added to the loss, by type: scalars, weights included, with a graph to `features`."""
        added: dict[str, Tensor] = {}
        for pull in self.pulls:
            if pull.type == "l2sp":
                continue
            assert base is not None
            if pull.type == "feature_distill":
                value = feature_distance(features, base, pull.towers)
            else:
                value = zero_shot_divergence(features, base, self.scale, targets.captions)
            value = pull.weight * value
            added[pull.type] = added[pull.type] + value if pull.type in added else value
        return added

    def of_weights(self) -> dict[str, float]:
        """Add l2sp's gradient to that of the loss, once it is unscaled and before it is clipped; its value."""
        weight = sum(pull.weight for pull in self.pulls if pull.type == "l2sp")
        return {"l2sp": pull_weights(self.pairs, weight)} if weight else {}


def regularizer(pulls: tuple[Pull, ...], network: Network, base: Base) -> Regularizer:
    """The pulls bound to a model.

    Args:
        pulls: settled against the plan.
        network: gives features.
        base: of the run.
    """
    towers = {tower for pull in pulls for tower in pull.towers}
    names = dict.fromkeys(p.name for pull in pulls for p in pull.holds)
    return Regularizer(
        pulls,
        BaseFeatures(network, base, towers) if towers else None,
        base.scale,
        [(network.clip.model.get_parameter(name), base.tensors[name]) for name in names],
    )

"""The `loss` section held against the model and the rows: which loss it is, its head, its weights, what is refused."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from clipft.config.loss_schema import LossConfig
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.model.build import MetaModel
from clipft.model.classifier import Classifier


def resolve_loss(config: LossConfig, *, has_bias: bool) -> str:
    """The loss that `loss.type` means for this model.

    Raises:
        InputError: the sigmoid loss for a model without a bias (P23).
    """
    if config.type == "auto":
        return "siglip" if has_bias else "contrastive"
    if config.type == "siglip" and not has_bias:
        raise InputError(
            "loss.type: siglip needs a model with a logit_bias, which this one lacks; write auto, which takes "
            "contrastive for it"
        )
    return config.type


def check_search(loss: LossConfig) -> None:
    """Refuse what bends the loss where logit_scale alone trains: the scale that is searched for is the plain loss's."""
    for key in ("label_smoothing", "class_weights"):
        if getattr(loss, key) != LossConfig.model_fields[key].default:
            raise InputError(
                f"loss.{key}: where logit_scale alone trains, it is fitted to the plain loss; leave it out"
            )


def check_same_head(loss: LossConfig, before: LossConfig) -> None:
    """Refuse another kind of classifier than the stage before has made: it goes on as it is."""
    for key in ("features", "cosine", "bias"):
        now, then = (str(getattr(section, key)).lower() for section in (loss, before))
        if now != then:
            raise InputError(f"loss.{key}: {now}, but the stage before has made its classifier with {then}; write that")


def check_start(loss: LossConfig, drawn: Collection[str]) -> None:
    """Refuse a classifier that would start from prompts where a projection is drawn: they say nothing there.

    Args:
        loss: of a run's first stage.
        drawn: the towers whose projection is drawn.
    """
    if loss.type == "classifier" and loss.init == "prompts" and drawn:
        raise InputError(
            "loss.init: prompts starts the classifier from the text features of the class prompts, but the projection "
            f"of {' and '.join(drawn)} is drawn at random (model.embed_dim, projection: reset, or two encoders that "
            "never met), so they say nothing about images; write loss.init: random"
        )


def check_rows(rows: Rows, loss: str, key: str) -> None:
    """Refuse rows without a class where the loss is about classes."""
    if loss not in ("classifier", "zero_shot"):
        return
    if rows.labels is None:
        raise InputError(
            f"loss.type: {loss} needs a class for each row, and {key} ({rows.name}) has captions only; name a "
            "label column"
        )
    without = int((rows.labels < 0).sum())
    if without:
        first = rows.place(int((rows.labels < 0).argmax()))
        raise InputError(
            f"{key}: {without} rows have no class, the first is {first}; loss.type: {loss} needs one for each"
        )


def class_weights(loss: LossConfig, rows: Rows) -> Tensor | None:
    """(C,) weights of the classes, or None for equal ones.

    Raises:
        InputError: `loss.class_weights` names a class that is not there.
    """
    if loss.class_weights is None:
        return None
    if loss.class_weights == "balanced":
        counts = torch.as_tensor(rows.class_counts(), dtype=torch.float32)
        return counts.sum() / (len(counts) * counts.clamp(min=1))
    unknown = [name for name in loss.class_weights if name not in rows.classes]
    if unknown:
        raise InputError(
            f"loss.class_weights: {unknown[0]!r} is not a class; the classes are {', '.join(rows.classes[:20])}"
        )
    return torch.tensor([loss.class_weights.get(name, 1.0) for name in rows.classes])


def classifier_for(config: LossConfig, meta: MetaModel, num_classes: int, *, device: str) -> Classifier:
    """A head of the width that `loss.features` names."""
    width = meta.image.pooled_width if config.features == "pooled" else meta.image.embed_dim
    with torch.device(device):
        return Classifier(num_classes, width, cosine=config.cosine, bias=config.bias)

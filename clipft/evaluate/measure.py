"""One measurement: a model on one source's rows, with all that is needed to read the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clipft.data.batches import Batch, eval_batches, resolve_workers
from clipft.data.columns import TextColumn
from clipft.data.decoding import RowFault
from clipft.data.draws import ORDER, shuffled
from clipft.data.rows import Rows
from clipft.errors import ClipftError, InputError
from clipft.evaluate.classify import classifier_metrics
from clipft.evaluate.features import Autocast, ImageFeatures, encode_images, encode_texts
from clipft.evaluate.retrieval import AT, recall
from clipft.evaluate.zeroshot import class_embeddings, zero_shot_metrics
from clipft.model.build import ClipModel
from clipft.model.classifier import Classifier

BatchLoss = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
"""(B, D) image and (B, D) text features (None under a classifier), (B,) caption numbers, (B,) labels: a scalar."""

Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]
"""Passes batches on and shows how many of so many have come."""

LOSSES = ("loss", "nll")
"""What a Measurement has under `losses`."""


@dataclass(frozen=True)
class Measurement:
    """What a model reached, on what.

    Args:
        data: the source's name.
        metrics: figures between 0 and 1, by the names that metrics.jsonl has.
        losses: `loss`, over batches of counts["loss_batch_size"] rows, and `nll`.
        counts: rows and distinct images measured, images that could not be read (`unreadable`), what there was to
            choose from (`classes`, `captions`), and how many of the classes have rows (`classes_measured`).
        prompts: up to three finished prompts.
        faults: the images that could not be read.
    """

    data: str
    metrics: dict[str, float]
    losses: dict[str, float]
    counts: dict[str, int]
    prompts: tuple[str, ...]
    faults: tuple[RowFault, ...]

    def figures(self) -> dict[str, float]:
        """Metrics and losses together."""
        return self.metrics | self.losses

    def to_json(self) -> dict[str, Any]:
        """The form of an evaluation in metrics.jsonl, less its kind and its place in the run."""
        return {
            "data": self.data,
            "metrics": self.metrics,
            "loss": self.losses,
            "counts": self.counts,
            "prompts": list(self.prompts),
            "unreadable": [str(fault) for fault in self.faults],
        }


def unwatched(batches: Iterable[Batch], total: int) -> Iterable[Batch]:
    """A Watch that shows nothing."""
    return batches


def figure_names(rows: Rows, *, classifier: bool, loss: bool) -> tuple[str, ...]:
    """The figures that `measure` gives for these rows: an unknown one can be refused before the first step (P59)."""
    names: list[str] = []
    if rows.labels is not None:
        kind = "classifier" if classifier else "zero_shot"
        names += [f"{kind}_top1", *([f"{kind}_top5"] if len(rows.classes) > 5 else [])]
        names += ["mean_per_class", "ece", "confident_wrong", "nll"]
    if rows.captions is not None and not classifier:
        names += [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in AT]
    return (*names, "loss") if loss else tuple(names)


def higher_is_better(figure: str) -> bool:
    """The direction of a figure."""
    return figure not in (*LOSSES, "ece", "confident_wrong")


def sample_prompts(classes: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    """Up to three finished prompts, of different classes and templates where there are some (P61)."""
    count = min(3, max(len(classes), len(templates)))
    return tuple(templates[i % len(templates)].replace("{}", classes[i % len(classes)]) for i in range(count))


def measure(
    clip: ClipModel,
    rows: Rows,
    *,
    templates: Sequence[str],
    batch_size: int,
    workers: int | Literal["auto"],
    device: torch.device,
    autocast: Autocast = nullcontext,
    pooled: bool = False,
    loss: BatchLoss | None = None,
    loss_batch_size: int | None = None,
    watch: Watch = unwatched,
) -> Measurement:
    """Measure a model by what the rows have: zero-shot figures by labels, retrieval by captions.

    A model with a classifier is measured by that alone.

    Args:
        clip: the model, on `device`.
        rows: what to measure on.
        templates: prompts for class names.
        batch_size: images encoded at once.
        workers: processes that decode images.
        device: where to compute.
        autocast: the precision's context.
        pooled: whether the classifier sees the features before the projection.
        loss: the training loss, to be reported on these rows too.
        loss_batch_size: rows in a batch of that loss, on which a contrastive loss hangs; None takes batch_size.
        watch: shows progress.

    Raises:
        InputError: the rows have nothing to measure by.
        ClipftError: not one image could be read.
    """
    classifier: Classifier | None = getattr(clip.model, "classifier", None)
    distinct, image_of = np.unique(rows.identities, return_index=True, return_inverse=True)[1:]
    batches: Iterable[Batch] = eval_batches(
        rows.take(distinct), clip.preprocess, batch_size=batch_size, workers=resolve_workers(workers)
    )
    batches = watch(batches, math.ceil(len(distinct) / batch_size))
    pooled = pooled and classifier is not None
    seen = _seen(rows, image_of, encode_images(clip, batches, device=device, autocast=autocast, pooled=pooled))
    encode = _Encode(clip, tuple(templates), device, autocast)

    parts = list(_parts(seen, encode, classifier))
    if not parts:
        wanted = "labels for its classifier" if classifier is not None else "labels or captions"
        raise InputError(f"{rows.name}: has no rows to measure by; expected {wanted}")
    metrics = {name: value for part in parts for name, value in part.metrics.items()}
    losses = {"nll": metrics.pop("nll")} if "nll" in metrics else {}
    counts = {"rows": len(seen.rows), "images": len(seen.images), "unreadable": len(seen.faults)}
    if loss is not None:
        counts["loss_batch_size"] = loss_batch_size or batch_size
        losses = {"loss": _mean_loss(loss, seen, parts[-1], counts["loss_batch_size"], device)} | losses
    return Measurement(
        data=rows.name,
        metrics=metrics,
        losses=losses,
        counts=counts | {name: count for part in parts for name, count in part.counts.items()},
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        faults=seen.faults,
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """The rows whose image could be read.

    Args:
        rows: N rows.
        images: (I, D) features of the distinct images.
        image_of: (N,) which of them a row shows.
        labels: (N,) class numbers, -1 where a row has none.
        faults: the images that could not be read.
    """

    rows: Rows
    images: Tensor
    image_of: Tensor
    labels: Tensor
    faults: tuple[RowFault, ...]


def _seen(rows: Rows, image_of: np.ndarray, encoded: ImageFeatures) -> _Seen:
    if not len(encoded.features):
        raise ClipftError(f"{rows.name}: not one of its images could be read; the first: {encoded.faults[0]}")
    place = np.full(image_of.max() + 1, -1)  # a distinct image's number -> its place among the features
    place[encoded.indices.numpy()] = np.arange(len(encoded.indices))
    image_of = place[image_of]
    kept = np.flatnonzero(image_of >= 0)
    labels = np.full(len(kept), -1) if rows.labels is None else rows.labels[kept]
    return _Seen(
        rows.take(kept), encoded.features, torch.from_numpy(image_of[kept]), torch.from_numpy(labels), encoded.faults
    )


@dataclass(frozen=True)
class _Encode:
    """How texts become features."""

    clip: ClipModel
    templates: tuple[str, ...]
    device: torch.device
    autocast: Autocast

    def texts(self, texts: TextColumn) -> Tensor:
        return encode_texts(self.clip, texts, device=self.device, autocast=self.autocast)

    def classes(self, classes: Sequence[str]) -> Tensor:
        return class_embeddings(self.clip, classes, self.templates, device=self.device, autocast=self.autocast)


@dataclass(frozen=True, eq=False)
class _Part:
    """Figures of one kind, and what a row's text is to the loss.

    Args:
        metrics: the figures.
        counts: what there was to choose from.
        prompts: finished prompts.
        texts: (T, D) features of the distinct texts; None where there are none.
        text_of: (N,) which of them a row has; -1 for none.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    prompts: tuple[str, ...]
    texts: Tensor | None
    text_of: Tensor


def _parts(seen: _Seen, encode: _Encode, classifier: Classifier | None) -> Iterator[_Part]:
    labelled = bool((seen.labels >= 0).any())
    if labelled and classifier is not None:
        yield _by_classifier(seen, classifier)
    if labelled and classifier is None:
        yield _by_prompts(seen, encode)
    if seen.rows.captions is not None and classifier is None:
        yield _by_captions(seen, seen.rows.captions, encode)


def _class_counts(seen: _Seen) -> dict[str, int]:
    return {"classes": len(seen.rows.classes), "classes_measured": len(seen.labels[seen.labels >= 0].unique())}


def _by_classifier(seen: _Seen, classifier: Classifier) -> _Part:
    metrics = classifier_metrics(seen.images[seen.image_of], seen.labels, classifier)
    return _Part(metrics, _class_counts(seen), (), None, seen.labels)


def _by_prompts(seen: _Seen, encode: _Encode) -> _Part:
    embeddings = encode.classes(seen.rows.classes)  # (C, D)
    scale = float(encode.clip.model.logit_scale.detach().exp())
    metrics = zero_shot_metrics(seen.images[seen.image_of], embeddings, seen.labels, scale)
    return _Part(
        metrics, _class_counts(seen), sample_prompts(seen.rows.classes, encode.templates), embeddings, seen.labels
    )


def _by_captions(seen: _Seen, captions: TextColumn, encode: _Encode) -> _Part:
    text_of = captions.codes()
    texts = encode.texts(captions.take(np.unique(text_of, return_index=True)[1]))  # (T, D)
    pairs = torch.stack([seen.image_of, torch.from_numpy(text_of)], dim=1)
    return _Part(recall(seen.images, texts, pairs), {"captions": len(texts)}, (), texts, torch.from_numpy(text_of))


def _mean_loss(loss: BatchLoss, seen: _Seen, part: _Part, batch_size: int, device: torch.device) -> float:
    """The loss over batches of a fixed shuffle (folders come sorted by class), each weighted by its rows (P19)."""
    known = np.flatnonzero(part.text_of.numpy() >= 0)
    order = torch.from_numpy(known[shuffled(len(known), ORDER)])
    total = 0.0
    for rows in order.split(batch_size):
        image = seen.images[seen.image_of[rows]].to(device)
        text = None if part.texts is None else part.texts[part.text_of[rows]].to(device)
        with torch.no_grad():
            value = loss(image, text, part.text_of[rows].to(device), seen.labels[rows].to(device))
        total += float(value) * len(rows)
    return total / len(order)

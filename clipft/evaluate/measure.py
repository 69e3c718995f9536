"""One measurement: a model on one source's rows, with all that is needed to read the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clipft.data.batches import Batch, eval_batches, resolve_workers
from clipft.data.decoding import RowFault
from clipft.data.draws import ORDER, shuffled
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.evaluate.features import encode_images
from clipft.evaluate.parts import Encode, Part, Seen, parts_of, see
from clipft.evaluate.retrieval import AT
from clipft.evaluate.similarity import similarities
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast

BatchLoss = Callable[[Tensor, Tensor | None, Tensor, Tensor, Tensor], Tensor]
"""loss(image_features, text_features, captions, labels, identities), a scalar: (B, D) each, text features None under a
classifier, (C, D) where the loss asks `among` classes; then (B,) numbers that are equal for equal captions, classes
(-1: none) and images."""

Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]
"""Passes batches on and shows how many of so many have come."""

HEADLINES = ("classifier_top1", "zero_shot_top1", "image_to_text_r5", "text_to_image_r5")
"""What rows are about, the first that is measured before the others."""

KEPT = "keep."
"""Before the name of a figure that was measured on evaluate.keep."""

LOSSES = ("loss", "nll", "classifier_nll")
"""What a Measurement has under `losses`."""


@dataclass(frozen=True)
class Measurement:
    """What a model reached, on what.

    Args:
        data: the source's name.
        metrics: figures between 0 and 1, by the names that metrics.jsonl has.
        losses: `loss`, over batches of counts["loss_batch_size"] rows, `nll` and `classifier_nll`.
        counts: rows and distinct images measured, images that could not be read (`unreadable`), what there was to
            choose from (`classes`, `captions`), and how many of the classes have rows (`classes_measured`).
        prompts: up to three finished prompts.
        faults: the images that could not be read.
        similarity: `image_similarity` and `text_similarity`, between -1 and 1: how alike different things are to the
            model; near 1 it has collapsed.
    """

    data: str
    metrics: dict[str, float]
    losses: dict[str, float]
    counts: dict[str, int]
    prompts: tuple[str, ...]
    faults: tuple[RowFault, ...]
    similarity: dict[str, float]

    def figures(self) -> dict[str, float]:
        """Metrics and losses together."""
        return self.metrics | self.losses

    def to_json(self) -> dict[str, Any]:
        """The form of an evaluation in metrics.jsonl, less its kind and its place in the run."""
        return {
            "data": self.data,
            "metrics": self.metrics,
            "loss": self.losses,
            "similarity": self.similarity,
            "counts": self.counts,
            "prompts": list(self.prompts),
            "unreadable": [str(fault) for fault in self.faults],
        }


def unwatched(batches: Iterable[Batch], total: int) -> Iterable[Batch]:
    """A Watch that shows nothing."""
    return batches


def figure_names(rows: Rows, *, classifier: bool, loss: bool) -> tuple[str, ...]:
    """The figures that `measure` gives for these rows, a classifier's by it alone.

    An unknown one can be refused before the first step (P59).
    """
    names: list[str] = []
    if rows.labels is not None:
        kind, prefix = ("classifier", "classifier_") if classifier else ("zero_shot", "")
        names += [f"{kind}_top1", *([f"{kind}_top5"] if len(rows.classes) > 5 else [])]
        names += ["base_top1", "novel_top1", "harmonic_mean"] if rows.novel else []
        names += [f"{prefix}{figure}" for figure in ("mean_per_class", "ece", "confident_wrong", "nll")]
    if rows.captions is not None and not classifier:
        names += [f"{direction}_r{k}" for direction in ("image_to_text", "text_to_image") for k in AT]
    return (*names, "loss") if loss else tuple(names)


def higher_is_better(figure: str) -> bool:
    """The direction of a figure, also of one under `keep.`."""
    figure = figure.removeprefix(KEPT)
    return figure not in LOSSES and figure.removeprefix("classifier_") not in ("ece", "confident_wrong")


def headline(figures: Mapping[str, float]) -> str:
    """The name of the figure that rows are about: of those with classes accuracy, of captions image to text R@5."""
    return next(name for name in ("harmonic_mean", *HEADLINES) if name in figures)


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
    texts_too: bool = False,
    by_classifier: bool = True,
    loss: BatchLoss | None = None,
    among: Tensor | None = None,
    watch: Watch = unwatched,
) -> Measurement:
    """Measure a model by what the rows have: zero-shot figures by labels, retrieval by captions.

    A model with a classifier is measured by that alone, unless `texts_too`.

    Args:
        clip: the model, on `device`.
        rows: what to measure on.
        templates: prompts for class names.
        batch_size: images encoded at once, and rows in a batch of `loss`, on which a contrastive loss hangs.
        workers: processes that decode images.
        device: where to compute.
        autocast: the precision's context.
        pooled: whether the classifier sees the features before the projection.
        texts_too: measure a model with a classifier by prompts and captions as well, as its base is.
        by_classifier: ask a model's classifier, if it has one; else it is measured by prompts and captions alone.
        loss: the training loss, to be reported on these rows too, where there are any that it asks about.
        among: (C,) the classes that it tells a row apart among: it gets their embeddings and is asked about their rows
            alone; None for a loss over the rows' own texts, or none.
        watch: shows progress.

    Raises:
        InputError: the rows have nothing to measure by.
        ClipftError: not one image could be read.
    """
    classifier: Classifier | None = getattr(clip.model, "classifier", None) if by_classifier else None
    by_texts = texts_too or classifier is None
    seen = encode_rows(
        clip,
        rows,
        batch_size=batch_size,
        workers=workers,
        device=device,
        autocast=autocast,
        pooled=pooled and classifier is not None,
        watch=watch,
    )
    encode = Encode(clip, tuple(templates), device, autocast) if by_texts else None

    parts = list(parts_of(seen, encode, classifier))
    found = measurement(seen, parts, "labels or captions" if by_texts else "labels for its classifier")
    if loss is None:
        return found
    value = _mean_loss(loss, seen, parts[-1] if among is None else parts[0], batch_size, device, among)
    if value is None:
        return found
    counts = {**found.counts, "loss_batch_size": batch_size}
    return replace(found, losses={"loss": value, **found.losses}, counts=counts)


def measurement(seen: Seen, parts: Sequence[Part], wanted: str = "labels or captions") -> Measurement:
    """The figures of all parts together.

    Raises:
        InputError: there are none: the rows lack what is `wanted`.
    """
    if not parts:
        raise InputError(f"{seen.rows.name}: has no rows to measure by; expected {wanted}")
    metrics = {name: value for part in parts for name, value in part.metrics.items()}
    losses = {name: metrics.pop(name) for name in LOSSES if name in metrics}
    counts = {"rows": len(seen.rows), "images": len(seen.images), "unreadable": len(seen.faults)}
    return Measurement(
        data=seen.rows.name,
        metrics=metrics,
        losses=losses,
        counts=counts | {name: count for part in parts for name, count in part.counts.items()},
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        faults=seen.faults,
        similarity=similarities(parts[-1], seen.image_of),
    )


def encode_rows(
    clip: ClipModel,
    rows: Rows,
    *,
    batch_size: int,
    workers: int | Literal["auto"],
    device: torch.device,
    autocast: Autocast = nullcontext,
    pooled: bool = False,
    watch: Watch = unwatched,
) -> Seen:
    """The rows whose image can be read, each distinct image encoded once; the arguments are those of `measure`.

    Raises:
        ClipftError: not one image could be read.
    """
    distinct, image_of = np.unique(rows.identities, return_index=True, return_inverse=True)[1:]
    batches: Iterable[Batch] = eval_batches(
        rows.take(distinct), clip.preprocess, batch_size=batch_size, workers=resolve_workers(workers)
    )
    batches = watch(batches, math.ceil(len(distinct) / batch_size))
    return see(rows, image_of, encode_images(clip, batches, device=device, autocast=autocast, pooled=pooled))


def _mean_loss(
    loss: BatchLoss, seen: Seen, part: Part, batch_size: int, device: torch.device, among: Tensor | None
) -> float | None:
    """The loss over batches of a fixed shuffle (folders come sorted by class), each weighted by its rows (P19)."""
    asked = part.text_of >= 0 if among is None else torch.isin(part.text_of, among)
    known = np.flatnonzero(asked.numpy())
    if not len(known):
        return None
    identities = torch.from_numpy(seen.rows.identities)
    order = torch.from_numpy(known[shuffled(len(known), ORDER)])
    total = 0.0
    for rows in order.split(batch_size):
        image = part.images[seen.image_of[rows]].to(device)
        text = None if part.texts is None else part.texts[part.text_of[rows] if among is None else among].to(device)
        with torch.no_grad():
            numbers = (codes[rows].to(device) for codes in (part.text_of, seen.labels, identities))
            value = loss(image, text, *numbers)
        total += float(value) * len(rows)
    return total / len(order)

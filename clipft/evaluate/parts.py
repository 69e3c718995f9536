"""The figures of one kind, by what the rows have: a class for the classifier, a class for the prompts, a caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipft.data.captions import example_prompts
from clipft.data.columns import Ints, TextColumn
from clipft.data.decoding import RowFault
from clipft.data.rows import Rows
from clipft.errors import ClipftError
from clipft.evaluate.classify import classifier_metrics
from clipft.evaluate.features import ImageFeatures
from clipft.evaluate.retrieval import recall
from clipft.evaluate.zeroshot import base_to_novel_metrics, class_embeddings, zero_shot_metrics
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast, encode_texts


@dataclass(frozen=True, eq=False)
class Seen:
    """The rows whose image could be read.

    Args:
        rows: N rows.
        images: (I, D) features of the distinct images.
        pooled: (I, width) the same before the projection; None where a classifier does not look at them.
        image_of: (N,) which of them a row shows.
        labels: (N,) class numbers, -1 where a row has none.
        faults: the images that could not be read.
    """

    rows: Rows
    images: Tensor
    pooled: Tensor | None
    image_of: Tensor
    labels: Tensor
    faults: tuple[RowFault, ...]

    @property
    def for_classifier(self) -> Tensor:
        """(I, D or width) what the classifier looks at."""
        return self.images if self.pooled is None else self.pooled


def see(rows: Rows, image_of: Ints, encoded: ImageFeatures) -> Seen:
    """Match the features of distinct images with the rows that show them.

    Args:
        rows: all N rows.
        image_of: (N,) the number of a row's image among those that were encoded.
        encoded: their features, less those that could not be read.
    """
    if not len(encoded.features):
        raise ClipftError(f"{rows.name}: not one of its images could be read; the first: {encoded.faults[0]}")
    place = np.full(image_of.max() + 1, -1)  # a distinct image's number -> its place among the features
    place[encoded.indices.numpy()] = np.arange(len(encoded.indices))
    image_of = place[image_of]
    kept = np.flatnonzero(image_of >= 0)
    labels = np.full(len(kept), -1) if rows.labels is None else rows.labels[kept]
    return Seen(
        rows.take(kept),
        encoded.features,
        encoded.pooled,
        torch.from_numpy(image_of[kept]),
        torch.from_numpy(labels),
        encoded.faults,
    )


@dataclass(frozen=True)
class Encode:
    """How texts become features."""

    clip: ClipModel
    templates: tuple[str, ...]
    device: torch.device
    autocast: Autocast

    def captions(self, captions: TextColumn) -> Tensor:
        """(T, D) their features."""
        return encode_texts(self.clip, captions, device=self.device, autocast=self.autocast)

    def classes(self, classes: Sequence[str]) -> Tensor:
        """(C, D) their embeddings."""
        return class_embeddings(self.clip, classes, self.templates, device=self.device, autocast=self.autocast)


@dataclass(frozen=True, eq=False)
class Part:
    """Figures of one kind, and what a row's text is to the loss.

    Args:
        metrics: the figures.
        counts: what there was to choose from.
        prompts: finished prompts.
        images: (I, D) what the loss sees of the distinct images.
        texts: (T, D) features of the distinct texts; None where there are none.
        text_of: (N,) which of them a row has; -1 for none.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    prompts: tuple[str, ...]
    images: Tensor
    texts: Tensor | None
    text_of: Tensor


def parts_of(seen: Seen, encode: Encode | None, classifier: Classifier | None) -> Iterator[Part]:
    """What can be measured, by texts where there is an `encode`, class prompts first.

    The last part is what the loss is about, unless that tells rows apart among classes.
    """
    labelled = bool((seen.labels >= 0).any())
    if labelled and encode is not None:
        yield _by_prompts(seen, encode)
    if seen.rows.captions is not None and encode is not None:
        yield _by_captions(seen, seen.rows.captions, encode)
    if labelled and classifier is not None:
        yield _by_classifier(seen, classifier)


def _class_counts(seen: Seen) -> dict[str, int]:
    return {"classes": len(seen.rows.classes), "classes_measured": len(seen.labels[seen.labels >= 0].unique())}


def _by_classifier(seen: Seen, classifier: Classifier) -> Part:
    metrics = classifier_metrics(seen.for_classifier[seen.image_of], seen.labels, classifier)
    return Part(metrics, _class_counts(seen), (), seen.for_classifier, None, seen.labels)


def _by_prompts(seen: Seen, encode: Encode) -> Part:
    embeddings = encode.classes(seen.rows.classes)  # (C, D)
    images = seen.images[seen.image_of]  # (N, D)
    metrics = zero_shot_metrics(images, embeddings, seen.labels, encode.clip.scale)
    if seen.rows.novel:
        novel = [seen.rows.classes.index(name) for name in seen.rows.novel]
        metrics |= base_to_novel_metrics(images, embeddings, seen.labels, novel)
    prompts = example_prompts(seen.rows.classes, encode.templates)
    return Part(metrics, _class_counts(seen), prompts, seen.images, embeddings, seen.labels)


def _by_captions(seen: Seen, captions: TextColumn, encode: Encode) -> Part:
    text_of = captions.codes()
    texts = encode.captions(captions.take(np.unique(text_of, return_index=True)[1]))  # (T, D)
    pairs = torch.stack([seen.image_of, torch.from_numpy(text_of)], dim=1)
    metrics = recall(seen.images, texts, pairs)
    return Part(metrics, {"captions": len(texts)}, (), seen.images, texts, torch.from_numpy(text_of))

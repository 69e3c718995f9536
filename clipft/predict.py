"""`clipft predict`: the classes of images, or the images nearest to a text."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import torch
from torch import Tensor

from clipft.data.batches import eval_batches, resolve_workers
from clipft.data.columns import TextColumn
from clipft.data.decoding import RowFault
from clipft.data.images import SUFFIXES
from clipft.data.names import natural_key
from clipft.data.rows import FileImages, Rows
from clipft.errors import InputError
from clipft.evaluate.features import ImageFeatures, encode_images
from clipft.evaluate.measure import Watch, unwatched
from clipft.evaluate.target import Target
from clipft.evaluate.zeroshot import class_embeddings, probabilities
from clipft.model.encode import Autocast, encode_texts


@dataclass(frozen=True)
class ClassProbability:
    """A class and how probable the model holds it to be."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """An image's most probable classes, the first one first; empty where none reaches the threshold."""

    image: str
    classes: tuple[ClassProbability, ...]


@dataclass(frozen=True)
class Predictions:
    """What was predicted, among which classes and how they were asked for, and which images could not be read."""

    predictions: tuple[Prediction, ...]
    among: str
    faults: tuple[RowFault, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """[{"image", "classes": [{"name", "probability"}]}]."""
        return [
            {
                "image": prediction.image,
                "classes": [{"name": c.name, "probability": c.probability} for c in prediction.classes],
            }
            for prediction in self.predictions
        ]

    def write_csv(self, file: TextIO) -> None:
        """A line for each image and class: image,class,probability; both empty where no class reached the threshold."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "class", "probability"])
        for prediction in self.predictions:
            for c in prediction.classes:
                writer.writerow([prediction.image, c.name, f"{c.probability:.6f}"])
            if not prediction.classes:
                writer.writerow([prediction.image, "", ""])


@dataclass(frozen=True)
class Nearest:
    """The images nearest to a text with their cosines, nearest first, and which could not be read."""

    query: str
    images: tuple[tuple[str, float], ...]
    searched: int
    faults: tuple[RowFault, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """[{"image", "cosine"}]."""
        return [{"image": image, "cosine": cosine} for image, cosine in self.images]

    def write_csv(self, file: TextIO) -> None:
        """A line for each image: image,cosine."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "cosine"])
        writer.writerows([image, f"{cosine:.6f}"] for image, cosine in self.images)


@dataclass(frozen=True)
class Compute:
    """Where and how to compute.

    Args:
        device: where the model goes.
        autocast: the precision's context.
        batch_size: images encoded at once.
        workers: processes that decode images.
        watch: shows progress.
    """

    device: torch.device
    autocast: Autocast = nullcontext
    batch_size: int = 64
    workers: int | Literal["auto"] = "auto"
    watch: Watch = unwatched


def find_images(paths: Sequence[str]) -> list[str]:
    """Files as they are named, and all images in folders, in natural order.

    Raises:
        InputError: a folder without images.
    """
    return [image for path in paths for image in (_images_below(path) if os.path.isdir(path) else [path])]


def _images_below(folder: str) -> Iterator[str]:
    inside = [path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    shown = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not shown:
        raise InputError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})")
    yield from sorted(map(str, shown), key=natural_key)


def predict_classes(
    target: Target,
    paths: Sequence[str],
    compute: Compute,
    *,
    texts: Sequence[str] = (),
    top: int = 3,
    threshold: float = 0.0,
) -> Predictions:
    """The classes of images: the run's (by its classifier or its prompts), or `texts`, taken as whole prompts.

    Args:
        target: the model.
        paths: image files and folders of them.
        compute: where and how.
        texts: choose among these instead; at least two.
        top: classes given for an image at most.
        threshold: leave out classes with a lower probability.

    Raises:
        InputError: the model brings no classes and there are no texts, or a folder holds no image.
    """
    _refuse_unanswerable(target, texts)
    images = find_images(paths)
    classifier = None if texts else target.classifier
    target.clip.model.to(compute.device)
    encoded = _encode(target, images, compute, pooled=classifier is not None and target.pooled)
    if classifier is not None:
        features = encoded.features if encoded.pooled is None else encoded.pooled
        with torch.no_grad():
            shares = classifier(features.to(compute.device)).double().softmax(dim=1).cpu()
        names, among = target.classes, f"{len(target.classes)} classes, by the run's classifier"
    else:
        names = tuple(texts) or target.classes
        templates = ("{}",) if texts else target.templates
        among = (
            f"{len(names)} texts"
            if texts
            else f"{len(names)} classes, such as {templates[0].replace('{}', names[0])!r}"
        )
        embeddings = class_embeddings(target.clip, names, templates, device=compute.device, autocast=compute.autocast)
        shares = probabilities(encoded.features, embeddings, target.clip.scale)
    rows = zip(encoded.indices.tolist(), shares, strict=True)
    predictions = tuple(Prediction(images[index], _best(names, share, top, threshold)) for index, share in rows)
    return Predictions(predictions, among, encoded.faults)


def nearest_images(target: Target, query: str, paths: Sequence[str], compute: Compute, *, top: int = 10) -> Nearest:
    """The images whose features are nearest to the text's."""
    if not query.strip():
        raise InputError("--query: is empty; expected what to look for, such as 'a red boat'")
    images = find_images(paths)
    target.clip.model.to(compute.device)
    encoded = _encode(target, images, compute)
    text = encode_texts(target.clip, [query], device=compute.device, autocast=compute.autocast)[0]  # (D,)
    cosines = encoded.features @ text  # (N,)
    order = cosines.argsort(descending=True, stable=True)[:top]
    found = tuple((images[int(encoded.indices[i])], float(cosines[i])) for i in order)
    return Nearest(query, found, len(encoded.features), encoded.faults)


def _refuse_unanswerable(target: Target, texts: Sequence[str]) -> None:
    if not texts and not target.classes:
        raise InputError(
            f"{target.name}: brings no classes; name at least two with --text, or look for one with --query"
        )
    if len(set(texts)) == 1:
        raise InputError("--text: a probability needs at least two texts to choose between; for one use --query")


def _encode(target: Target, images: Sequence[str], compute: Compute, *, pooled: bool = False) -> ImageFeatures:
    numbers = np.arange(len(images))
    files = FileImages("", TextColumn.of(images))
    rows = Rows("images", files, None, None, (), identities=numbers, groups=numbers)
    # starting workers takes longer than decoding a few pictures
    workers = resolve_workers(compute.workers) if len(images) > compute.batch_size else 0
    batches = eval_batches(rows, target.clip.preprocess, batch_size=compute.batch_size, workers=workers)
    watched = compute.watch(batches, math.ceil(len(images) / compute.batch_size))
    return encode_images(target.clip, watched, device=compute.device, autocast=compute.autocast, pooled=pooled)


def _best(names: Sequence[str], shares: Tensor, top: int, threshold: float) -> tuple[ClassProbability, ...]:
    order = shares.argsort(descending=True, stable=True)[:top].tolist()
    return tuple(ClassProbability(names[i], float(shares[i])) for i in order if shares[i] >= threshold)

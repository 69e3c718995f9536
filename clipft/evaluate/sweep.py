"""One model under several sets of weights, measured on the same rows: each image is decoded once.

What lies below the first tensor that differs is computed once too; in a tower without any, everything is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clipft.data.batches import eval_batches, resolve_workers
from clipft.data.captions import class_prompts
from clipft.data.decoding import RowFault
from clipft.data.rows import Rows
from clipft.evaluate.features import ImageFeatures
from clipft.evaluate.measure import Measurement, measurement
from clipft.evaluate.parts import Encode, Seen, parts_of, see
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.encode import TEXTS_AT_ONCE, Autocast, mean_prompts, measuring, normalised
from clipft.model.tower import Tower

AT_ONCE = 512
"""Rows held while every set of weights looks at them: 300 MB of pictures of 224 pixels."""


@dataclass(frozen=True, eq=False)
class Variants:
    """Sets of weights for one model.

    Args:
        clip: the model, on its device.
        names: the tensors in which any two sets differ.
        count: how many sets there are.
        put: gives the model the weights of a set, by its number.
    """

    clip: ClipModel
    names: frozenset[str]
    count: int
    put: Callable[[int], None]


@dataclass(frozen=True)
class Compute:
    """How to measure.

    Args:
        device: where the model is.
        autocast: the precision's context.
        batch_size: images encoded at once.
        workers: processes that decode images.
        tick: called each time that a set of weights has looked at a batch.
    """

    device: torch.device
    autocast: Autocast = nullcontext
    batch_size: int = 64
    workers: int | Literal["auto"] = "auto"
    tick: Callable[[], object] = lambda: None


def batches_of(rows: Rows, compute: Compute) -> int:
    """How many batches each set of weights looks at."""
    return math.ceil(len(np.unique(rows.identities)) / compute.batch_size)


def sweep(
    variants: Variants, rows: Rows, templates: Sequence[str], compute: Compute, *, by_classifier: bool, pooled: bool
) -> tuple[Measurement, ...]:
    """Measure each set of weights; the same figures as `measure`, one after the other, would give.

    Args:
        variants: the sets.
        rows: what to measure on.
        templates: prompts for class names.
        compute: how.
        by_classifier: ask the model's classifier, if any; its classes are the rows'.
        pooled: whether the classifier sees features before the projection.
    """
    clip = variants.clip
    classifier: Classifier | None = getattr(clip.model, "classifier", None) if by_classifier else None
    seen = list(_see(variants, rows, compute, pooled=pooled and classifier is not None))
    encode = Encode(clip, tuple(templates), compute.device, compute.autocast)
    encodes = [encode] * variants.count
    if clip.text.prompt is None:  # else the classes' prompts are no plain texts
        encodes = [
            _Known(**vars(encode), features=features) for features in _texts(variants, seen[0], templates, compute)
        ]
    found = []
    for number, (each, known) in enumerate(zip(seen, encodes, strict=True)):
        variants.put(number)
        found.append(measurement(each, list(parts_of(each, known, classifier))))
    return tuple(found)


def first_difference(clip: ClipModel, tower: Tower, names: Iterable[str]) -> int:
    """How far a tower computes the same whatever these tensors are.

    Returns:
        0 where they reach into its embeddings, N + 1 into block N, depth + 1 into norm or pooling, depth + 2 into
        the projection, depth + 3 where none of them is the tower's.
    """
    places = {name: _number(name, owner) for owner in (clip.image, clip.text) for name in owner.names()}
    owners = {name: owner.name for owner in (clip.image, clip.text) for name in owner.names()}
    beside = {name.rpartition(".")[0]: name for name in places}  # a buffer lies beside its module's parameters
    nothing = tower.depth + 3
    found = [nothing]
    for name in names:
        if name.split(".")[0] in ("logit_scale", "logit_bias", "classifier"):
            continue
        known = name if name in places else beside.get(name.rpartition(".")[0])
        if known is None:
            return 0  # a buffer of a module without parameters: anywhere
        if owners[known] == tower.name:
            found.append(places[known])
    return min(found)


def _number(name: str, tower: Tower) -> int:
    part = tower.part_of(name)
    if part == "embeddings" or tower.group_of(name) == "prompt":  # block 0 is given prompt vectors with the rest
        return 0
    if part.startswith("block "):
        return int(part.removeprefix("block ")) + 1
    return {"norm": tower.depth + 1, "pooling": tower.depth + 1, "projection": tower.depth + 2}[part]


def _see(variants: Variants, rows: Rows, compute: Compute, *, pooled: bool) -> Iterator[Seen]:
    distinct, image_of = np.unique(rows.identities, return_index=True, return_inverse=True)[1:]
    indices, labels = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    faults: list[RowFault] = []

    def pictures() -> Iterator[Tensor]:
        for batch in eval_batches(
            rows.take(distinct),
            variants.clip.preprocess,
            batch_size=compute.batch_size,
            workers=resolve_workers(compute.workers),
        ):
            faults.extend(batch.faults)
            if len(batch.indices):
                indices.append(batch.indices)
                labels.append(batch.labels)
                yield batch.images

    for features, before in _features(variants, variants.clip.image, pictures(), compute, compute.tick):
        encoded = ImageFeatures(
            features, before if pooled else None, torch.cat(indices), torch.cat(labels), tuple(faults)
        )
        yield see(rows, image_of, encoded)


def _texts(variants: Variants, seen: Seen, templates: Sequence[str], compute: Compute) -> Iterator[dict[str, Tensor]]:
    """For each set the features of all texts that measuring asks for."""
    rows = seen.rows
    texts = [] if rows.captions is None else list(rows.captions)
    if bool((seen.labels >= 0).any()):
        texts += [prompt for prompts in class_prompts(rows.classes, templates) for prompt in prompts]
    distinct = list(dict.fromkeys(texts))
    starts = range(0, len(distinct), TEXTS_AT_ONCE)
    tokens = (variants.clip.tokenizer(distinct[start : start + TEXTS_AT_ONCE]) for start in starts)
    for features, _ in _features(variants, variants.clip.text, tokens, compute, lambda: None):
        yield dict(zip(distinct, features, strict=True))


def _features(
    variants: Variants, tower: Tower, inputs: Iterable[Tensor], compute: Compute, tick: Callable[[], object]
) -> list[tuple[Tensor, Tensor]]:
    """For each set (N, D) normalised features of all inputs, and (N, W) the same before the projection."""
    model = variants.clip.model
    start = first_difference(variants.clip, tower, variants.names)
    differs = start < tower.depth + 3
    numbers = range(variants.count if differs else 1)
    after: list[list[Tensor]] = [[torch.zeros(0, tower.embed_dim)] for _ in numbers]
    before: list[list[Tensor]] = [[torch.zeros(0, tower.pooled_width)] for _ in numbers]
    for chunk in _chunks(inputs):
        with measuring(model), compute.autocast():
            lower = [_below(tower, some.to(compute.device), start) if start else some for some in chunk]
        for number in numbers:
            variants.put(number)
            for each in lower:
                with measuring(model), compute.autocast():
                    inner = _above(tower, each if start else each.to(compute.device), start)
                    encoded = tower.shared(inner)
                before[number].append(normalised(inner))
                after[number].append(normalised(encoded))
                tick()
    found = [(torch.cat(a), torch.cat(b)) for a, b in zip(after, before, strict=True)]
    return found if differs else found * variants.count


def _chunks(inputs: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    held: list[Tensor] = []
    for some in inputs:
        held.append(some)
        if sum(map(len, held)) >= AT_ONCE:
            yield held
            held = []
    if held:
        yield held


def _below(tower: Tower, inputs: Tensor, start: int) -> Any:
    """What is the same under every set: what block `start` - 1 takes, or where no block differs the pooled feature."""
    return tower.prefix(inputs, start - 1) if start <= tower.depth + 1 else tower.pool(inputs)


def _above(tower: Tower, lower: Any, start: int) -> Tensor:
    """The rest of the way to the pooled feature."""
    if start == 0:
        return tower.pool(lower)
    if start <= tower.depth + 1:
        return tower.finish(tower.through(lower, start - 1, tower.depth))
    pooled: Tensor = lower
    return pooled


@dataclass(frozen=True)
class _Known(Encode):
    """Texts whose features are known already."""

    features: Mapping[str, Tensor]

    def captions(self, captions: Sequence[str]) -> Tensor:
        return torch.stack([self.features[caption] for caption in captions])

    def classes(self, classes: Sequence[str]) -> Tensor:
        prompts = [prompt for each in class_prompts(classes, self.templates) for prompt in each]
        return mean_prompts(self.captions(prompts), len(classes))

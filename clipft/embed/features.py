"""The features that a run's model and its base give the same images, captions and class prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clipft.config.source_schema import Source
from clipft.data.columns import Ints
from clipft.data.decoding import RowFault
from clipft.data.rows import Rows
from clipft.embed.thumbnails import Thumbnails, drawn_every
from clipft.errors import ClipftError
from clipft.evaluate.measure import Watch, encode_rows, unwatched
from clipft.evaluate.parts import Seen
from clipft.evaluate.retrieval import recall
from clipft.evaluate.sides import Asked, look_at_sides
from clipft.evaluate.target import with_adapter
from clipft.evaluate.zeroshot import class_embeddings, zero_shot_metrics
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast, encode_texts
from clipft.model.runfiles import Which

Side = Literal["base", "tuned"]


@dataclass(frozen=True, eq=False)
class Features:
    """What one model makes of them, float32 and L2-normalised.

    Args:
        name: where its weights are from.
        scale: what its cosines are multiplied by: exp(logit_scale).
        images: (I, D) of the distinct images.
        captions: (T, D) of the distinct captions; None where the rows have none.
        classes: (C, D) of the classes, each the mean of its prompts, as zero-shot classification has it; or None.
    """

    name: str
    scale: float
    images: Tensor
    captions: Tensor | None
    classes: Tensor | None


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The rows whose image could be read, and what each model makes of them.

    Args:
        target: what was embedded, as the user wrote it.
        rows: N rows.
        image_of: (N,) which of the distinct images a row shows.
        caption_of: (N,) which of the distinct captions it has; None where the rows have none.
        templates: the prompts that class names were put into.
        precision: what the towers computed in.
        sides: the models' features, the base first.
        thumbnails: (I,) a small JPEG of some of the distinct images.
        faults: the images that could not be read.
        notes: what a reader should know.
    """

    target: str
    rows: Rows
    image_of: Ints
    caption_of: Ints | None
    templates: tuple[str, ...]
    precision: str
    sides: Mapping[Side, Features]
    thumbnails: tuple[bytes | None, ...]
    faults: tuple[RowFault, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that prompts were made of; empty where no row has a label."""
        return self.rows.classes if _labelled(self.rows) else ()

    def labels(self) -> Ints:
        """(N,) class numbers, -1 where a row has none."""
        return np.full(len(self.rows), -1) if self.rows.labels is None else self.rows.labels

    def first_rows(self) -> Ints:
        """(I,) the first row that shows each of the distinct images."""
        return np.unique(self.image_of, return_index=True)[1]

    def first_captions(self) -> Ints:
        """(T,) the first row that has each of the distinct captions."""
        assert self.caption_of is not None
        return np.unique(self.caption_of, return_index=True)[1]


def embed_target(
    name: str,
    data: Source | None,
    *,
    which: Which | None = None,
    device: torch.device,
    autocast: Autocast = nullcontext,
    precision: str = "fp32",
    batch_size: int = 64,
    workers: int | Literal["auto"] = "auto",
    with_base: bool = True,
    check: Callable[[Rows], None] = lambda rows: None,
    thumbnails: int = 0,
    adapter: str | None = None,
    watch: Watch = unwatched,
) -> Embeddings:
    """Features of rows by what `name` stands for, and by the base it was tuned from.

    Args:
        name: a run, a checkpoint, a config (its base alone), an exported model; see `open_target`.
        data: what to embed; None takes the validation rows of the run's config.
        which: a run's best or last checkpoint.
        device: where to compute.
        autocast: the precision's context.
        precision: its name.
        batch_size: images encoded at once.
        workers: processes that decode images.
        with_base: whether to ask the base too, where it is known.
        check: sees the rows before the first image is read, and may refuse them.
        thumbnails: how many small pictures to keep at most.
        adapter: a file to put on `name`, which is the base then.
        watch: shows progress.

    Raises:
        ClipftError: not one image could be read, or features are not finite.
    """

    def look(clip: ClipModel, asked: Asked) -> tuple[Seen, Features, Thumbnails]:
        check(asked.rows)
        images, every = len(np.unique(asked.rows.identities)), drawn_every(len(asked.rows))
        thumbs = Thumbnails(images, every, thumbnails, clip.preprocess_cfg)
        seen = encode_rows(
            clip,
            asked.rows,
            batch_size=batch_size,
            workers=workers,
            device=device,
            autocast=autocast,
            watch=lambda batches, total: thumbs.keep(watch(batches, total)),
        )
        return seen, _features(clip, seen, asked.templates, device, autocast), thumbs

    found = look_at_sides(
        name,
        data,
        look,
        which=which,
        device=device,
        with_base=with_base,
        classifier_too=False,
        adapter=adapter,
    )
    both: dict[Side, tuple[Seen, Features, Thumbnails]] = {}
    if found.base is not None:
        both["base"] = found.base
    if found.tuned is not None:
        both["tuned"] = found.tuned
    seen, _, thumbs = next(iter(both.values()))
    for other, _, _ in both.values():
        if not torch.equal(other.image_of, seen.image_of):
            raise ClipftError(f"{seen.rows.name}: its images changed while they were read; start again")
    return Embeddings(
        target=with_adapter(name, adapter),
        rows=seen.rows,
        image_of=seen.image_of.numpy(),
        caption_of=None if seen.rows.captions is None else seen.rows.captions.codes(),
        templates=found.asked.templates,
        precision=precision,
        sides={side: features for side, (_, features, _) in both.items()},
        thumbnails=tuple(thumbs.pictures),
        faults=seen.faults,
        notes=found.notes,
    )


def figures(embeddings: Embeddings, side: Side) -> dict[str, float]:
    """What a map cannot show: how often a row's own text is the nearest, and the mean cosines behind that.

    `zero_shot_top1` and `image_to_text_r1` are those of `clipft evaluate`. `cosine_own_KIND` is the mean over the rows
    of the cosine of an image and its own class or caption, `cosine_any_KIND` that of every image and every text.
    """
    features, labels = embeddings.sides[side], embeddings.labels()
    images = features.images[embeddings.image_of]  # (N, D)
    found: dict[str, float] = {}
    if features.classes is not None:
        measured = zero_shot_metrics(images, features.classes, torch.from_numpy(labels), features.scale)
        found["zero_shot_top1"] = measured["zero_shot_top1"]
        found |= _cosines("class", images[labels >= 0], features.classes[labels[labels >= 0]], features.classes)
    if features.captions is not None and embeddings.caption_of is not None:
        pairs = torch.from_numpy(np.stack([embeddings.image_of, embeddings.caption_of], axis=1))
        found["image_to_text_r1"] = recall(features.images, features.captions, pairs)["image_to_text_r1"]
        found |= _cosines("caption", images, features.captions[embeddings.caption_of], features.captions)
    return found


def _cosines(kind: str, images: Tensor, own: Tensor, texts: Tensor) -> dict[str, float]:
    """Of M images with their own texts, and of them all with all texts; the mean of products of sums, not N x T."""
    any_text = images.double().mean(dim=0) @ texts.double().mean(dim=0)
    return {
        f"cosine_own_{kind}": float((images * own).sum(dim=1).double().mean()),
        f"cosine_any_{kind}": float(any_text),
    }


def _features(
    clip: ClipModel, seen: Seen, templates: tuple[str, ...], device: torch.device, autocast: Autocast
) -> Features:
    captions, classes = None, None
    if seen.rows.captions is not None:
        first = np.unique(seen.rows.captions.codes(), return_index=True)[1]
        captions = encode_texts(clip, seen.rows.captions.take(first), device=device, autocast=autocast)
    if _labelled(seen.rows):
        classes = class_embeddings(clip, seen.rows.classes, templates, device=device, autocast=autocast)
    for kind, vectors in (("images", seen.images), ("captions", captions), ("classes", classes)):
        if vectors is not None and (odd := int((~vectors.isfinite().all(dim=1)).sum())):
            raise ClipftError(
                f"{clip.base}: the features of {odd:,} of {len(vectors):,} {kind} are not finite; "
                "with --precision fp32 they may be, else the model's weights are broken"
            )
    return Features(clip.base, clip.scale, seen.images, captions, classes)


def _labelled(rows: Rows) -> bool:
    return rows.labels is not None and bool((rows.labels >= 0).any())

"""Architectures of open_clip, their pretrained tags and what each takes: pure data, searched and asked what fits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from clipft.config.hints import nearest, one_of
from clipft.errors import InputError

BATCH_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)  # rows a step; a contrastive loss needs 2
PRECISIONS = ("bf16", "fp32")
WAYS = ("full", "lora", "heads")


@dataclass(frozen=True)
class Tag:
    """Pretrained weights of an architecture.

    Args:
        name: what `model.pretrained` says.
        loads: whether the architecture computes with the activation that they were trained with.
        instead: where it does not, the architecture that does, if there is one.
        zero_shot_top1: on ImageNet; None where open_clip's documents have no figure.
        source: which of them has it, as `zero_shot.csv` calls it.
    """

    name: str
    loads: bool = True
    instead: str | None = None
    zero_shot_top1: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class Profile:
    """What an architecture is and takes.

    Args:
        parameters: of the whole model; `image_parameters` and `text_parameters` are the towers' with their projections.
        image_size: height and width in pixels.
        context_length: tokens of a text.
        embed_dim: width of the shared space.
        image_flops: of the forward pass of one image; matrix products, convolutions and attention, two a multiply-add.
        text_flops: of one text of full length.
        peak_mb: for each precision and way of training, the largest size of all tensors in a step of AdamW in MB (1e6
            bytes), at each of BATCH_SIZES.
    """

    parameters: int
    image_parameters: int
    text_parameters: int
    image_size: tuple[int, int]
    context_length: int
    embed_dim: int
    image_flops: int
    text_flops: int
    peak_mb: Mapping[str, Mapping[str, Sequence[int]]]

    @property
    def pair_flops(self) -> int:
        """Of the forward pass of one image and one text."""
        return self.image_flops + self.text_flops

    def largest_batch(self, way: str, precision: str, size: float) -> int | None:
        """The largest of BATCH_SIZES whose step fits in `size` bytes; None where not even the smallest does."""
        peaks = zip(BATCH_SIZES, self.peak_mb[precision][way], strict=True)
        return max((batch for batch, peak in peaks if peak * 1e6 <= size), default=None)


@dataclass(frozen=True)
class Architecture:
    """A name of open_clip's with its tags; `profile` is None where the tables lack it."""

    name: str
    tags: tuple[Tag, ...]
    profile: Profile | None

    @property
    def loading(self) -> tuple[Tag, ...]:
        """The tags that load."""
        return tuple(tag for tag in self.tags if tag.loads)

    @property
    def best(self) -> Tag | None:
        """Of the tags that load and have a figure, the most accurate."""
        known = [tag for tag in self.loading if tag.zero_shot_top1 is not None]
        return max(known, key=lambda tag: tag.zero_shot_top1 or 0.0, default=None)


@dataclass(frozen=True)
class Fit:
    """For each way of training the largest of BATCH_SIZES that fits; None where not even the smallest does."""

    architecture: Architecture
    full: int | None
    lora: int | None
    heads: int | None

    def to_json(self) -> dict[str, Any]:
        """What `clipft models --fits --json` prints of it."""
        return {"name": self.architecture.name, **{way: getattr(self, way) for way in WAYS}}


@dataclass(frozen=True)
class Catalogue:
    """Architectures in open_clip's order.

    Args:
        tables: the version of open_clip that the figures are of.
        installed: the version whose names and tags these are.
    """

    tables: str
    installed: str
    architectures: tuple[Architecture, ...]

    def search(self, words: str) -> Catalogue:
        """The architectures whose name contains `words`, with all their tags, and those with such tags, with these.

        Case does not count.

        Raises:
            InputError: nothing is found; the nearest names are told.
        """
        found = tuple(part for each in self.architectures if (part := _matching(each, words.lower())) is not None)
        if not found:
            raise InputError(self._nothing(words))
        return replace(self, architectures=found)

    def fitting(self, size: float, precision: str) -> tuple[Fit, ...]:
        """The architectures of which at least the heads can be trained in `size` bytes.

        Args:
            precision: one of PRECISIONS.
        """
        known = [(each, each.profile) for each in self.architectures if each.profile is not None]
        fits = (
            Fit(each, **{way: profile.largest_batch(way, precision, size) for way in WAYS}) for each, profile in known
        )
        return tuple(fit for fit in fits if fit.heads is not None)

    def to_json(self) -> dict[str, Any]:
        """What `clipft models --json` prints."""
        rows = [_row(each) for each in self.architectures]
        versions = {"open_clip": self.installed, "profiles_of": self.tables}
        return {**versions, "batch_sizes": list(BATCH_SIZES), "architectures": rows}

    def _nothing(self, words: str) -> str:
        names = [each.name for each in self.architectures]
        tags = [tag.name for each in self.architectures for tag in each.tags]
        pieces = [piece for name in (*names, *tags) for piece in re.split("[-_]", name)]
        close = nearest(words, dict.fromkeys([*names, *tags, *pieces]), count=4)
        hint = f"did you mean {one_of(close)}? " if close else ""
        return f"no architecture or tag of open_clip {self.installed} contains {words!r}; {hint}All: clipft models"


def _row(each: Architecture) -> dict[str, Any]:
    """An architecture as JSON; what the tables lack is null."""
    profile = None if each.profile is None else {**asdict(each.profile), "image_size": list(each.profile.image_size)}
    return {"name": each.name, "tags": [asdict(tag) for tag in each.tags], "profile": profile}


def _matching(each: Architecture, words: str) -> Architecture | None:
    if words in each.name.lower():
        return each
    tags = tuple(tag for tag in each.tags if words in tag.name.lower())
    return replace(each, tags=tags) if tags else None

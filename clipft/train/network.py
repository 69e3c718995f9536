"""What a step asks of a CLIP: features of a batch, with no graph and no work below what trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from clipft.model.clip_model import ClipModel
from clipft.model.encode import TEXTS_AT_ONCE
from clipft.model.plan import Plan
from clipft.train.losses import Features
from clipft.train.precision import Precision

Watch = Callable[[Iterable[int], int], Iterable[int]]


@dataclass
class Network:
    """A CLIP under a plan.

    Args:
        clip: the model on its device.
        plan: what trains.
        precision: what to compute in.
        pooled: whether the image features are the pooled ones, before the projection.
        needs_text: whether the loss looks at the text tower at all.

    Attributes:
        text_trains: whether anything below the text tower's pooled feature trains.
    """

    clip: ClipModel
    plan: Plan
    precision: Precision
    pooled: bool = False
    needs_text: bool = True
    _image_trains: bool = field(init=False)
    text_trains: bool = field(init=False)
    _frozen_text: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        trains = {p.name for p in self.plan.trainable}
        self._image_trains = not trains.isdisjoint(self.clip.image.body_names())
        self.text_trains = not trains.isdisjoint(self.clip.text.body_names())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.clip.logit_scale.device

    def prepare_texts(self, captions: Sequence[str], watch: Watch = lambda parts, total: parts) -> None:
        """Encode the captions of a text backbone that stands still once, up to its pooled feature.

        Text is not augmented, so a frozen backbone gives the same feature in every epoch (P55). Fixed chunks of the
        sorted captions make its bits independent of the order of training and of a resume.

        Args:
            captions: texts, again and again or not.
            watch: shows how many of so many chunks have come.
        """
        if not self.needs_text or self.text_trains:
            return
        distinct = sorted(set(captions))
        starts = range(0, len(distinct), TEXTS_AT_ONCE)
        for start in watch(starts, len(starts)):
            chunk = distinct[start : start + TEXTS_AT_ONCE]
            with torch.no_grad(), self.autocast():
                pooled = self.clip.text.pool(self.clip.tokenizer(chunk).to(self.device))  # (N, width)
            self._frozen_text.update(zip(chunk, pooled.float().cpu(), strict=True))

    def autocast(self) -> AbstractContextManager[object]:
        """The precision's context."""
        return self.precision.autocast(self.device)

    def features(self, images: Tensor, captions: Sequence[str]) -> Features:
        """L2-normalised float32 features of images (B, 3, H, W) and, where the loss needs them, of their captions."""
        image = self.image_features(images)
        return Features(image, self.text_features(captions) if self.needs_text and captions else None)

    def image_features(self, images: Tensor) -> Tensor:
        """L2-normalised float32 features (B, D) of images (B, 3, H, W) alone."""
        with self.autocast():
            image = self._image(images)
        return normalise(image)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """L2-normalised float32 features (N, D) of texts."""
        with self.autocast():
            text = self._text(texts)
        return normalise(text)

    def _image(self, images: Tensor) -> Tensor:
        tower = self.clip.image
        with torch.set_grad_enabled(self._image_trains and torch.is_grad_enabled()):
            pooled = tower.pool(images.to(self.device, non_blocking=True))  # (B, width)
        pooled = tower.drop(pooled)
        return pooled if self.pooled else tower.shared(pooled)

    def _text(self, captions: Sequence[str]) -> Tensor:
        """Equal captions go through the backbone once: of labelled rows no more than there are classes (P55).

        Where the backbone drops something in training, they share what is dropped; the tower's own dropout is drawn for
        each row.
        """
        tower = self.clip.text
        if self.text_trains:
            numbers: dict[str, int] = {}
            places = [numbers.setdefault(caption, len(numbers)) for caption in captions]
            pooled = tower.pool(self.clip.tokenizer(list(numbers)).to(self.device))
            if len(numbers) < len(places):
                pooled = pooled[torch.tensor(places, device=self.device)]
        else:
            self.prepare_texts([c for c in captions if c not in self._frozen_text])
            pooled = torch.stack([self._frozen_text[c] for c in captions]).to(self.device)
        return tower.shared(tower.drop(pooled))


def normalise(features: Tensor) -> Tensor:
    """Features (N, D) in float32 and of length 1."""
    return F.normalize(features.float(), dim=-1)

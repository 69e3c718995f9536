"""The base's own features of what trains now: the same model with the base's tensors in it for a moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipft.model.clip_model import ClipModel
from clipft.model.encode import TEXTS_AT_ONCE, encode_texts, measuring
from clipft.model.in_place import in_place
from clipft.model.plan import Plan
from clipft.model.standstill import moving_buffers
from clipft.train.losses import Features
from clipft.train.network import Network, Watch


@dataclass(frozen=True)
class Base:
    """What of its base a run needs beside the model that trains.

    Args:
        tensors: of what moves in the towers in any stage, by full name.
        scale: exp(logit_scale).
    """

    tensors: Mapping[str, Tensor]
    scale: float


def keep_base(clip: ClipModel, plans: Iterable[Plan]) -> Base:
    """Copies of what the plans of a run move in the towers: parameters that train and buffers that move.

    To be taken before the first step and before a checkpoint is laid over the base, so that a resumed run has the same.
    Adapters begin as the identity: with these copies of theirs the model is its base.
    """
    state = clip.model.state_dict()
    return Base({name: state[name].detach().clone() for name in moving_names(clip.model, plans)}, clip.scale)


def moving_names(model: nn.Module, plans: Iterable[Plan]) -> list[str]:
    """The tensors that plans move in the towers, each once: parameters that train and buffers that move."""
    names: dict[str, None] = {}
    for plan in plans:
        names |= dict.fromkeys(p.name for p in plan.trainable if p.tower in ("image", "text"))
        names |= dict.fromkeys(moving_buffers(model, plan))
    return list(names)


class BaseFeatures:
    """Gives a batch's features as the base has them, without a second model.

    Args:
        network: of the model that trains.
        base: its tensors of all that moves; the rest of the model is the base's own, since it stands still.
        towers: image, text or both: the features that are asked for.
    """

    def __init__(self, network: Network, base: Base, towers: Iterable[str]) -> None:
        self.network = network
        self.towers = frozenset(towers)
        state = {**dict(network.clip.model.named_parameters()), **dict(network.clip.model.named_buffers())}
        self._pairs = [(state[name], tensor) for name, tensor in base.tensors.items()]
        self._texts: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, captions: Sequence[str], rows_at_once: int) -> Features:
        """(B, D) features of images (B, 3, H, W) and captions, L2-normalised, float32, without a graph.

        A tower that was not asked for has no rows (image), or None (text).
        """
        image = torch.zeros(0, self.network.clip.image.embed_dim, device=self.network.device)
        if "image" in self.towers:
            with self._standing():
                image = torch.cat([self.network.image_features(piece) for piece in images.split(rows_at_once)])
        if "text" not in self.towers:
            return Features(image, None)
        self.prepare_texts([caption for caption in captions if caption not in self._texts])
        return Features(image, torch.stack([self._texts[caption] for caption in captions]).to(self.network.device))

    def prepare_texts(self, captions: Sequence[str], watch: Watch = lambda parts, total: parts) -> None:
        """Encode the captions once: the base and the texts stand still, so their features do too (P55).

        Fixed chunks of the sorted captions make the bits independent of the order of training and of a resume.
        """
        if "text" not in self.towers:
            return
        distinct = sorted(set(captions))
        starts = range(0, len(distinct), TEXTS_AT_ONCE)
        for start in watch(starts, len(starts)):
            chunk = distinct[start : start + TEXTS_AT_ONCE]
            network = self.network
            with self._standing():
                features = encode_texts(network.clip, chunk, device=network.device, autocast=network.autocast)  # (N, D)
            self._texts.update(zip(chunk, features, strict=True))

    @contextmanager
    def _standing(self) -> Iterator[None]:
        """The model as its base: in evaluation mode, the base's tensors in it, past what the base does not have."""
        clip = self.network.clip
        with clip.as_base(), measuring(clip.model), in_place(self._pairs):
            yield

"""A tuned model with prompt vectors or feature adapters as a module with open_clip's methods.

open_clip's own forward knows nothing of them; LoRA and block adapters work in it.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from clipft.model.clip_model import ClipModel


class OpenClipLike(nn.Module):
    """What is read off open_clip's CLIP beside its features, for a module that stands in for one: `model` has it."""

    model: Any

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of what cosines are multiplied by."""
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """What is added to scaled cosines (SigLIP); None where there is none."""
        bias: nn.Parameter | None = getattr(self.model, "logit_bias", None)
        return bias

    @property
    def visual(self) -> Any:
        """open_clip's image tower, which knows its image_size and preprocess_cfg; by itself it has no additions."""
        return self.model.visual

    @property
    def classifier(self) -> Any:
        """The run's linear head; an AttributeError where there is none, as open_clip's models give."""
        return self.model.classifier


class TunedClip(OpenClipLike):
    """A model that encodes through clipft's towers, in the way that open_clip's CLIP is called.

    Args:
        clip: the model with its towers.
    """

    def __init__(self, clip: ClipModel) -> None:
        super().__init__()
        self.model = clip.model
        self._image, self._text = clip.image, clip.text
        self.train(clip.model.training)

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Images (B, 3, H, W), preprocessed, to features (B, D)."""
        features = self._image.encode(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Token numbers (B, L) to features (B, D); the model's own tokenizer leaves places for prompt vectors."""
        features = self._text.encode(text)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Normalised features of images and of texts, exp(logit_scale), and logit_bias where the model has one."""
        image_features = None if image is None else self.encode_image(image, normalize=True)
        text_features = None if text is None else self.encode_text(text, normalize=True)
        scaled = (image_features, text_features, self.logit_scale.exp())
        return scaled if self.logit_bias is None else (*scaled, self.logit_bias)


def as_open_clip(clip: ClipModel) -> nn.Module:
    """What answers like open_clip's CLIP: its own model where that is the whole of it, else a `TunedClip`."""
    towers = (clip.image, clip.text)
    own = all(tower.prompt is None and tower.feature_adapter is None for tower in towers)
    return clip.model if own else TunedClip(clip)

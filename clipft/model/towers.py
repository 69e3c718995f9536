"""Which family each tower of an open_clip model is of.

This file and `families/` are all that knows families. Freezing, rates, inspection and the steps of training ask a
`Tower`.
"""

from __future__ import annotations

from typing import Any

import open_clip
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from clipft.errors import InputError
from clipft.model.families import hugging_face_text
from clipft.model.families.common import unsupported
from clipft.model.families.modified_resnet import ModifiedResNetImage
from clipft.model.families.native_image import NativeImage
from clipft.model.families.native_text import NativeText, OwnNativeText
from clipft.model.families.timm_image import TimmImage
from clipft.model.tower import Tower, owners


def towers_of(model: nn.Module, *, image_dropout: float = 0.0, text_dropout: float = 0.0) -> tuple[Tower, Tower]:
    """The image and the text tower of an open_clip model that was just built, on any device.

    Args:
        image_dropout: `model.image.dropout`.
        text_dropout: `model.text.dropout`.

    Raises:
        InputError: a family that is not supported, or a parameter that belongs to no part (P12).
    """
    if type(model) not in (open_clip.CLIP, open_clip.CustomTextCLIP, open_clip.CoCa):
        raise InputError(
            f"model: {type(model).__name__} is not supported; open_clip's CLIP, CustomTextCLIP and CoCa are"
        )
    image = _image_tower(model, model.visual, image_dropout)
    text = _text_tower(model, text_dropout)
    owners(model, image, text)
    return image, text


def _image_tower(model: nn.Module, visual: Any, dropout: float) -> Tower:
    if isinstance(visual, VisionTransformer):
        return NativeImage(model, visual, dropout)
    if isinstance(visual, ModifiedResNet):
        return ModifiedResNetImage(model, visual, dropout)
    if isinstance(visual, TimmModel):
        return TimmImage(model, visual, dropout)
    raise unsupported("image", f"a {type(visual).__name__}")


def _text_tower(model: Any, dropout: float) -> Tower:
    if type(model) is open_clip.CLIP:
        return NativeText(model, model, dropout, pooling=model.text_pool_type, eos=model.text_eos_id)
    text = model.text
    if isinstance(text, TextTransformer):
        return OwnNativeText(model, text, dropout, pooling=text.pool_type, eos=text.eos_id, prefix="text.")
    kind = text.config.model_type if isinstance(text, HFTextEncoder) else None
    if kind in hugging_face_text.FAMILIES:
        return hugging_face_text.FAMILIES[kind](model, text, dropout)
    raise unsupported("text", f"Hugging Face's {kind}" if kind else f"a {type(text).__name__}")

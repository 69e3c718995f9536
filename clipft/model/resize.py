"""A model at another image size or context length, once it is built or has its weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from clipft.model.recipe import Sizes
from clipft.model.towers import towers_of


@dataclass(frozen=True)
class Resized:
    """What resizing did.

    Args:
        notes: lines to say.
        names: parameters that have other values and shapes now. Their bits hang on the processor that resampled them.
    """

    notes: tuple[str, ...]
    names: tuple[str, ...]


def resize(model: nn.Module, sizes: Sizes) -> Resized:
    """Give the model the sizes that it does not have yet; towers that were made before are to be made anew.

    Raises:
        InputError: its family has no way to.
    """
    image, text = towers_of(model)
    before = dict(model.named_parameters())
    said = []
    if sizes.image_size is not None and image.describe().image_size != sizes.image_size:
        said.append(image.resize(sizes.image_size))
    if sizes.context_length is not None and text.describe().context_length != sizes.context_length:
        said.append(text.resize(sizes.context_length))
    names = tuple(name for name, parameter in model.named_parameters() if before[name] is not parameter)
    return Resized(tuple(filter(None, said)), names)

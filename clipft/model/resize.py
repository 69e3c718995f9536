"""A model at another image size, context length or shared width, once it is built or has its weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from clipft.model.projections import replace_both, reset_one
from clipft.model.recipe import Sizes
from clipft.model.towers import towers_of


@dataclass(frozen=True)
class Resized:
    """What resizing did.

    Args:
        notes: lines to say.
        names: parameters that have other values now. Their bits hang on the processor that resampled or drew them.
    """

    notes: tuple[str, ...]
    names: tuple[str, ...]


def resize(model: nn.Module, sizes: Sizes, *, reset: Collection[str] = (), seed: int = 0) -> Resized:
    """Give the model the sizes that it does not have yet; towers that were made before are to be made anew.

    Args:
        reset: of image and text those whose projection is drawn anew at the width it has.
        seed: what a new projection is drawn from.

    Raises:
        InputError: its family has no way to, or there is no projection.
    """
    image, text = towers_of(model)
    before = dict(model.named_parameters())
    said = []
    if sizes.image_size is not None and image.describe().image_size != sizes.image_size:
        said.append(image.resize(sizes.image_size))
    if sizes.context_length is not None and text.describe().context_length != sizes.context_length:
        said.append(text.resize(sizes.context_length))
    if sizes.embed_dim is not None and image.embed_dim != sizes.embed_dim:
        said.append(replace_both(model, image, text, sizes.embed_dim, seed))
    else:
        said += [reset_one(model, tower, seed) for tower in (image, text) if tower.name in reset]
    names = tuple(name for name, parameter in model.named_parameters() if before.get(name) is not parameter)
    return Resized(tuple(filter(None, said)), names)

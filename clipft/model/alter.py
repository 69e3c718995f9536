"""A model altered as its config asks: other sizes, fresh projections, new parameters inside its towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from clipft.config.schema import ModelConfig
from clipft.model.additions import add_new
from clipft.model.recipe import Sizes
from clipft.model.resize import resize
from clipft.model.tower import Tower
from clipft.model.towers import towers_of


@dataclass(frozen=True, eq=False)
class Altered:
    """The towers of an altered model.

    Args:
        image: its image tower.
        text: its text tower.
        resized: parameters that were resampled from the base's, or drawn in their place.
        notes: lines to say.
    """

    image: Tower
    text: Tower
    resized: tuple[str, ...]
    notes: tuple[str, ...]


def alter(
    model: nn.Module, sizes: Sizes, config: ModelConfig, seed: int, *, classes: Sequence[str] | None = None
) -> Altered:
    """Give a model of its base's sizes all that its config asks for; what is drawn depends on the seed alone.

    Args:
        model: just built or filled, on any device; it is changed in place.
        sizes: those to have in the end.
        config: the `model` section.
        seed: of what is drawn.
        classes: of the training data, for prompt vectors of each class's own; None where they are not known.

    Raises:
        InputError: a tower has no way to a size, or no place for what is asked of it.
    """
    sections = (("image", config.image), ("text", config.text))
    reset = tuple(name for name, section in sections if section.projection == "reset")
    resized = resize(model, sizes, reset=reset, seed=seed)
    image, text = towers_of(model, image_dropout=config.image.dropout, text_dropout=config.text.dropout)
    for tower in (image, text):
        projection = {name for part in tower.parts if part.group == "projection" for name in part.names}
        tower.projection_is_new = not projection.isdisjoint(resized.names)
    added = add_new(model, image, text, config, seed, classes=classes)
    return Altered(image, text, resized.names, (*resized.notes, *added))

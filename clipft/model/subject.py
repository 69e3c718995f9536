"""What `inspect` looks at: a model without its weights, or with them."""

from __future__ import annotations

from dataclasses import dataclass

import open_clip
from torch import nn

from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model import sources
from clipft.model.build import MetaModel, build
from clipft.model.clip_model import ClipModel
from clipft.model.describe import ModelFacts, describe
from clipft.model.recipe import recipe_of
from clipft.model.tower import Tower

_MOST = 5  # tags named


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its towers and facts; with weights `clip` knows the way from an image and a text to inputs."""

    model: nn.Module
    image: Tower
    text: Tower
    facts: ModelFacts
    clip: ClipModel | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say about how its weights were loaded."""
        return () if self.clip is None else self.clip.notes


def without_weights(meta: MetaModel) -> Subject:
    """A model as its config has it."""
    facts = describe(meta.model, meta.image, meta.text, name=meta.name, model_cfg=meta.model_cfg)
    return Subject(meta.model, meta.image, meta.text, facts)


def with_weights(config: ModelConfig, seed: int = 0) -> Subject:
    """A model with the weights that its config names.

    Raises:
        InputError: it names none: values of random weights say nothing.
    """
    recipe = recipe_of(config)
    if isinstance(recipe.source, sources.RandomWeights):
        tags = open_clip.list_pretrained_tags_by_model(recipe.name)
        known = f"; its tags are {', '.join(tags[:_MOST])}{' and more' if len(tags) > _MOST else ''}" if tags else ""
        raise InputError(
            f"--image: shows values, and those of random weights mean nothing ({recipe.source.why}); add --pretrained "
            f"(with --config: --set model.pretrained=...) with a weights file, a clipft run or a tag{known}"
        )
    clip = build(config, seed)
    facts = describe(clip.model, clip.image, clip.text, name=clip.name, model_cfg=clip.model_cfg)
    return Subject(clip.model, clip.image, clip.text, facts, clip)

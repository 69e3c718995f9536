"""A CLIP model with tokenizer and preprocessing from the `model:` section: a sketch, or for real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clipft.config.schema import ModelConfig
from clipft.model import sources
from clipft.model.alter import alter
from clipft.model.clip_model import ClipModel, join
from clipft.model.construct import construct, draw, make_tokenizer
from clipft.model.families.common import pair
from clipft.model.fill import base_phrase, random_notes
from clipft.model.prompt_layout import check_length
from clipft.model.recipe import recipe_of, sizes_of
from clipft.model.resize import resize
from clipft.model.restore import fill_base
from clipft.model.text_prompt import prompted, start_in_words, start_vectors
from clipft.model.tower import Tower
from clipft.model.towers import towers_of


@dataclass
class MetaModel:
    """A model on the meta device: every name and shape, no value."""

    name: str
    model: nn.Module
    image: Tower
    text: Tower
    model_cfg: dict[str, Any]
    base: str
    notes: tuple[str, ...]
    resized: tuple[str, ...]

    @property
    def context_length(self) -> int:
        """Tokens that every text is padded to: what the tokenizer of this config gives."""
        length = sizes_of(self.model_cfg).context_length
        assert length is not None
        return length


def build_meta(config: ModelConfig, *, classes: Sequence[str] | None = None) -> MetaModel:
    """The model without values: needs no weights, no tokenizer, and no network but for configs that lie on the hub.

    Args:
        config: the `model` section.
        classes: of the training data, for prompt vectors of each class's own; None where they are not known.
    """
    recipe = recipe_of(config)
    with torch.device("meta"):
        model = construct(recipe)
        resize(model, recipe.base_sizes)
        altered = alter(model, recipe.sizes, config, seed=0, classes=classes)
    said = altered.notes
    if config.text.prompt is not None:
        said += (start_in_words(config.text.prompt),)
    notes = (*recipe.notes, *random_notes(recipe.source), *said)
    base = base_phrase(recipe)
    meta = MetaModel(recipe.name, model, altered.image, altered.text, recipe.sized_cfg, base, notes, said)
    if config.text.prompt is not None:
        check_length(config.text.prompt, meta.context_length)
    return meta


def build(config: ModelConfig, seed: int, *, classes: Sequence[str] | None = None) -> ClipModel:
    """The model with its weights; what no file gives is drawn, and depends on the seed alone.

    Args:
        config: the `model` section.
        seed: of what is drawn.
        classes: of the training data, for prompt vectors of each class's own; None where they are not known.
    """
    recipe = recipe_of(config)
    sources.check_there(recipe.source)
    model = draw(recipe, seed)
    _, text = towers_of(model)  # before any download: what is of no family is refused here
    tokenizer = prompted(make_tokenizer(recipe), text, config.text.prompt, classes)
    filled = fill_base(model, recipe, config.logit_scale)
    altered = alter(model, recipe.sizes, config, seed, classes=classes)
    said = altered.notes
    if config.text.prompt is not None:
        said += (start_vectors(model, altered.text, config.text.prompt, tokenizer),)
    preprocess_cfg, whose = filled.preprocess or (recipe.preprocess_cfg, recipe.preprocess_from)
    clip = join(recipe, model, altered, tokenizer, preprocess_cfg, filled)
    clip.notes += (*said, _preprocess_note(clip.preprocess_cfg, whose))
    return clip


def _preprocess_note(cfg: dict[str, Any], whose: str) -> str:
    """The preprocessing in one line: it belongs to the weights, and a wrong one costs accuracy silently (P43)."""
    size = " x ".join(map(str, pair(cfg["size"])))
    mean, std = (" ".join(f"{value:.3f}" for value in cfg[key]) for key in ("mean", "std"))
    return f"preprocessing {whose}: {size} pixels, {cfg['interpolation']}, {cfg['resize_mode']}, mean {mean}, std {std}"

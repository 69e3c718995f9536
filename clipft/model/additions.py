"""New parameters put into a model that was just built, as its config asks: LoRA, adapters, prompt vectors.

Each kind lives in a file of its own. All are there before any plan is made, and each tower is told of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipft.config.schema import ModelConfig
from clipft.model.adapters import add_adapters, take_out_adapters
from clipft.model.feature_adapter import add_feature_adapter, take_out_feature_adapter
from clipft.model.image_prompt import add_image_prompt, take_out_image_prompt
from clipft.model.lora import add_lora
from clipft.model.text_prompt import add_text_prompt, take_out_text_prompt
from clipft.model.tower import Tower


def add_new(
    model: nn.Module,
    image: Tower,
    text: Tower,
    config: ModelConfig,
    seed: int,
    *,
    classes: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Put in what the config asks for; chance follows from the seed alone. Returns what to say.

    Args:
        model: on any device; new parameters come to the same.
        image: its image tower, which is told.
        text: its text tower, likewise.
        classes: of the training data, for vectors of each class's own; None where they are not known.

    Raises:
        InputError: a tower has no place for what is asked of it.
    """
    notes: list[str] = []
    with torch.random.fork_rng(devices=[]), model.get_parameter("logit_scale").device:
        torch.manual_seed(seed)
        for tower, section in ((image, config.image), (text, config.text)):
            if section.lora is not None:
                add_lora(model, tower, section.lora)
            if section.adapter is not None:
                notes.append(add_adapters(model, tower, section.adapter))
            if section.feature_adapter is not None:
                notes.append(add_feature_adapter(model, tower, section.feature_adapter))
        if config.text.prompt is not None:
            notes += add_text_prompt(model, text, config.text.prompt, classes)
        if config.image.prompt is not None:
            add_image_prompt(model, image, config.image.prompt)
    return tuple(notes)


def new_names(image: Tower, text: Tower) -> tuple[str, ...]:
    """Full names of the new parameters of both towers."""
    return (*image.added, *text.added)


def take_out(model: nn.Module, image: Tower, text: Tower) -> dict[str, Tensor]:
    """Take adapters, prompt vectors and feature adapters out again, in place; LoRA is to be merged before.

    Returns:
        Their tensors, by the names that they had.
    """
    taken = {name: model.get_parameter(name).detach() for name in new_names(image, text)}
    for tower in (image, text):
        take_out_feature_adapter(model, tower)
    take_out_adapters(model, image, text)
    take_out_text_prompt(model, text)
    take_out_image_prompt(model, image)
    return taken


def base_config(config: ModelConfig) -> ModelConfig:
    """The same model with nothing put in: a base has none of it, and its answers are its own to the bit."""
    towers = {"image": config.image, "text": config.text}
    new = {"prompt": None, "lora": None, "adapter": None, "feature_adapter": None}
    plain = {tower: section.model_copy(update=new) for tower, section in towers.items()}
    return config.model_copy(update=plain)

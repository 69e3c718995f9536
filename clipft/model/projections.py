"""Fresh projections: of both towers to another shared width, or of one at the width it has."""

from __future__ import annotations

import torch
from torch import nn

from clipft.errors import InputError
from clipft.model.tower import Tower


def replace_both(model: nn.Module, image: Tower, text: Tower, width: int, seed: int) -> str:
    """Projections of both towers to `width`, so that the towers always meet. Returns what to say.

    Raises:
        InputError: a tower has none, or can have no other width.
    """
    for tower in (image, text):
        if not tower.has_projection:
            raise InputError(
                f"model.embed_dim: {width}: the {tower.family} {tower.name} tower has no projection to replace, its "
                f"pooled feature is {tower.embed_dim} wide; leave embed_dim out, or name two encoders (name: null), "
                "which are joined by projections of any width"
            )
    _draw(model, (image, text), width, seed)
    return (
        f"model.embed_dim: {width} in place of {image.embed_dim}; both projections are new, drawn from the seed: until "
        "they are trained, images and texts do not meet"
    )


def reset_one(model: nn.Module, tower: Tower, seed: int) -> str:
    """A fresh projection of the same width. Returns what to say.

    Raises:
        InputError: the tower has none.
    """
    if not tower.has_projection:
        raise InputError(
            f"model.{tower.name}.projection: reset: this {tower.family} tower has no projection; leave the key out"
        )
    _draw(model, (tower,), tower.embed_dim, seed)
    return (
        f"model.{tower.name}.projection: reset: its weights are drawn from the seed: until they are trained, images "
        "and texts do not meet"
    )


def _draw(model: nn.Module, towers: tuple[Tower, ...], width: int, seed: int) -> None:
    """New projections where the model is; torch's own generator stays where it was."""
    with torch.random.fork_rng(devices=[]), model.get_parameter("logit_scale").device:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' generators too
        for tower in towers:
            tower.new_projection(width)
    model.eval()

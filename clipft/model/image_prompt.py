"""Prompt vectors in an image tower: learnt tokens behind the class token (VPT, Visual Prompt Tuning, ECCV 2022).

They have no positions of their own, and leave before norm and pooling, which stay the model's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from clipft.config.additions_schema import ImagePromptConfig
from clipft.errors import InputError
from clipft.model.tower import Tower
from clipft.model.tower_parts import Hidden

NAME = "image_prompt"


class ImagePrompt(nn.Module):
    """The vectors of an image tower, a parameter for each block that gets some.

    Args:
        length: how many vectors a block has.
        width: the tower's.
        depth: how many blocks get some (VPT, section 3.2: shallow is 1, deep is all).
        bound: they start uniformly between -bound and bound.
        before: how many tokens stand before them: class token and registers.
    """

    def __init__(self, length: int, width: int, depth: int, *, bound: float, before: int) -> None:
        super().__init__()
        drawn = (nn.init.uniform_(torch.empty(length, width), -bound, bound) for _ in range(depth))
        self.vectors = nn.ParameterList(nn.Parameter(vectors) for vectors in drawn)
        self._before, self._behind = before, before + length

    def join(self, hidden: Hidden) -> Hidden:
        """The first block's vectors between class token and patches."""
        x = self._around(hidden.x, self.vectors[0], hidden.x[:, self._before :])
        return replace(hidden, x=x, positions=_unturned(hidden.positions, len(self.vectors[0])))

    def enter(self, hidden: Hidden, block: int) -> Hidden:
        """Fresh vectors in place of what the block before gave there."""
        if not 0 < block < len(self.vectors):
            return hidden
        return replace(hidden, x=self._around(hidden.x, self.vectors[block], hidden.x[:, self._behind :]))

    def leave(self, hidden: Hidden) -> Hidden:
        """Class token and patches alone, as pooling knows them."""
        return replace(hidden, x=torch.cat([hidden.x[:, : self._before], hidden.x[:, self._behind :]], dim=1))

    def _around(self, x: Tensor, vectors: Tensor, patches: Tensor) -> Tensor:
        among = vectors.to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([x[:, : self._before], among, patches], dim=1)  # (B, before + length + patches, W)


def add_image_prompt(model: nn.Module, tower: Tower, config: ImagePromptConfig) -> None:
    """Put vectors into an image tower, drawn from torch's generator.

    They start as in VPT's code (models/vit_prompt/vit.py): uniformly within sqrt(6 / (3 * patch height * patch width +
    width)), Xavier's bound for the layer that makes tokens of patches. VPT's towers have no norm before block 0; here
    the vectors stand behind it.

    Raises:
        InputError: the tower is no ViT on a plain row of patches, or has not so many blocks.
    """
    facts = tower.describe()
    if tower.prefix_tokens is None or facts.patch is None or facts.width is None:
        raise InputError(
            f"model.image.prompt: a {tower.family} tower has no row of patches that vectors could join; visual prompts "
            "work in open_clip's VisionTransformer and timm's VisionTransformer and Eva. Leave the key out, or tune "
            "the text tower by model.text.prompt"
        )
    if config.depth > tower.depth:
        raise InputError(
            f"model.image.prompt.depth: {config.depth} is more than the {tower.depth} blocks of this {tower.family} "
            "tower; write at most that"
        )
    bound = math.sqrt(6 / (3 * math.prod(facts.patch) + facts.width))
    prompt = ImagePrompt(config.length, facts.width, config.depth, bound=bound, before=tower.prefix_tokens)
    model.add_module(NAME, prompt)
    tower.prompt = prompt
    for block in range(config.depth):
        tower.add([f"{NAME}.vectors.{block}"], "prompt", place=block)


def take_out_image_prompt(model: nn.Module, tower: Tower) -> None:
    """Undo `add_image_prompt`, in place."""
    if isinstance(tower.prompt, ImagePrompt):
        delattr(model, NAME)
        tower.prompt = None
        tower.forget("prompt")


def _unturned(rotary: Tensor | None, count: int) -> Tensor | None:
    """Rotary positions (..., patches, 2 D), sines beside cosines, for `count` more tokens in front that do not turn.

    EVA's attention turns all behind the class token; sine 0 and cosine 1 leave a vector as it is.
    """
    if rotary is None:
        return None
    shape = (*rotary.shape[:-2], count, rotary.shape[-1] // 2)
    still = torch.cat([rotary.new_zeros(shape), rotary.new_ones(shape)], dim=-1)
    return torch.cat([still, rotary], dim=-2)

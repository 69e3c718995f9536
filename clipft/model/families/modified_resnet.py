"""CLIP's ModifiedResNet: a three-layer stem, four stages, and an attention pool that ends in the projection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.model.facts import Landmark, TowerFacts
from clipft.model.families.common import activation, below, pair, projection_facts
from clipft.model.families.positions import grid_of, refused, replaced, resample_grid, resized_note
from clipft.model.tower import Tower
from clipft.model.tower_parts import Hidden, Layout

_STEM = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_REDUCTION = 32  # pixels across that one place of the last maps stands for
_POOL = ("positional_embedding", "q_proj", "k_proj", "v_proj")


class ModifiedResNetImage(Tower):
    """A ModifiedResNet (CLIP, section 2.4)."""

    def __init__(self, model: nn.Module, visual: Any, dropout: float) -> None:
        self.visual = visual
        pool = visual.attnpool
        width = pool.c_proj.in_features
        layout = Layout(
            "visual.",
            below("visual", _STEM),
            below("visual", _STAGES),
            pooling=below("visual.attnpool", _POOL),
            projection=("visual.attnpool.c_proj",),
        )
        facts = TowerFacts(
            "ModifiedResNet",
            depth=len(_STAGES),
            stages=tuple(len(getattr(visual, stage)) for stage in _STAGES),
            stage_widths=tuple(getattr(visual, stage)[-1].conv3.out_channels for stage in _STAGES),
            width=width,
            activation=activation(visual),
            image_size=pair(visual.image_size),
            pooling="attention, asked by the mean",
            positions="learnt, in the pool",
            landmarks=(_stem(),),
            **projection_facts(width, pool.c_proj),
        )
        super().__init__("image", model, layout, facts, dropout=dropout)

    def resize(self, size: int | tuple[int, int]) -> str:
        visual, new_size = self.visual, pair(size)
        if new_size[0] != new_size[1]:
            raise refused(self.family, f"model.image_size: {list(new_size)}", "open_clip builds it for squares alone")
        old_size, step = pair(visual.image_size), (_REDUCTION, _REDUCTION)
        old, new = grid_of(old_size, step, self.family), grid_of(new_size, step, self.family)
        positions = visual.attnpool.positional_embedding
        visual.attnpool.positional_embedding = replaced(positions, resample_grid(positions, old, new))
        visual.image_size = new_size[0]
        return resized_note(old_size, new_size, (old, new))

    def new_projection(self, width: int) -> None:
        new = nn.Linear(self.pooled_width, width)
        nn.init.normal_(new.weight, std=self.pooled_width**-0.5)
        self.visual.attnpool.c_proj = new
        self.visual.output_dim = width

    def _embed(self, inputs: Tensor) -> Hidden:
        return Hidden(self.visual.stem(inputs))  # (B, C, H, W)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        return replace(hidden, x=getattr(self.visual, _STAGES[number])(hidden.x))

    def _finish(self, hidden: Hidden) -> Tensor:
        """The mean of all places asks them all; open_clip's own call asks for each place, and projects at once."""
        pool = self.visual.attnpool
        x = hidden.x.flatten(2).transpose(1, 2)  # (B, HW, C)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding.to(x.dtype)  # (B, HW + 1, C)
        q, k, v = (
            linear(of).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, C / heads)
            for linear, of in ((pool.q_proj, x[:, :1]), (pool.k_proj, x), (pool.v_proj, x))
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)  # (B, C)

    def project(self, pooled: Tensor) -> Tensor:
        projected: Tensor = self.visual.attnpool.c_proj(pooled)
        return projected


def _stem() -> Landmark:
    why = "three convolutions and a mean over neighbours make small maps of edges and colours"
    return Landmark("stem", "visual.avgpool", why)

"""open_clip's own VisionTransformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clipft.model.facts import Landmark, TowerFacts
from clipft.model.families.common import (
    POOLED,
    native_blocks,
    native_branches,
    native_matrices,
    numbered,
    pair,
    projection_facts,
)
from clipft.model.families.positions import grid_of, refused, replaced, resample_grid, resized_note
from clipft.model.tower import NOT_IN_LOSS, Tower
from clipft.model.tower_parts import Branch, Hidden, Layout, Matrix


class NativeImage(Tower):
    """A VisionTransformer, pooled by class token, mean or attention, or (`pool_type: none`) not at all."""

    prefix_tokens = 1  # the class token

    def __init__(self, model: nn.Module, visual: Any, dropout: float) -> None:
        self.visual = visual
        layout = Layout(
            "visual.",
            tuple(f"visual.{name}" for name in ("class_embedding", "positional_embedding", "conv1", "ln_pre")),
            numbered("visual.transformer.resblocks", visual.transformer.resblocks),
            norm=("visual.ln_post",),
            pooling=("visual.attn_pool", "visual.attn_pool_contrastive"),
            projection=("visual.proj",),
        )
        facts = TowerFacts(
            "native ViT",
            width=visual.conv1.out_channels,
            tokens=visual.positional_embedding.shape[0],
            image_size=pair(visual.image_size),
            patch=pair(visual.patch_size),
            pooling=_pooling(visual),
            token=_token(visual),
            positions=_positions(visual),
            landmarks=_landmarks(visual),
            **native_blocks(visual.transformer),
            **projection_facts(visual.ln_post.normalized_shape[0], visual.proj),
        )
        super().__init__("image", model, layout, facts, dropout=dropout, untrained=_idle(visual))

    def resize(self, size: int | tuple[int, int]) -> str:
        visual, new_size = self.visual, pair(size)
        old_size, old, new = visual.image_size, visual.grid_size, grid_of(new_size, visual.patch_size, self.family)
        positions = visual.positional_embedding
        visual.positional_embedding = replaced(positions, resample_grid(positions, old, new))
        visual.image_size, visual.grid_size = new_size, new
        kind = "learnt positions" if positions.requires_grad else "fixed positions"
        return resized_note(old_size, new_size, (old, new), kind)

    def new_projection(self, width: int) -> None:
        visual = self.visual
        if visual.attn_pool is not None and width != self.embed_dim:
            raise refused(self.family, f"model.embed_dim: {width}", "its attention pool is as wide as the shared space")
        # open_clip: of a variance that the width of the tokens gives, not that of the pooled feature
        scale = visual.conv1.out_channels**-0.5
        visual.proj = nn.Parameter(scale * torch.randn(self.pooled_width, width))
        visual.output_dim = width

    def _embed(self, inputs: Tensor) -> Hidden:
        return Hidden(self.visual._embeds(inputs))  # (B, L, W)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        return replace(hidden, x=self.visual.transformer.resblocks[number](hidden.x))

    def matrices(self, block: int) -> Sequence[Matrix]:
        return native_matrices(self.block_paths[block])

    def branches(self, block: int) -> Sequence[Branch]:
        return native_branches(self.block_paths[block])

    def _finish(self, hidden: Hidden) -> Tensor:
        pooled: Tensor = self.visual._pool(hidden.x)[0]
        # an attention pool with a query of its own for the contrastive loss leaves a dimension of one behind
        return pooled[:, 0] if getattr(self.visual, "attn_pool_contrastive", None) is not None else pooled

    def project(self, pooled: Tensor) -> Tensor:
        return pooled if self.visual.proj is None else pooled @ self.visual.proj  # (B, W) @ (W, D)


def _pooling(visual: Any) -> str:
    if visual.attn_pool is None:
        return POOLED[visual.pool_type]
    if visual.attn_pool_contrastive is not None:
        return f"attention, {visual.attn_pool_type}"
    return f"attention ({visual.attn_pool.query.shape[0]} queries)"


def _idle(visual: Any) -> dict[str, str]:
    """Beside a contrastive pool of its own, CoCa's `parallel` pool gives tokens to the decoder alone."""
    if visual.attn_pool is None or visual.attn_pool_type != "parallel":
        return {}
    return {f"visual.attn_pool.{name}": NOT_IN_LOSS for name, _ in visual.attn_pool.named_parameters()}


def _token(visual: Any) -> str:
    height, width = pair(visual.patch_size)
    return f"a patch of {height} x {width} pixels, and a class token"


def _positions(visual: Any) -> str:
    return "learnt" if visual.positional_embedding.requires_grad else "sine and cosine, fixed"


def _landmarks(visual: Any) -> tuple[Landmark, ...]:
    height, width = pair(visual.patch_size)
    patches = Landmark(
        "patches",
        "visual.conv1",
        f"one convolution looks at each {height} x {width} patch once and makes a vector of it",
    )
    joined = Landmark(
        "tokens",
        "visual.ln_pre",
        "the patches in a row behind a class token, each with its position added"
        + ("" if isinstance(visual.ln_pre, nn.Identity) else ", and normalised"),
    )
    return patches, joined

"""The kinds of timm networks: where each keeps its parts, and its way from images to the last block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipft.model.tower_parts import Hidden


def _modules_in_a_row(*names: str) -> Callable[[Any, Tensor], Hidden]:
    def embed(trunk: Any, images: Tensor) -> Hidden:
        x = images
        for name in names:
            x = trunk.get_submodule(name)(x)
        return Hidden(x)

    return embed


def _embed_vit(trunk: Any, images: Tensor) -> Hidden:
    return Hidden(trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images)))))


def _embed_relpos(trunk: Any, images: Tensor) -> Hidden:
    x = trunk.patch_embed(images)  # (B, L, W)
    if trunk.cls_token is not None:
        x = torch.cat((trunk.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
    return Hidden(x, positions=None if trunk.shared_rel_pos is None else trunk.shared_rel_pos.get_bias())


def _embed_eva(trunk: Any, images: Tensor) -> Hidden:
    x, rotary = trunk._pos_embed(trunk.patch_embed(images))
    return Hidden(trunk.norm_pre(x), positions=rotary)


def _plain_block(trunk: Any, block: nn.Module, hidden: Hidden, number: int) -> Tensor:
    x: Tensor = block(hidden.x)
    return x


def _relpos_block(trunk: Any, block: nn.Module, hidden: Hidden, number: int) -> Tensor:
    x: Tensor = block(hidden.x, shared_rel_pos=hidden.positions)
    return x


def _eva_block(trunk: Any, block: nn.Module, hidden: Hidden, number: int) -> Tensor:
    rotary = hidden.positions
    if rotary is not None and trunk.rope_mixed:  # then each block has its own
        rotary = rotary[number]
    x: Tensor = block(hidden.x, rope=rotary)
    return x


@dataclass(frozen=True)
class Kind:
    """Paths inside a timm trunk, and its way from images to the last block.

    Args:
        embeddings: all before block 0.
        blocks: one path a block, or the path of a list of blocks.
        norm: between the last block and the classifier.
        classifier: which open_clip may use as the projection.
        after: the modules between the last block and the trunk's own head.
        embed: images to what block 0 takes.
        block: runs one.
        is_vit: whether its blocks are transformer blocks on a row of patches.
        fixed_size: whether it takes images of one size alone.
    """

    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    norm: tuple[str, ...]
    classifier: tuple[str, ...]
    after: tuple[str, ...]
    embed: Callable[[Any, Tensor], Hidden]
    block: Callable[[Any, nn.Module, Hidden, int], Tensor] = _plain_block
    is_vit: bool = False
    fixed_size: bool = False


_VIT_EMBEDDINGS = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre")
_VIT_NORM = ("norm", "fc_norm")
KINDS = {
    "VisionTransformer": Kind(_VIT_EMBEDDINGS, ("blocks",), _VIT_NORM, ("head",), ("norm",), _embed_vit, is_vit=True),
    "VisionTransformerRelPos": Kind(
        ("cls_token", "patch_embed", "shared_rel_pos"),
        ("blocks",),
        _VIT_NORM,
        ("head",),
        ("norm",),
        _embed_relpos,
        _relpos_block,
        is_vit=True,
        fixed_size=True,
    ),
    "Eva": Kind(
        (*_VIT_EMBEDDINGS, "rope"), ("blocks",), _VIT_NORM, ("head",), ("norm",), _embed_eva, _eva_block, is_vit=True
    ),
    "SwinTransformer": Kind(
        ("patch_embed",),
        ("layers",),
        ("norm",),
        ("head.fc",),
        ("norm",),
        _modules_in_a_row("patch_embed"),
        fixed_size=True,
    ),
    "ConvNeXt": Kind(
        ("stem",),
        ("stages",),
        ("norm_pre", "head.norm", "head.pre_logits"),
        ("head.fc",),
        ("norm_pre",),
        _modules_in_a_row("stem"),
    ),
    "FastVit": Kind(("stem",), ("stages",), ("final_conv",), ("head.fc",), ("final_conv",), _modules_in_a_row("stem")),
    "EfficientNet": Kind(
        ("conv_stem", "bn1"),
        ("blocks",),
        ("conv_head", "bn2"),
        ("classifier",),
        ("conv_head", "bn2"),
        _modules_in_a_row("conv_stem", "bn1"),
    ),
    "ResNet": Kind(
        ("conv1", "bn1"),
        ("layer1", "layer2", "layer3", "layer4"),
        (),
        ("fc",),
        (),
        _modules_in_a_row("conv1", "bn1", "act1", "maxpool"),
    ),
}

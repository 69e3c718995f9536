"""transformers' names of a CLIP or SigLIP model's tensors beside open_clip's: one table, read in both directions.

Names of transformers: CLIPModel (also of MetaCLIP 2) and SiglipModel (also of SigLIP 2 with a fixed resolution).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Family = Literal["clip", "siglip"]

# Where the same numbers have another shape: from open_clip's tensor to transformers', and back.
_Turn = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
_SAME: _Turn = (lambda t: t, lambda t: t)
_TRANSPOSED: _Turn = (lambda t: t.mT, lambda t: t.mT)  # open_clip's bare projections are applied as x @ w
_WITHOUT_BATCH: _Turn = (lambda t: t.squeeze(0), lambda t: t.unsqueeze(0))  # timm's positions: (1, L, W), not (L, W)
_NUMBER: _Turn = (lambda t: t.reshape(()), lambda t: t)  # open_clip has a number or a list of one
_LIST_OF_ONE: _Turn = (lambda t: t.reshape(1), lambda t: t)


@dataclass(frozen=True)
class _Row:
    """The same numbers on both sides: the tensors of a side, laid end to end, are those of the other.

    Args:
        open_clip: names there.
        transformers: names there.
        turn: what changes the shape.
        shares: of the side with several names, how much each has of the whole.
    """

    open_clip: tuple[str, ...]
    transformers: tuple[str, ...]
    turn: _Turn = _SAME
    shares: tuple[int, ...] = (1,)

    def to_transformers(self, tensors: Tensors) -> dict[str, Tensor]:
        return _spread(self.turn[0](_joined(tensors, self.open_clip)), self.transformers, self.shares)

    def to_open_clip(self, tensors: Tensors) -> dict[str, Tensor]:
        return _spread(self.turn[1](_joined(tensors, self.transformers)), self.open_clip, self.shares)


def family_of(tensors: Tensors) -> Family | None:
    """Whose layout of transformers the names are; None where they are of neither."""
    if not {_IMAGE_PATCHES, _TEXT_TOKENS} <= tensors.keys() or tensors[_IMAGE_PATCHES].ndim != 4:
        return None  # a tower alone, or patches of variable number (NaFlex), which come as rows
    if "visual_projection.weight" in tensors:
        return "clip"
    return "siglip" if "vision_model.head.probe" in tensors else None


def to_open_clip(tensors: Tensors, *, text: str = "") -> dict[str, Tensor]:
    """The tensors by open_clip's names; what the table does not know, or what has no fitting shape, keeps its own.

    Args:
        tensors: of a layout that `family_of` knows.
        text: what stands before open_clip's names of the text tower: `text.` where it is a module of its own, as it
            always is beside a timm image tower.
    """
    family = family_of(tensors)
    assert family is not None, "neither CLIPModel's names nor SiglipModel's"
    blocks = [_count(tensors, f"{tower}_model.encoder.layers.") for tower in ("vision", "text")]
    rest: dict[str, Tensor] = dict(tensors)
    found: dict[str, Tensor] = {}
    for row in _rows(family, blocks[0], blocks[1], text):
        if rest.keys() >= set(row.transformers):
            with suppress(RuntimeError):  # a shape that is no such tensor's: strict loading names it
                found |= row.to_open_clip(rest)
                for name in row.transformers:
                    del rest[name]
    return found | rest


def to_transformers(tensors: Tensors, family: Family) -> dict[str, Tensor]:
    """The tensors of a whole open_clip model, which has nothing to `misfit`, by transformers' names, contiguous."""
    found: dict[str, Tensor] = {}
    for row in _rows_for(tensors, family):
        found |= {name: tensor.contiguous() for name, tensor in row.to_transformers(tensors).items()}
    return found


def misfit(names: Collection[str], family: Family) -> tuple[list[str], list[str]]:
    """What transformers' model needs beside an open_clip model's tensors, and those that it has no place for."""
    known = {name for row in _rows_for(names, family) for name in row.open_clip}
    return sorted(known - set(names)), sorted(set(names) - known)


def _rows_for(names: Collection[str], family: Family) -> list[_Row]:
    text = "text." if "text.token_embedding.weight" in names else ""
    image = "visual.transformer.resblocks." if family == "clip" else "visual.trunk.blocks."
    return _rows(family, _count(names, image), _count(names, f"{text}transformer.resblocks."), text)


_IMAGE_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_TEXT_TOKENS = "text_model.embeddings.token_embedding.weight"
_THIRDS = (1, 1, 1)  # query, key and value

# Modules with a weight and a bias: open_clip's name, transformers' name.
_NATIVE_BLOCK = (
    ("ln_1", "layer_norm1"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_TIMM_BLOCK = (
    ("norm1", "layer_norm1"),
    ("attn.proj", "self_attn.out_proj"),
    ("norm2", "layer_norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)
_ATTENTION_POOL = (
    ("proj", "attention.out_proj"),
    ("norm", "layernorm"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)


def _rows(family: Family, image_blocks: int, text_blocks: int, text: str) -> list[_Row]:
    image = _clip_image(image_blocks) if family == "clip" else _siglip_image(image_blocks)
    text = text if family == "clip" else "text."
    rows = [
        _one(f"{text}token_embedding.weight", _TEXT_TOKENS),
        _one(f"{text}positional_embedding", "text_model.embeddings.position_embedding.weight"),
        *_native_blocks(f"{text}transformer.resblocks", "text_model.encoder.layers", text_blocks),
        *_module(f"{text}ln_final", "text_model.final_layer_norm"),
    ]
    if family == "clip":
        rows.append(_one(f"{text}text_projection", "text_projection.weight", _TRANSPOSED))
        rows.append(_one("logit_scale", "logit_scale", _NUMBER))
    else:
        rows += _module(f"{text}text_projection", "text_model.head")
        rows += [_one(name, name, _LIST_OF_ONE) for name in ("logit_scale", "logit_bias")]
    return image + rows


def _clip_image(blocks: int) -> list[_Row]:
    return [
        _one("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        _one("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        _one("visual.conv1.weight", _IMAGE_PATCHES),
        *_module("visual.ln_pre", "vision_model.pre_layrnorm"),
        *_native_blocks("visual.transformer.resblocks", "vision_model.encoder.layers", blocks),
        *_module("visual.ln_post", "vision_model.post_layernorm"),
        _one("visual.proj", "visual_projection.weight", _TRANSPOSED),
    ]


def _siglip_image(blocks: int) -> list[_Row]:
    ours, theirs = "visual.trunk", "vision_model"
    rows = [
        _one(f"{ours}.pos_embed", f"{theirs}.embeddings.position_embedding.weight", _WITHOUT_BATCH),
        *_module(f"{ours}.patch_embed.proj", f"{theirs}.embeddings.patch_embedding"),
        *_module(f"{ours}.norm", f"{theirs}.post_layernorm"),
        _one(f"{ours}.attn_pool.latent", f"{theirs}.head.probe"),
    ]
    for kind in ("weight", "bias"):
        pool = (f"{ours}.attn_pool.q.{kind}", f"{ours}.attn_pool.kv.{kind}")
        rows.append(_Row(pool, (f"{theirs}.head.attention.in_proj_{kind}",), shares=(1, 2)))
    for ours_in, theirs_in in _ATTENTION_POOL:
        rows += _module(f"{ours}.attn_pool.{ours_in}", f"{theirs}.head.{theirs_in}")
    for number in range(blocks):
        here, there = f"{ours}.blocks.{number}", f"{theirs}.encoder.layers.{number}"
        rows += [_fused(f"{here}.attn.qkv.{kind}", there, kind) for kind in ("weight", "bias")]
        for ours_in, theirs_in in _TIMM_BLOCK:
            rows += _module(f"{here}.{ours_in}", f"{there}.{theirs_in}")
    return rows


def _native_blocks(ours: str, theirs: str, blocks: int) -> list[_Row]:
    rows = []
    for number in range(blocks):
        here, there = f"{ours}.{number}", f"{theirs}.{number}"
        rows += [_fused(f"{here}.attn.in_proj_{kind}", there, kind) for kind in ("weight", "bias")]
        for ours_in, theirs_in in _NATIVE_BLOCK:
            rows += _module(f"{here}.{ours_in}", f"{there}.{theirs_in}")
    return rows


def _one(ours: str, theirs: str, turn: _Turn = _SAME) -> _Row:
    return _Row((ours,), (theirs,), turn)


def _module(ours: str, theirs: str) -> list[_Row]:
    return [_one(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")]


def _fused(ours: str, block: str, kind: str) -> _Row:
    return _Row((ours,), tuple(f"{block}.self_attn.{part}_proj.{kind}" for part in "qkv"), shares=_THIRDS)


def _joined(tensors: Tensors, names: tuple[str, ...]) -> Tensor:
    return tensors[names[0]] if len(names) == 1 else torch.cat([tensors[name] for name in names])


def _spread(whole: Tensor, names: tuple[str, ...], shares: tuple[int, ...]) -> dict[str, Tensor]:
    if len(names) == 1:
        return {names[0]: whole}
    unit = len(whole) // sum(shares)
    return dict(zip(names, whole.split([share * unit for share in shares]), strict=True))


def _count(names: Collection[str], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})

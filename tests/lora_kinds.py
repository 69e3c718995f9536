"""A tiny model of every kind of attention that LoRA joins, and the dense form that it must equal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_families import build
from torch import Tensor, nn
from torch.func import functional_call

from clipft.config.additions_schema import LoraConfig
from clipft.model.lora import add_lora
from clipft.model.tower import Tower
from clipft.model.towers import towers_of

Towers = tuple[Tower, Tower]
ALL = ("q", "k", "v", "o", "fc", "proj")


class StandIn(nn.Module):
    """An attention with the names of torch's and a forward of its own, as the coming open_clip has one."""

    def __init__(self, plain: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = plain.num_heads
        self.in_proj_weight, self.in_proj_bias = plain.in_proj_weight, plain.in_proj_bias
        self.out_proj = nn.Linear(plain.embed_dim, plain.embed_dim)
        self.out_proj.load_state_dict(plain.out_proj.state_dict())

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)

    def forward(self, q_x: Tensor, *_: Any, attn_mask: Tensor | None = None, **__: Any) -> tuple[Tensor, None]:
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in self.projected(q_x))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(x.transpose(1, 2).flatten(2)), None


class SlicingStandIn(StandIn):
    """It asks for queries apart, and for keys and values together."""

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        width = x.shape[-1]
        (wq, wkv), (bq, bkv) = (t.split([width, 2 * width]) for t in (self.in_proj_weight, self.in_proj_bias))
        return F.linear(x, wq, bq), *F.linear(x, wkv, bkv).chunk(2, dim=-1)


class OtherStandIn(StandIn):
    """It multiplies in a way that LoRA cannot see."""

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x @ self.in_proj_weight.T + self.in_proj_bias).chunk(3, dim=-1)


def with_stand_in(folder: Path, kind: type[StandIn]) -> nn.Module:
    model = build("native, class token", folder)
    for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
        block.attn = kind(block.attn).eval()
    return model


KINDS: dict[str, Callable[[Path], nn.Module]] = {
    "nn.MultiheadAttention": lambda folder: build("native, class token", folder),
    "open_clip's Attention": lambda folder: build("native, quick gelu and custom blocks", folder),
    "a stand-in": lambda folder: with_stand_in(folder, StandIn),
    "a stand-in that slices": lambda folder: with_stand_in(folder, SlicingStandIn),
    "timm, fused": lambda folder: build("timm vit, registers", folder),
    "timm, fused without a bias of its own": lambda folder: build("timm eva01", folder),
    "timm, separate": lambda folder: build("timm eva02", folder),
    "timm, windows": lambda folder: build("timm swin", folder),
    "bert": lambda folder: build("hf pooler", folder),
    "mt5": lambda folder: build("hf mt5, mlp", folder),
    "m2m100": lambda folder: build("hf m2m100", folder),
}
FEW = ["nn.MultiheadAttention", "open_clip's Attention", "timm, fused without a bias of its own", "mt5"]
"""One kind for each way that LoRA takes into an attention."""


def joined(model: nn.Module, **keys: Any) -> Towers:
    """The towers of a model whose both towers have just got LoRA; A and B are of the same size afterwards."""
    towers = towers_of(model)
    for tower in towers:
        add_lora(model, tower, LoraConfig(**({"rank": 2, "targets": ALL} | keys)))
    return towers


def stir(model: nn.Module, size: float = 0.1) -> dict[str, nn.Parameter]:
    """Move every LoRA parameter, as training would; returns them, the only ones with a gradient."""
    generator = torch.Generator().manual_seed(9)
    found = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora." in name)
        if parameter.requires_grad:
            found[name] = parameter
            parameter.data += size * torch.randn(parameter.shape, generator=generator).to(parameter)
    return found


def dense(base: nn.Module, towers: Towers, lora: dict[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """The base's matrices as W + scaling B A, brought to the magnitude's length under DoRA, from the LoRA's tensors."""
    weights = {name: p.detach() for name, p in base.named_parameters()}
    for tower in towers:
        for matrix in (m for block in range(tower.depth) for m in tower.matrices(block)):
            module = base.get_submodule(matrix.path)
            name, rows = f"{matrix.path}.weight", matrix.rows
            if not isinstance(module, nn.Linear):
                width = module.in_proj_weight.shape[1]
                third = "qkvo".index(matrix.target) * width
                name = f"{matrix.path}.{'out_proj.weight' if matrix.target == 'o' else 'in_proj_weight'}"
                rows = None if matrix.target == "o" else (third, third + width)
            start, stop = rows or (0, len(weights[name]))
            key = f"{matrix.path}.lora.{matrix.target}"
            if f"{key}.a" not in lora:  # Eva's lies in the attention
                key = f"{matrix.path.rpartition('.')[0]}.lora.{matrix.target}"
            if f"{key}.a" not in lora:
                continue
            rest = weights[name]
            tuned = rest[start:stop] + scaling * lora[f"{key}.b"] @ lora[f"{key}.a"]
            if (magnitude := lora.get(f"{key}.magnitude")) is not None:
                tuned = magnitude[:, None] * tuned / tuned.detach().norm(dim=1, keepdim=True)
            weights[name] = torch.cat([rest[:start], tuned, rest[stop:]])
    return weights


class Both(nn.Module):
    """Both of open_clip's own encoders as one forward, for functional_call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        image: Tensor = self.model.encode_image(x)
        text: Tensor = self.model.encode_text(ids)
        return image.flatten(0, -2), text


def encoded(model: nn.Module, x: Tensor, ids: Tensor, weights: dict[str, Tensor] | None = None) -> tuple[Tensor, ...]:
    """Features of open_clip's own encoders, with other weights in place where some are given."""
    replaced = {f"model.{name}": tensor for name, tensor in (weights or {}).items()}
    features: tuple[Tensor, ...] = functional_call(Both(model), replaced, (x, ids))
    return features


def rest_slow(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Names for parametrize, those that are not quick in the slow tier."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def objective(features: tuple[Tensor, ...]) -> Tensor:
    """Any number that hangs on all of them."""
    return torch.stack([torch.sin(f).sum() for f in features]).sum()


def through(towers: Towers, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Features of clipft's towers."""
    return towers[0].encode(x), towers[1].encode(ids)

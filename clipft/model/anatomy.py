"""What `inspect --explain` counts in a model: the inside of a block, tables, what trains at each N."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import nn

from clipft.model.describe import ModelFacts
from clipft.model.facts import TowerFacts
from clipft.model.plan import Shape, block_number
from clipft.model.tower import Tower


@dataclass(frozen=True)
class Anatomy:
    """A model's facts, and for each of image and text what lies inside.

    Args:
        trainable: of each of its groups what can train: all but what open_clip fixes (CLIPA's positions) and what no
            loss reaches.
        block: parameters of each piece of its last block, by the piece's name.
        tables: what its embeddings look up or add as it stands, by full name.
        projection: each parameter of its projection, by full name.
        other_activation: the architecture that differs in QuickGELU alone; None where open_clip has none.
    """

    facts: ModelFacts
    trainable: Mapping[str, Mapping[str, int]]
    block: Mapping[str, Mapping[str, int]]
    tables: Mapping[str, Mapping[str, Shape]]
    projection: Mapping[str, Mapping[str, Shape]]
    other_activation: str | None

    def tower(self, name: str) -> TowerFacts:
        """The facts of image or text."""
        return self.facts.image if name == "image" else self.facts.text

    def size(self, tower: str, *groups: str) -> int:
        """How many numbers these groups of a tower hold; all of it where none is named, `blocks` for every block."""
        return sum(
            part.parameters
            for part in self.facts.parts
            if part.tower == tower and (not groups or part.group in groups or _is_block(part.group) in groups)
        )


def anatomy(model: nn.Module, image: Tower, text: Tower, facts: ModelFacts) -> Anatomy:
    """Look inside a model on any device."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    towers = (image, text)
    return Anatomy(
        facts,
        trainable={tower.name: _trainable(tower, shapes) for tower in towers},
        block={tower.name: _pieces(model, tower.block_paths[-1]) for tower in towers},
        tables={tower.name: {n: shapes[n] for n in embedding_tables(tower)} for tower in towers},
        projection={tower.name: {n: shapes[n] for n in _names(tower, "projection")} for tower in towers},
        other_activation=_other_activation(facts.name),
    )


def embedding_tables(tower: Tower) -> tuple[str, ...]:
    """What the embeddings look up or add as it stands, by full name: tokens, positions, a class token."""
    return tuple(n for n in _names(tower, "embeddings") if n in tower.tables and not n.endswith("bias"))


def trains_at(model: Anatomy, tower: str, layers: int) -> int:
    """How many numbers of a tower train under `freeze_layers: layers`, its projection among them."""
    sizes = model.trainable[tower]
    if layers == -1:
        return sizes.get("projection", 0)
    frozen = {"embeddings", *(f"block {i}" for i in range(layers))} if layers > 0 else set()
    return sum(size for group, size in sizes.items() if group not in frozen)


def scores_apart(scale: float, cosines_apart: float) -> float:
    """How many times as probable a softmax finds the nearer of two candidates: exp(scale times the difference)."""
    return math.exp(min(scale * cosines_apart, 700.0))


def quick_gelu_gap() -> tuple[float, float]:
    """The largest difference between GELU and QuickGELU, and the x > 0 where it is."""
    x = torch.linspace(0, 6, 6001)
    gap = (F.gelu(x) - QuickGELU()(x)).abs()
    return gap.max().item(), x[gap.argmax()].item()


def _trainable(tower: Tower, shapes: Mapping[str, Shape]) -> dict[str, int]:
    return {p.group: sum(math.prod(shapes[n]) for n in p.names if n not in tower.untrained) for p in tower.parts}


def _pieces(model: nn.Module, path: str) -> dict[str, int]:
    """Parameters of each module in a block and of what lies in it directly; those without any are left out."""
    block = model.get_submodule(path)
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in block.named_children()}
    sizes |= {name: p.numel() for name, p in block.named_parameters(recurse=False)}
    return {name: size for name, size in sizes.items() if size}


def _names(tower: Tower, group: str) -> tuple[str, ...]:
    return next((part.names for part in tower.parts if part.group == group), ())


def _is_block(group: str) -> str:
    return "blocks" if block_number(group) is not None else ""


def _other_activation(name: str) -> str | None:
    other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
    return other if other in open_clip.list_models() else None

"""What a tower is put together from and what flows through it: values, without a family and without a model.

In the comments on shapes B is rows, L tokens and W the tower's width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A piece of a tower: `embeddings`, `block N`, `norm`, `pooling` or `projection`, and its full parameter names."""

    group: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its parts, as paths from the model's root; a path takes all that lies below it.

    Args:
        prefix: of the backbone's names; what a freeze_pattern sees begins after it.
        blocks: one path a block.
    """

    prefix: str
    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    norm: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()
    projection: tuple[str, ...] = ()

    def parts(self, names: Iterable[str]) -> tuple[Part, ...]:
        """The parts that hold any of `names`, in the order data meets them."""
        paths = {
            "embeddings": self.embeddings,
            **{f"block {i}": (path,) for i, path in enumerate(self.blocks)},
            "norm": self.norm,
            "pooling": self.pooling,
            "projection": self.projection,
        }
        names = list(names)
        parts = (Part(group, tuple(n for n in names if _is_under(n, below))) for group, below in paths.items())
        return tuple(part for part in parts if part.names)


@dataclass(frozen=True, eq=False)
class Hidden:
    """What one block hands to the next: all that the rest of the tower needs.

    Args:
        x: tokens (B, L, W) of a transformer, maps (B, C, H, W) or (B, H, W, C) of a staged network.
        tokens: (B, L) the text's token numbers, which masks and pooling are told from; None in an image tower.
        positions: what every block's attention adds, made once below (mT5's relative positions, from its block 0;
            rotary ones); None elsewhere.
        prompted: (B, L) which prompt vector stands at a place of a text, -1 where a word does; None without any.
    """

    x: Tensor
    tokens: Tensor | None = None
    positions: Tensor | None = None
    prompted: Tensor | None = None


NO_WORD = -1
"""The number in `Hidden.tokens` where a prompt vector stands: no padding, no end token, and never the largest."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of a block that LoRA may join.

    Args:
        target: q, k, v, o (the attention's), fc or proj (the MLP's first and last).
        path: the module that holds it: a linear layer, or an attention that holds several.
        rows: which of the layer's outputs it makes, from and to, where the layer makes others too; else None.
    """

    target: str
    path: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Branch:
    """One of a block's two branches: the module whose output, (B, L, W) or a tuple that begins with it, is the
    branch's before scale, dropout and residual.

    Args:
        kind: attn or mlp.
        path: the module.
    """

    kind: str
    path: str


@dataclass(frozen=True)
class Added:
    """Where a new parameter belongs.

    Args:
        group: lora, adapter or prompt.
        place: the first block whose input or inside it changes: 0 to depth - 1, or `depth` behind the backbone.
    """

    group: str
    place: int


class PromptVectors(Protocol):
    """Learnt vectors among a tower's tokens (`text_prompt.py`, `image_prompt.py`)."""

    def join(self, hidden: Hidden) -> Hidden:
        """What block 0 takes, with the vectors in it."""
        ...

    def enter(self, hidden: Hidden, block: int) -> Hidden:
        """What `block` takes, with its own vectors where it has some."""
        ...

    def leave(self, hidden: Hidden) -> Hidden:
        """What the last block gives, without the vectors where pooling must not see them."""
        ...


def _is_under(name: str, paths: tuple[str, ...]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)

"""Low-rank matrices beside a matrix that stands still: the arithmetic of LoRA, rsLoRA and DoRA.

Titles: `config/additions_schema.py`. In the comments on shapes I and O are the matrix's inputs and outputs, R the rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.config.additions_schema import LoraConfig


class LowRank(nn.Module):
    """B A beside some rows W of a matrix: W x becomes W x + scaling B A x (LoRA, section 4.1).

    Under DoRA each row of W + scaling B A also has a learnt length, the magnitude (DoRA, section 4.1). The product
    B A is never made, neither forward nor backward: the lengths come from factors too.

    Args:
        weight: W (O, I), which gives sizes, type and device, and under DoRA the magnitude's start.
        config: rank, scaling, dropout.
        name: of the parameter that W are rows of, below the module that holds both.
        rows: which rows they are, from and to.
    """

    magnitude: nn.Parameter | None

    def __init__(self, weight: Tensor, config: LoraConfig, name: str, rows: tuple[int, int]) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.name, self.rows = name, rows
        self.a = nn.Parameter(weight.new_empty(config.rank, inputs))
        self.b = nn.Parameter(weight.new_zeros(outputs, config.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))  # as LoRA's own code and CLIP-LoRA's
        self.dropout = nn.Dropout(config.dropout)
        self.scaling = config.alpha / (math.sqrt(config.rank) if config.scaling == "rslora" else config.rank)
        self.strength = 1.0
        self.register_parameter("magnitude", nn.Parameter(self._lengths(weight)) if config.dora else None)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What to add to y (..., O) = W x + bias.

        Args:
            x: (..., I); dropout is of A's input alone, under DoRA too.
            y: without this.
            weight: W (O, I).
            bias: (O,).
        """
        low = self.scaling * F.linear(self.dropout(x), self.a)  # (..., R)
        if self.magnitude is None:
            return F.linear(self.strength * low, self.b)
        stretch = self.magnitude / self._lengths(weight)  # (O,)
        own = y if bias is None else y - bias
        # as a change of y, so that it is nothing at all where the magnitude is the length, as at the start
        change = (stretch - 1) * own + stretch * F.linear(low, self.b)
        return (self.strength * change).to(y.dtype)

    def merged(self, weight: Tensor) -> Tensor:
        """The one matrix (O, I) that does what W and this do together; computed in float64."""
        own, low = weight.double(), self.b.double() @ self.a.double()
        tuned: Tensor = own + self.scaling * low
        if self.magnitude is not None:
            lengths = torch.linalg.vector_norm(tuned, dim=1).clamp_min(_tiny(weight))
            tuned = tuned * (self.magnitude.double() / lengths)[:, None]
        mixed: Tensor = own + self.strength * (tuned - own)
        return mixed.to(weight.dtype)

    def extra_repr(self) -> str:
        """What torch prints."""
        return f"rank={self.a.shape[0]}, scaling={self.scaling:g}, rows {self.rows[0]}-{self.rows[1]} of {self.name}"

    @torch.no_grad()
    def _lengths(self, weight: Tensor) -> Tensor:
        """The length of each row (O,) of W + s B A: its square is w w + 2 s w A' b + s^2 b A A' b.

        A constant for the gradient (DoRA, section 4.3). At least the smallest number, for rows of zeros.
        """
        with _full_precision(weight.device.type):
            own = torch.linalg.vector_norm(weight, dim=1).square()
            cross = ((weight @ self.a.T) * self.b).sum(dim=1)
            low = ((self.b @ (self.a @ self.a.T)) * self.b).sum(dim=1)
            squares = own + 2 * self.scaling * cross + self.scaling**2 * low
            lengths: Tensor = squares.clamp_min(0).sqrt().clamp_min(_tiny(weight))
        return lengths


def join(parts: Iterable[LowRank], x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, first: int = 0) -> Tensor:
    """The layer's y (..., O) = weight x + bias with each part in its rows.

    Args:
        parts: those beside `weight`, whose rows do not overlap.
        first: which row of the parameter that the parts are named after is the first of `weight`.
    """
    pieces, done = [], 0
    for part in sorted(parts, key=lambda part: part.rows):
        start, stop = (row - first for row in part.rows)
        rows, piece = slice(start, stop), y[..., start:stop]
        change = part(x, piece, weight[rows], None if bias is None else bias[rows])
        pieces += [y[..., done:start], piece + change] if start > done else [piece + change]
        done = stop
    if done < y.shape[-1]:
        pieces.append(y[..., done:])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Without autocast; the meta device has none."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _tiny(weight: Tensor) -> float:
    return torch.finfo(weight.dtype).tiny

"""Learnt positions for another number of places: the resampling that open_clip does when it loads weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.errors import InputError

Grid = tuple[int, int]


def resample_grid(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions (extra + old places, W) of a grid of patches for another grid; extra ones, a class token's, stay.

    Bicubic with antialiasing, as `open_clip.model.resize_pos_embed` does it.
    """
    extra = len(positions) - old[0] * old[1]
    grid = positions[extra:].reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, W, h, w)
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:extra], grid.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1)])


def resample_row(positions: Tensor, length: int) -> Tensor:
    """Positions (L, W) of tokens for `length` tokens: the first ones where there are fewer, else stretched linearly.

    In a causal tower that pools at the end of the text, cutting leaves the features of short texts what they were;
    `open_clip.model.resize_text_pos_embed` stretches both ways.
    """
    if length <= len(positions):
        return positions[:length].clone()
    row = positions.T.unsqueeze(0)  # (1, W, L)
    return F.interpolate(row, size=length, mode="linear", align_corners=False)[0].T.contiguous()


def replaced(old: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter of other values and shape that trains as the old one did."""
    return nn.Parameter(values.detach().contiguous(), requires_grad=old.requires_grad)


def grid_of(size: Grid, step: Grid, what: str) -> Grid:
    """How many steps fit into the size.

    Args:
        size: height and width in pixels.
        step: pixels a place is wide, down and across.
        what: the tower, for the error.

    Raises:
        InputError: they leave a rest, or none fits.
    """
    if any(pixels % side or not pixels for pixels, side in zip(size, step, strict=True)):
        nearest = tuple(max(round(pixels / side), 1) * side for pixels, side in zip(size, step, strict=True))
        advice = nearest[0] if nearest[0] == nearest[1] and size[0] == size[1] else list(nearest)
        raise InputError(
            f"model.image_size: {shown(size)} does not divide into the {step[0]} x {step[1]} pixels of a place in this "
            f"{what}; write {advice}"
        )
    return size[0] // step[0], size[1] // step[1]


def shown(size: Grid) -> str:
    """As a user writes it: one number for a square."""
    return str(size[0]) if size[0] == size[1] else f"[{size[0]}, {size[1]}]"


def resized_note(old: Grid, new: Grid, places: tuple[Grid, Grid] | None, kind: str = "learnt positions") -> str:
    """What changing the image size did.

    Args:
        places: the old and the new grid of positions; None where there are none.
        kind: what these are.
    """
    said = f"model.image_size: {shown(new)} pixels in place of {shown(old)}"
    if places is None:
        return f"{said}; this tower has no learnt positions to resize"
    (rows, columns), (new_rows, new_columns) = places
    return f"{said}; its {kind} are resampled from {rows} x {columns} to {new_rows} x {new_columns}"


def refused(tower: str, key: str, why: str) -> InputError:
    """The refusal to resize a family."""
    return InputError(f"{key}: cannot be changed for a {tower} tower: {why}; leave the key out")

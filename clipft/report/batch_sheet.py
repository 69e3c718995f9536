"""A picture of the first training batch as the model sees it, with its texts: wrong crops and flips show here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

_SIDE, _TEXT, _COLUMNS, _MOST = 160, 40, 4, 16


def write_batch_sheet(
    path: Path, images: Tensor, captions: Sequence[str], *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write up to 16 images of a batch in four columns, their texts below them.

    Args:
        path: a .jpg to write.
        images: (B, 3, H, W), normalised.
        captions: B texts.
        mean: what was subtracted, by channel.
        std: what was divided by, by channel.
    """
    count = min(_MOST, len(captions))
    rows = -(-count // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, rows * (_SIDE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    pixels = images[:count].cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    for i in range(count):
        left, top = (i % _COLUMNS) * _SIDE, (i // _COLUMNS) * (_SIDE + _TEXT)
        picture = to_pil_image(pixels[i].clamp(0, 1)).resize((_SIDE - 4, _SIDE - 4))
        sheet.paste(picture, (left + 2, top + 2))
        draw.multiline_text((left + 3, top + _SIDE), _wrapped(captions[i]), fill="black", spacing=1)
    sheet.save(path, quality=88)


def _wrapped(text: str, width: int = 25, lines: int = 3) -> str:
    """The text's beginning in a few short lines."""
    shown = text[: width * lines]
    return "\n".join(shown[i : i + width] for i in range(0, len(shown), width))

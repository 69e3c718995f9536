"""Any image file to RGB, or a named fault.

A photo is taken for what its bytes say, not its suffix; transparent parts go on white, a camera's turn is undone.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipft.errors import InputError

# MPO is what phones call a JPEG with a second picture; Pillow opens it through JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"})
MAX_PIXELS = 120_000_000
"""Larger pictures are refused before they are decoded: above the largest camera backs (102 million), 360 MB as RGB."""

# EXIF 2.32, tag 0x0112 (Orientation): how to turn the stored picture upright.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFault(InputError):  # noqa: N818  a fault lies in a file and is counted, not raised to the user
    """A picture that cannot be read: which file, and why in a few words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both as args, so that a fault crosses a process border by pickle
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: str) -> Image.Image:
    """The file's (first) picture, upright, as RGB.

    Raises:
        ImageFault: for every way in which a file can fail to be a picture.
    """
    return _opened(path, lambda file: as_rgb(_open(path, file)))


def check_image(path: str) -> None:
    """Look at the file's header alone: whether it is a picture, and of a size that is decoded.

    Raises:
        ImageFault: it is none.
    """
    _opened(path, lambda file: _open(path, file, decode=False))


def _opened(path: str, read: Callable[[BinaryIO], Image.Image]) -> Image.Image:
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ImageFault(path, "not a file")
            return _decode(path, file, read)
    except OSError as error:
        raise ImageFault(path, _reason_of_os_error(error)) from None
    except ValueError:  # a NUL in the name, or half a character
        raise ImageFault(path, "not a possible file name") from None


def _open_without_waiting(path: str, flags: int) -> int:
    # A pipe without a writer would hold an ordinary open for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason_of_os_error(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "no such file"
        case IsADirectoryError():
            return "a folder, not an image"
        case PermissionError():
            return "permission denied"
        case _:
            return f"cannot be opened ({error.strerror or error})"


def _open(path: str, file: BinaryIO, *, decode: bool = True) -> Image.Image:
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ImageFault(path, f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,} are not decoded")
    if decode:
        image.load()
    return image


def _decode(path: str, file: BinaryIO, read: Callable[[BinaryIO], Image.Image]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of sizes between its two limits; ours is checked in `_open`.
            warnings.simplefilter("ignore")
            return read(file)
    except ImageFault:
        raise
    except UnidentifiedImageError:
        raise ImageFault(path, _reason_of_content(file)) from None
    except Image.DecompressionBombError:
        raise ImageFault(path, f"a picture of more than {MAX_PIXELS:,} pixels is not decoded") from None
    # On damaged bytes Pillow's readers raise OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError,
    # EOFError, struct.error, zlib.error, OverflowError, MemoryError and more: whatever it is, the file is at fault.
    except Exception as error:
        raise ImageFault(path, _reason_of_damage(error)) from None


def _reason_of_content(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(8)
    if not head:
        return "an empty file (0 bytes)"
    return f"not a JPEG, PNG, WebP, BMP or GIF picture (it begins with {head!r})"


def _reason_of_damage(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged ({text[:80] or type(error).__name__})"


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except (
        Exception
    ):  # broken metadata around sound pixels has no orientation to follow; the errors are as many as above
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as models see it: upright, 8 bits, transparent parts on white."""
    return to_rgb(_upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: 16 bits scaled to 8, transparent parts on white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    # Pillow's own convert clips at 255, which turns a 16-bit picture white.
    values = np.asarray(image).astype(np.int64).clip(0, 65535)  # (H, W)
    grey = (values * 255 + 32767) // 65535
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

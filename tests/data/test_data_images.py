"""Any image file becomes upright RGB, or a fault that names it."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipft.data.images import FORMATS, MAX_PIXELS, ImageFault, read_image


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture whose four corners differ."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)).convert(mode)


def pixels(path: Path) -> np.ndarray:
    image = read_image(str(path))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture().save(path)
    assert np.abs(pixels(path) - np.asarray(picture()).astype(int)).mean() < 12


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture().save(path, "PNG")
    assert np.array_equal(pixels(path), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image = picture("I").convert("I;16") if mode == "I;16" else picture(mode)
    image.save(path)
    assert pixels(path).shape == (16, 24, 3)


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(pixels(tmp_path / "a.jpg") - [255, 0, 0]).max() < 6


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_parts_are_white(tmp_path: Path, mode: str) -> None:
    image = picture(mode)
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize(("mode", "clear"), [("L", 0), ("RGB", (0, 0, 0)), ("P", 3), ("P", bytes([9, 9, 9, 0]))])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str, clear: object) -> None:
    image = Image.new(mode, (4, 4), 3 if mode == "P" else 0)
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    image.save(tmp_path / "a.png", transparency=clear)
    assert (pixels(tmp_path / "a.png") == 255).all()


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(pixels(tmp_path / "a.png")[0, 0] - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_turns_a_photo_as_pillow_would(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture().save(path, exif=exif)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    assert np.array_equal(pixels(path), np.asarray(expected))


def test_broken_exif_around_sound_pixels_is_passed_over(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\0\0not TIFF at all")
    assert pixels(tmp_path / "a.jpg").shape == (16, 24, 3)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for suffix in ("gif", "webp", "png"):
        red.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[blue])
        assert np.abs(pixels(tmp_path / f"a.{suffix}") - [255, 0, 0]).max() < 6


def fault(path: Path | str) -> ImageFault:
    with pytest.raises(ImageFault) as caught:
        read_image(str(path))
    assert str(path) in str(caught.value)
    return caught.value


def test_faults_of_the_file_system(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.jpg").reason == "no such file"
    assert fault(tmp_path).reason == "a folder, not an image"
    (tmp_path / "empty.jpg").touch()
    assert fault(tmp_path / "empty.jpg").reason == "an empty file (0 bytes)"
    assert fault(tmp_path / "empty.jpg" / "below").reason == "no such file"
    assert fault("a\0b.jpg").reason == "not a possible file name"
    assert "cannot be opened" in fault(tmp_path / ("x" * 300)).reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert fault(tmp_path / "a.jpg").reason == "not a file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_says_so(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert fault(tmp_path / "a.png").reason == "permission denied"


def test_faults_of_the_content(tmp_path: Path) -> None:
    """P3: every decode error names the file and the reason."""
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><p>Not found")
    assert "it begins with b'<!DOCTYP'" in fault(tmp_path / "page.jpg").reason
    for suffix in ("jpg", "png", "bmp", "gif", "webp"):
        picture(size=(64, 64)).save(tmp_path / f"whole.{suffix}")
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) * 2 // 3])
        assert fault(tmp_path / f"cut.{suffix}").reason
    assert fault(tmp_path / "cut.jpg").reason == "truncated"


@pytest.mark.parametrize("suffix", ["tiff", "ppm", "ico", "pcx"])
def test_other_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    picture(size=(32, 32)).save(tmp_path / f"a.{suffix}")
    assert "not a JPEG, PNG, WebP, BMP or GIF" in fault(tmp_path / f"a.{suffix}").reason
    assert suffix.upper() not in FORMATS


def giant_png(side: int) -> bytes:
    """A valid PNG header that promises side x side pixels in a few bytes."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 1000))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 20_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(giant_png(side))
    assert "pixels" in fault(tmp_path / "bomb.png").reason


def test_a_fault_crosses_a_process_border() -> None:
    copy = pickle.loads(pickle.dumps(ImageFault("a.jpg", "truncated")))
    assert (copy.path, copy.reason, str(copy)) == ("a.jpg", "truncated", "a.jpg: truncated")

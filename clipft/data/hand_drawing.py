"""Paints one hand with Pillow: silhouette, light, lines, nails, sleeve, wall.

Drawn several times as large and averaged down, in about 3 ms at 64 pixels.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from clipft.data.hand_shapes import ARM, FINGERS, PALM, Part, Parts, Pose, closed_curve, curve, ellipse, parts_of

Colour = tuple[int, int, int]

SKINS: dict[str, Colour] = {
    "pale": (253, 222, 198),
    "light": (238, 192, 154),
    "tan": (208, 150, 106),
    "brown": (150, 97, 64),
    "dark": (92, 58, 42),
}
NAILS: dict[str, Colour | None] = {
    "bare": None,
    "red": (200, 28, 44),
    "blue": (38, 78, 200),
    "green": (28, 140, 84),
    "black": (24, 22, 28),
}
_PALM_ROSE: Colour = (240, 178, 156)
GROUNDS: tuple[tuple[Colour, Colour], ...] = (  # muted pairs, none near a skin tone
    ((208, 226, 238), (150, 184, 210)),
    ((214, 232, 214), (150, 190, 160)),
    ((232, 232, 236), (186, 188, 198)),
    ((88, 116, 152), (48, 66, 98)),
    ((70, 122, 118), (36, 74, 76)),
    ((206, 200, 230), (150, 140, 190)),
    ((92, 96, 108), (50, 52, 62)),
    ((246, 236, 184), (222, 204, 120)),
    ((120, 172, 206), (66, 118, 160)),
    ((150, 190, 120), (96, 142, 80)),
)
SLEEVES: tuple[Colour, ...] = ((44, 62, 96), (150, 44, 52), (236, 236, 232), (58, 96, 78), (92, 70, 120), (40, 40, 44))


class _Canvas:
    """Maps the hand's plane to pixels."""

    def __init__(self, pose: Pose, pixels: int) -> None:
        self.pixels = pixels
        self.unit = pixels * 0.615 * pose.scale
        self._turn = cmath.rect(1, math.radians(pose.turn))
        self._mirror = not pose.thumb_right
        self._middle = complex(pixels / 2, pixels / 2) + pose.shift.conjugate() * pixels / 2

    def at(self, points: Iterable[complex]) -> list[float]:
        """Pixels x, y, x, y, ... of points."""
        plane = np.array(list(points)) - _CENTRE
        if self._mirror:
            plane = -plane.conj()
        pixels = (plane * self._turn).conj() * self.unit + self._middle  # y points down there
        flat: list[float] = np.column_stack((pixels.real, pixels.imag)).ravel().tolist()
        return flat

    def width(self, length: float) -> int:
        return max(1, round(length * self.unit))

    def blank(self, value: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        layer = Image.new("L", (self.pixels, self.pixels), value)
        return layer, ImageDraw.Draw(layer)


_CENTRE = 0.04 + 0.16j
"""The point of the hand's plane that stands in the middle of the picture."""


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def draw_hand(pose: Pose, size: int) -> Image.Image:
    """The picture of this pose, size x size, RGB."""
    fine = 3 if size <= 512 else 2  # drawn larger, then averaged: smooth edges
    canvas = _Canvas(pose, size * fine)
    parts = parts_of(pose)
    skin = _mix(SKINS[pose.skin], _PALM_ROSE, 0.3) if pose.palm else SKINS[pose.skin]
    dark = _mix(skin, (64, 18, 22), 0.82)

    mask = _silhouette(canvas, parts)  # (size x fine)^2, as all layers until they are averaged
    shade = _light(canvas, pose, parts)
    _lines(canvas, pose, parts, shade)
    light = _mix(skin, (255, 250, 240), 0.75)
    hand = Image.merge("RGB", (shade, shade, shade)).point(_tones(dark, skin, light))
    if not pose.palm:
        _nails(canvas, parts, hand, NAILS[pose.nails] or _mix(skin, (255, 222, 216), 0.6))
    if pose.sleeve is not None:
        _sleeve(canvas, hand, SLEEVES[pose.sleeve])

    picture, alpha = _ground(pose, size), mask.reduce(fine)
    shadow = alpha.filter(ImageFilter.GaussianBlur(size * 0.035)).point(lambda value: value * 0.38)
    picture.paste((0, 0, 0), (round(size * 0.02), round(size * 0.035)), shadow)
    picture.paste(hand.reduce(fine), mask=alpha)
    return picture


@cache
def _tones(dark: Colour, skin: Colour, light: Colour) -> list[int]:
    """For red, green and blue the value at each brightness: dark at 0, the skin at 127, light at 255."""
    bands = zip(dark, skin, light, strict=True)
    return [round(value) for band in bands for value in np.interp(np.arange(256), (0, 127, 255), band).tolist()]


_RIM = 0.017
"""Width of the dark rim around the hand."""


def _silhouette(canvas: _Canvas, parts: Parts) -> Image.Image:
    mask, draw = canvas.blank(0)
    draw.polygon(canvas.at(p + math.copysign(_RIM, p.real) for p in ARM), fill=255)
    draw.polygon(canvas.at(p * (1 + _RIM / 0.3) for p in closed_curve(PALM)), fill=255)
    for part in (*parts.stubs, *parts.up):
        draw.polygon(canvas.at(part.outline(1 + _RIM / part.radius)), fill=255)
    return mask


def _light(canvas: _Canvas, pose: Pose, parts: Parts) -> Image.Image:
    """How bright each point is: 128 is the skin's own colour; round things are bright in the middle."""
    shade, draw = canvas.blank(40)
    sun = cmath.rect(1, math.radians(125 - pose.turn))  # from the upper left of the picture
    if not pose.thumb_right:
        sun = complex(-sun.real, sun.imag)
    palm = closed_curve(PALM)
    draw.polygon(canvas.at(ARM), fill=112)
    draw.polygon(
        canvas.at(p * 0.62 + sun * 0.02 if p.imag > -0.5 else complex(p.real * 0.6, p.imag) for p in ARM), fill=130
    )
    draw.polygon(canvas.at(palm), fill=114)
    for part in (*parts.stubs, *parts.up):
        draw.polygon(canvas.at(part.outline()), fill=112)
    draw.polygon(canvas.at(p * 0.88 + sun * 0.015 for p in palm), fill=130)
    for part in (*parts.stubs, *parts.up):
        draw.polygon(canvas.at(part.outline(0.64, sun * part.radius * 0.12)), fill=132)
        draw.polygon(canvas.at(part.outline(0.30, sun * part.radius * 0.28)), fill=152)
    if pose.palm:
        _mounds(canvas, draw)
    else:
        _knuckles(canvas, draw)
    return shade.filter(ImageFilter.GaussianBlur(canvas.unit * 0.022))


def _mounds(canvas: _Canvas, draw: ImageDraw.ImageDraw) -> None:
    """The cushions of the palm around its hollow."""
    draw.polygon(canvas.at(ellipse(0.0 - 0.04j, 0.15 + 0j, 0.11)), fill=116)
    draw.polygon(canvas.at(ellipse(0.155 - 0.21j, 0.07 + 0.15j, 0.10)), fill=148)
    draw.polygon(canvas.at(ellipse(-0.175 - 0.20j, 0.0 + 0.17j, 0.075)), fill=144)
    for finger in FINGERS[1:]:
        draw.polygon(canvas.at(ellipse(finger.base * 0.8, 0.05 + 0j, 0.04)), fill=146)


def _knuckles(canvas: _Canvas, draw: ImageDraw.ImageDraw) -> None:
    """Knuckles and tendons on the back."""
    for finger in FINGERS[1:]:
        wrist = 0.0 - 0.42j
        points = canvas.at([finger.base * 0.85, finger.base * 0.3 + wrist * 0.7])
        draw.line(points, fill=143, width=canvas.width(0.035))
        draw.polygon(canvas.at(ellipse(finger.base * 0.93, 0.045 + 0j, 0.035)), fill=150)


def _lines(canvas: _Canvas, pose: Pose, parts: Parts, shade: Image.Image) -> None:
    draw = ImageDraw.Draw(shade)
    _joints(canvas, pose, parts, draw)
    if not pose.palm:
        return
    for crease in (
        (0.285 + 0.04j, 0.15 + 0.06j, 0.0 + 0.02j, -0.13 - 0.08j),
        (-0.275 + 0.06j, -0.14 + 0.05j, 0.0 + 0.12j, 0.10 + 0.21j),
        (0.27 + 0.03j, 0.12 - 0.02j, 0.05 - 0.16j, 0.045 - 0.40j),
    ):
        draw.line(canvas.at(curve(crease)), fill=66, width=canvas.width(0.018), joint="curve")
    for part in parts.folded:
        _over(canvas, pose, shade, part)
    if parts.thumb_across is not None:
        _over(canvas, pose, shade, parts.thumb_across)


def _joints(canvas: _Canvas, pose: Pose, parts: Parts, draw: ImageDraw.ImageDraw) -> None:
    depth, reach, value = (0.18, 0.72, 78) if pose.palm else (-0.18, 0.5, 92)
    for part in parts.up:
        half = part.along * 1j * part.radius * reach
        for t in (0.47, 0.72) if part.bend == 0 else (0.62,):  # a thumb has one joint less
            middle = part.middle(t)
            points = canvas.at((middle - half, middle - part.along * part.radius * depth, middle + half))
            draw.line(points, fill=value, width=canvas.width(0.016), joint="curve")


def _over(canvas: _Canvas, pose: Pose, shade: Image.Image, part: Part) -> None:
    """A finger folded over what is drawn already: its own light and a dark edge."""
    layer, draw = canvas.blank(84)
    for share, value in ((1.0, 120), (0.7, 142), (0.34, 162)):
        draw.polygon(canvas.at(part.outline(share)), fill=value)
    layer = layer.filter(ImageFilter.BoxBlur(canvas.unit * 0.02))
    mask, draw_mask = canvas.blank(0)
    draw_mask.polygon(canvas.at(part.outline()), fill=255)
    shade.paste(layer, mask=mask)
    ImageDraw.Draw(shade).line(canvas.at(part.edge()), fill=34, width=canvas.width(0.018), joint="curve")


def _nails(canvas: _Canvas, parts: Parts, hand: Image.Image, colour: Colour) -> None:
    draw = ImageDraw.Draw(hand)
    for part in parts.up:
        long, wide = part.along * part.radius, part.radius
        middle = part.tip - long * 0.8
        for share, paint in ((1.16, _mix(colour, (40, 10, 10), 0.45)), (1.0, colour)):
            draw.polygon(canvas.at(ellipse(middle, long * 0.74 * share, wide * 0.56 * share)), fill=paint)
        shine = ellipse(middle + long * (0.2 + 0.2j), long * 0.3, wide * 0.12)
        draw.polygon(canvas.at(shine), fill=_mix(colour, (255, 255, 255), 0.55))


def _sleeve(canvas: _Canvas, hand: Image.Image, colour: Colour) -> None:
    draw = ImageDraw.Draw(hand)
    cuff = (-0.4 - 0.72j, 0.4 - 0.72j, 0.4 - 2.2j, -0.4 - 2.2j)
    draw.polygon(canvas.at(cuff), fill=colour)
    draw.line(canvas.at((-0.4 - 0.72j, 0.4 - 0.72j)), fill=_mix(colour, (0, 0, 0), 0.5), width=canvas.width(0.03))
    draw.line(canvas.at((-0.4 - 0.82j, 0.4 - 0.82j)), fill=_mix(colour, (0, 0, 0), 0.25), width=canvas.width(0.018))


def _ground(pose: Pose, size: int) -> Image.Image:
    """A plain wall with light falling across it."""
    number, angle = pose.ground
    bright, dim = GROUNDS[number]
    slope = Image.linear_gradient("L").reduce(4).rotate(angle, Image.Resampling.BILINEAR, fillcolor=128)
    slope = slope.crop((13, 13, 51, 51)).resize((size, size), Image.Resampling.BILINEAR)
    lit, unlit = (Image.new("RGB", (size, size), colour) for colour in (bright, dim))
    return Image.composite(lit, unlit, slope)

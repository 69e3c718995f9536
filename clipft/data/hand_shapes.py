"""The hand as shapes in its own plane: a pose, and the pieces that it makes of palm and fingers.

Points are complex numbers: x to the right, y up, the hand upright with its thumb on the right, the middle of the palm
at 0 and a fingertip near 1j; a turn is a product.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Finger:
    """Where a finger starts, how long and wide (half) it is, and which way it points, in degrees from straight up."""

    base: complex
    length: float
    radius: float
    angle: float


FINGERS = (  # thumb, index, middle, ring, little; lengths after the hand of an adult, middle finger 0.62
    Finger(0.17 - 0.17j, 0.56, 0.082, -47),
    Finger(0.215 + 0.20j, 0.55, 0.068, -11),
    Finger(0.068 + 0.245j, 0.62, 0.070, -2.5),
    Finger(-0.080 + 0.225j, 0.56, 0.067, 6),
    Finger(-0.212 + 0.145j, 0.45, 0.058, 16),
)
PALM = (0.285 + 0.17j, 0.15 + 0.265j, 0.0 + 0.295j, -0.14 + 0.265j, -0.262 + 0.17j, -0.29 - 0.02j, -0.262 - 0.24j,
         -0.19 - 0.43j, 0.0 - 0.47j, 0.16 - 0.45j, 0.27 - 0.30j, 0.315 - 0.10j)  # fmt: skip
ARM = (-0.215 - 0.36j, 0.2 - 0.36j, 0.185 - 0.62j, 0.20 - 1.9j, -0.21 - 1.9j, -0.195 - 0.62j)
_STEPS = 26
"""Points along each side of a finger."""
_ALONG = (1 - np.cos(np.pi * np.arange(_STEPS + 1) / _STEPS)) / 2  # shares of the way, dense where the ends are round
_JOINTS = sum(np.exp(-(((_ALONG - joint) / 0.09) ** 2)) for joint in (0.44, 0.73))
_PROFILE = (1 - 0.16 * _ALONG) * (1 + 0.045 * _JOINTS)  # narrower to the tip, a little wider at its two joints
_ARCH = np.sin(np.pi * _ALONG)


@dataclass(frozen=True)
class Pose:
    """All that decides a drawing.

    Args:
        up: which fingers are up; 0 is the thumb, 4 the little finger.
        thumb_right: whether the thumb is on the viewer's right.
        palm: whether the palm is seen, else the back.
        skin: a name in SKINS.
        nails: a name in NAILS.
        turn: degrees anticlockwise.
        scale: size of the hand, 1 fills the picture.
        shift: where the hand stands, in halves of the picture.
        spread: how far the fingers fan out, 1 as drawn.
        wobble: degrees that each finger departs by.
        ground: which background, and how its light falls in degrees.
        sleeve: which sleeve, None for a bare arm.
    """

    up: tuple[int, ...]
    thumb_right: bool
    palm: bool
    skin: str
    nails: str
    turn: float
    scale: float
    shift: complex
    spread: float
    wobble: tuple[float, ...]
    ground: tuple[int, float]
    sleeve: int | None


def _limb(base: complex, tip: complex, radius: float, bend: float) -> Points:
    """The outline of a finger with round ends."""
    axis = tip - base
    length = abs(axis)
    along = axis / length
    across = along * 1j
    width = radius * _PROFILE
    for to_end, cap in ((_ALONG * length, radius), ((1 - _ALONG) * length, radius * 0.88)):
        width = width * np.sqrt(1 - np.clip(1 - to_end / cap, 0, 1) ** 2)  # a round cap; 1 beyond it
    middle = base + axis * _ALONG + across * bend * length * _ARCH
    return np.concatenate([middle + across * width, (middle - across * width)[::-1]])


def closed_curve(points: Iterable[complex], steps: int = 5) -> list[complex]:
    """A closed curve through the points (Catmull-Rom)."""
    ring = list(points)
    curve = []
    for i in range(len(ring)):
        a, b, c, d = (ring[(i + k) % len(ring)] for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            curve.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return curve


def ellipse(middle: complex, width: complex, height: float) -> list[complex]:
    """Half axes: `width` as a vector, `height` across it."""
    across = width / abs(width) * 1j * height
    return [middle + width * math.cos(a) + across * math.sin(a) for a in (math.tau * k / 20 for k in range(20))]


def curve(points: tuple[complex, ...]) -> list[complex]:
    """A curve through the points from the first to the last."""
    ring = closed_curve((points[0], *points, points[-1]))
    return ring[5 : 5 * len(points) + 1]


@dataclass(frozen=True)
class Part:
    """One piece of the hand, from base to tip, as a limb of this half width."""

    base: complex
    tip: complex
    radius: float
    bend: float = 0.0

    @property
    def along(self) -> complex:
        """Unit vector from base to tip."""
        return (self.tip - self.base) / abs(self.tip - self.base)

    def middle(self, t: float) -> complex:
        """The point on its bent axis at share t of the way to the tip."""
        straight = self.base + (self.tip - self.base) * t
        return straight + self.along * 1j * self.bend * abs(self.tip - self.base) * math.sin(math.pi * t)

    def outline(self, share: float = 1.0, shift: complex = 0j) -> Points:
        """Its edge, or that of a thinner limb inside, moved towards the light."""
        inset = self.along * self.radius * (1 - share)
        return _limb(self.base + shift, self.tip - inset + shift, self.radius * share, self.bend)

    def edge(self) -> Points:
        """The outline but for its base, where the finger grows out of the hand."""
        return self.outline()[_STEPS // 4 : -_STEPS // 4]


@dataclass(frozen=True)
class Parts:
    """The pieces of one hand: those in the silhouette, and those folded over the palm with edges of their own."""

    up: tuple[Part, ...]
    stubs: tuple[Part, ...]
    folded: tuple[Part, ...]
    thumb_across: Part | None


def parts_of(pose: Pose) -> Parts:
    """The pieces of the hand in this pose."""
    up, stubs, folded = [], [], []
    thumb_across = None
    for number, finger in enumerate(FINGERS):
        angle = finger.angle * (1 if number == 0 else pose.spread) + pose.wobble[number]
        along = cmath.rect(1, math.radians(90 + angle))
        if number in pose.up:
            start = finger.base - along * 0.08
            bend = 0.07 if number == 0 else 0.0
            up.append(Part(start, finger.base + along * finger.length, finger.radius, bend))
        elif number == 0:
            stubs.append(Part(0.12 - 0.36j, 0.305 + 0.03j, 0.095, -0.1))
            thumb_across = Part(0.25 - 0.24j, -0.10 + 0.045j, 0.085, -0.17)
        else:
            stubs.append(Part(finger.base - 0.15j, finger.base + along * 0.125, finger.radius * 1.12))
            folded.append(
                Part(finger.base + along * 0.13, finger.base - along * finger.length * 0.42, finger.radius * 1.1)
            )
    return Parts(tuple(up), tuple(stubs), tuple(folded), thumb_across)

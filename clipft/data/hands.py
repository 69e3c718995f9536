"""`builtin: hands`: drawn hands with captions and labels, for a first run and for tests; no files needed.

Hand number i of a seed is always the same one, however many are asked for and at whatever size.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from clipft.config.source_schema import HandsSource
from clipft.data.columns import Ints, TextColumn
from clipft.data.hand_drawing import GROUNDS, NAILS, SKINS, SLEEVES, draw_hand
from clipft.data.hand_shapes import Pose
from clipft.data.rows import Rows

NUMBERS = ("no fingers", "one finger", "two fingers", "three fingers", "four fingers", "five fingers")

# Which fingers are up, as people show a number; the first way is the usual one.
THUMB, INDEX, MIDDLE, RING, LITTLE = range(5)
_WAYS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((),),
    ((INDEX,), (THUMB,), (LITTLE,)),
    ((INDEX, MIDDLE), (THUMB, INDEX), (INDEX, LITTLE)),
    ((INDEX, MIDDLE, RING), (THUMB, INDEX, MIDDLE), (MIDDLE, RING, LITTLE)),
    ((INDEX, MIDDLE, RING, LITTLE),),
    ((THUMB, INDEX, MIDDLE, RING, LITTLE),),
)
_USUAL = 0.6
"""How often the usual way is drawn, where there are others."""


@dataclass(frozen=True)
class Hand:
    """What one drawn hand shows; the name of a nail colour is None where no nail can be seen."""

    fingers: int
    side: Literal["left", "right"]
    view: Literal["palm", "back"]
    skin: str
    nails: str | None
    pose: Pose

    @property
    def caption(self) -> str:
        """Such as "the back of a right hand with two fingers up and red nails"."""
        words = f"the {self.view} of a {self.side} hand with {NUMBERS[self.fingers]} up"
        return words if self.nails in (None, "bare") else f"{words} and {self.nails} nails"

    def label(self, of: str) -> str | None:
        """The class name under `data.*.label`, None where it cannot be seen."""
        match of:
            case "fingers":
                return NUMBERS[self.fingers]
            case "side" | "view" | "skin" | "nails":
                value: str | None = getattr(self, of)
                return value
        raise ValueError(f"unknown label {of!r}")


CLASSES: dict[str, tuple[str, ...]] = {
    "fingers": NUMBERS,
    "side": ("left", "right"),
    "view": ("palm", "back"),
    "skin": tuple(SKINS),
    "nails": tuple(NAILS),
}


def hand(seed: int, index: int) -> Hand:
    """Hand number `index` of a seed."""
    rng = random.Random(f"hands {seed} {index}")
    fingers = rng.randrange(6)
    ways = _WAYS[fingers]
    up = ways[0] if len(ways) == 1 or rng.random() < _USUAL else rng.choice(ways[1:])
    side: Literal["left", "right"] = rng.choice(("left", "right"))
    view: Literal["palm", "back"] = rng.choice(("palm", "back"))
    skin, nails = rng.choice(list(SKINS)), rng.choice(list(NAILS))
    # Seen from the palm a right hand has its thumb on the right, from the back on the left.
    thumb_right = (side == "right") == (view == "palm")
    pose = Pose(
        up=up,
        thumb_right=thumb_right,
        palm=view == "palm",
        skin=skin,
        nails=nails,
        turn=rng.uniform(-28, 28),
        scale=rng.uniform(0.84, 1.0),
        shift=complex(rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)),
        spread=rng.uniform(0.95, 1.35),
        wobble=tuple(rng.uniform(-2, 2) for _ in range(5)),
        ground=(rng.randrange(len(GROUNDS)), rng.uniform(0, 360)),
        sleeve=rng.choice((None, *range(len(SLEEVES)))),
    )
    return Hand(fingers, side, view, skin, nails if view == "back" and up else None, pose)


@dataclass(frozen=True, eq=False)
class HandImages:
    """Hands that are drawn when they are read."""

    seed: int
    pixels: int
    numbers: Ints

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> str:
        return f"hand {self.numbers[index]} of seed {self.seed}"

    def read(self, index: int) -> Image.Image:
        """The drawing."""
        return draw_hand(hand(self.seed, int(self.numbers[index])).pose, self.pixels)

    def check(self, index: int) -> None:
        """A drawing is always one."""

    def take(self, indices: Ints) -> HandImages:
        """The hands at these indices."""
        return replace(self, numbers=self.numbers[indices])

    def size(self, index: int) -> int:
        """A number that equal drawings share, as a file's size would be."""
        return 1 + int(self.numbers[index])

    def digest(self, index: int, tail: bool) -> bytes:
        """A hash of what decides the drawing."""
        return hashlib.blake2b(f"{self.seed} {self.pixels} {self.numbers[index]}".encode(), digest_size=20).digest()


def read_hands(source: HandsSource) -> Rows:
    """The rows of a `builtin: hands` source."""
    hands = [hand(source.seed, index) for index in range(source.count)]
    classes = CLASSES[source.label] if source.label else ()
    position = {name: label for label, name in enumerate(classes)}
    labels = [position.get(one.label(source.label) or "", -1) for one in hands] if source.label else None
    numbers = np.arange(source.count)
    return Rows(
        name="builtin hands" if source.seed == 0 else f"builtin hands, seed {source.seed}",
        images=HandImages(source.seed, source.size, numbers),
        captions=TextColumn.of(one.caption for one in hands),
        labels=None if labels is None else np.array(labels, np.int64),
        classes=classes,
        identities=numbers,
        groups=numbers,
    )


def sheet(columns: int = 8, rows: int = 4, size: int = 96, seed: int = 0, gap: int = 4) -> Image.Image:
    """A contact sheet of the first hands of a seed."""
    step = size + gap
    page = Image.new("RGB", (columns * step + gap, rows * step + gap), "white")
    for index in range(columns * rows):
        row, column = divmod(index, columns)
        page.paste(draw_hand(hand(seed, index).pose, size), (gap + column * step, gap + row * step))
    return page

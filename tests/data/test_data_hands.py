"""Drawn hands: the same for the same seed and index, captioned and labelled by what they show."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clipft.config.source_schema import HandsSource
from clipft.data.hand_drawing import SKINS, draw_hand
from clipft.data.hands import CLASSES, hand, read_hands, sheet


def rows(**keys: object):  # type: ignore[no-untyped-def]
    return read_hands(HandsSource.model_validate({"builtin": "hands", **keys}))


def test_a_hand_depends_on_seed_and_index_alone() -> None:
    few, many = rows(count=5), rows(count=50)
    for i in range(5):
        assert np.array_equal(few.images.read(i), many.images.read(i))
        assert few.captions[i] == many.captions[i]
    taken = many.take(np.array([7, 3]))
    assert np.array_equal(taken.images.read(1), many.images.read(3))
    assert not np.array_equal(few.images.read(0), rows(count=5, seed=1).images.read(0))


@pytest.mark.parametrize("size", [16, 64, 100, 300])
def test_any_size(size: int) -> None:
    image = rows(count=1, size=size).images.read(0)
    assert (image.mode, image.size) == ("RGB", (size, size))


def test_a_larger_drawing_shows_the_same_hand() -> None:
    for i in range(6):
        small = rows(count=6, size=64).images.read(i)
        large = rows(count=6, size=256).images.read(i).resize((64, 64), Image.Resampling.BOX)
        assert np.abs(np.asarray(small, int) - np.asarray(large, int)).mean() < 6


@pytest.mark.parametrize("label", ["fingers", "side", "view", "skin", "nails"])
def test_labels_say_what_is_drawn(label: str) -> None:
    source = rows(count=300, label=label)
    assert source.classes == CLASSES[label]
    assert all(count > 10 for count in source.class_counts())
    for i in range(300):
        shown = hand(0, i)
        expected = shown.label(label)
        assert (source.classes[source.labels[i]] if source.labels[i] >= 0 else None) == expected
    if label == "nails":  # seen on a raised finger's back only
        assert {hand(0, i).nails is None for i in range(300) if hand(0, i).view == "palm"} == {True}


def test_captions_are_sentences() -> None:
    captions = Counter(rows(count=2000, label=None).captions)
    assert "the palm of a left hand with three fingers up" in captions
    assert "the back of a right hand with two fingers up and red nails" in captions
    assert "the palm of a right hand with no fingers up" in captions
    assert len(captions) > 60
    assert rows(count=3, label=None).labels is None


def test_every_number_and_side_is_as_likely() -> None:
    shown = [hand(4, i) for i in range(3000)]
    assert all(400 < count < 600 for count in Counter(one.fingers for one in shown).values())
    assert 1350 < sum(one.side == "left" for one in shown) < 1650
    assert all(len(one.pose.up) == one.fingers for one in shown)


def test_the_thumb_is_on_the_right_side() -> None:
    """A right palm has its thumb on the viewer's right, and so has a left back."""
    for i in range(100):
        shown = hand(0, i)
        assert shown.pose.thumb_right == ((shown.side, shown.view) in {("right", "palm"), ("left", "back")})


def test_the_hand_is_where_the_pose_says() -> None:
    """Mirrored poses give mirrored silhouettes, and more raised fingers more skin in the upper half."""
    base = replace(hand(0, 0).pose, turn=0.0, shift=0j, ground=(3, 0.0), sleeve=None, scale=1.0, skin="pale", palm=True)

    def skin(up: tuple[int, ...], thumb_right: bool = True) -> np.ndarray:
        image = np.asarray(draw_hand(replace(base, up=up, thumb_right=thumb_right), 96), int)
        return image[..., 0] > 150  # the wall of ground 3 is dark blue

    amounts = [int(skin(tuple(range(1, 1 + n)))[:48].sum()) for n in range(5)]
    assert amounts == sorted(amounts)
    assert all(b - a > 60 for a, b in itertools.pairwise(amounts))
    right, left = skin((0,)), skin((0,), thumb_right=False)
    thumb = right & ~skin(())
    assert thumb[:, 60:].sum() > 100 > 10 > thumb[:, :48].sum()
    assert (right != left[:, ::-1]).mean() < 0.02


def test_raised_fingers_can_be_counted_at_64_pixels() -> None:
    """A line across the fingertips meets as many stretches of skin as fingers are up."""
    base = replace(
        hand(0, 0).pose, turn=0.0, shift=0j, ground=(3, 0.0), sleeve=None, scale=0.95, skin="pale", wobble=(0,) * 5
    )
    for palm in (True, False):
        for fingers in range(1, 5):
            pose = replace(base, up=tuple(range(1, 1 + fingers)), palm=palm, spread=1.1, nails="bare")
            skin = np.asarray(draw_hand(pose, 64), int)[..., 0] > 150
            runs = [int(((row[1:] & ~row[:-1]).sum()) + row[0]) for row in skin[8:19]]
            assert max(runs) == fingers


def test_skins_differ() -> None:
    colours = np.array(list(SKINS.values()))
    assert np.abs(colours[1:] - colours[:-1]).sum(axis=1).min() > 60


def test_a_sheet_holds_its_hands() -> None:
    page = sheet(columns=3, rows=2, size=32, gap=2)
    assert page.size == (104, 70)
    assert np.array_equal(page.crop((2 + 34, 2, 2 + 34 + 32, 34)), draw_hand(hand(0, 1).pose, 32))

"""Preprocessing is open_clip's own; random changes follow their seed and nothing else."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipft.config.data_schema import AugmentConfig
from clipft.data.augment import train_transform

CONFIGS: list[dict[str, Any]] = [
    {"size": 32},
    {"size": [32, 32], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    {"size": 48, "resize_mode": "longest", "fill_color": 127},
    {"size": (32, 48), "interpolation": "bicubic"},
    {"size": 24, "mode": "RGB", "interpolation": "random"},
]
OFF = AugmentConfig(crop_scale=None)


def photo(width: int = 90, height: int = 60) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("cfg", CONFIGS)
@pytest.mark.parametrize("augment", [None, OFF])
def test_without_changes_it_is_open_clips_bit_for_bit(cfg: dict[str, Any], augment: AugmentConfig | None) -> None:
    theirs = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    for image in (photo(), photo(40, 100), photo(16, 16)):
        assert torch.equal(train_transform(cfg, augment)(image, 0), theirs(image))


@pytest.mark.parametrize("cfg", CONFIGS)
def test_with_changes_shape_and_range_are_the_models(cfg: dict[str, Any]) -> None:
    augment = AugmentConfig(crop_scale=(0.3, 1.0), flip=True, color_jitter=0.4)
    theirs = image_transform_v2(PreprocessCfg(**cfg), is_train=False)(photo())
    ours = train_transform(cfg, augment)(photo(), 3)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    white = Image.new("RGB", (50, 50), "white")
    plain = AugmentConfig(crop_scale=(0.5, 0.9))
    if cfg.get("resize_mode") != "longest":
        assert torch.equal(
            train_transform(cfg, plain)(white, 1), image_transform_v2(PreprocessCfg(**cfg), False)(white)
        )


def test_the_same_seed_gives_the_same_tensor() -> None:
    transform = train_transform({"size": 32}, AugmentConfig(crop_scale=(0.3, 1.0), flip=True, color_jitter=0.5))
    torch.manual_seed(1)
    first = transform(photo(), 7)
    torch.manual_seed(2)
    assert torch.equal(transform(photo(), 7), first)
    assert not torch.equal(transform(photo(), 8), first)


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_transform({"size": 32}, AugmentConfig(flip=True, color_jitter=0.5))(photo(), 7)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_mirrored_or_recoloured_unless_asked() -> None:
    """P11: flips and colour changes are off by default; a left hand stays one and red stays red."""
    assert (AugmentConfig().flip, AugmentConfig().color_jitter) == (False, 0.0)
    half = Image.new("RGB", (64, 64), "red")
    half.paste("blue", (0, 0, 32, 64))  # blue left, red right
    cfg = {"size": 32, "mean": [0.0] * 3, "std": [1.0] * 3}
    default = train_transform(cfg, AugmentConfig())
    flipping = train_transform(cfg, AugmentConfig(flip=True))
    assert all(default(half, seed)[2, :, 2].min() == 1.0 for seed in range(40))
    mirrored = sum(flipping(half, seed)[0, 16, 2].item() == 1.0 for seed in range(200))
    assert 60 < mirrored < 140


def test_crops_are_gentle_by_default() -> None:
    """P11: the default crop keeps at least four fifths of the picture's area."""
    ramp = Image.linear_gradient("L").convert("RGB")  # 256 rows from black to white
    transform = train_transform({"size": 64, "mean": [0.0] * 3, "std": [1.0] * 3}, AugmentConfig())
    for seed in range(50):
        column = transform(ramp, seed)[0, :, 32]
        assert column[-1] - column[0] > 0.75


def test_it_pickles() -> None:
    """P8: transforms cross a process border."""
    for augment in (None, AugmentConfig(flip=True, color_jitter=0.5)):
        transform = train_transform({"size": 32}, augment)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(photo(), 3), transform(photo(), 3))

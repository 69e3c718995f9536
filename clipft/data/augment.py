"""From an RGB picture to the model's input: random changes in training, open_clip's own preprocessing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transform import MaybeConvertMode, PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from torchvision.transforms import v2

from clipft.config.data_schema import AugmentConfig
from clipft.data.images import as_rgb

RATIO = (3 / 4, 4 / 3)
"""Width to height of a random crop (Inception's, as in torchvision)."""

Transform = Callable[[Image.Image, int], torch.Tensor]
"""A picture and the seed of its random changes to a (3, H, W) tensor."""


class TrainTransform:
    """Crop, flip and colours by the seed it is given, then the model's own tensor and normalisation.

    A class and not a closure, so that it pickles into spawned workers (P8).
    """

    def __init__(self, change: list[Callable[[Any], Any]], finish: list[Callable[[Any], Any]]) -> None:
        self._change = change
        self._finish = finish

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """A (3, H, W) tensor of the picture, changed as this seed says."""
        # torchvision draws from torch's global generator: lend it this seed, then put its state back. Only the CPU's;
        # torch.manual_seed would also reset the accelerator, and with it the dropout of the training step.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            value: Any = image
            for step in self._change:
                value = step(value)
        finally:
            torch.set_rng_state(state)
        for step in self._finish:
            value = step(value)
        assert isinstance(value, torch.Tensor)
        return value


@dataclass(frozen=True)
class AsRead:
    """Preprocessing for a picture that Pillow opened, made upright, 8 bits and on white as our own reading does first.

    Args:
        preprocess: open_clip's, an RGB picture to a (3, H, W) tensor.
    """

    preprocess: Callable[[Image.Image], torch.Tensor]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """A (3, H, W) tensor."""
        return self.preprocess(as_rgb(image))


def train_transform(preprocess_cfg: Mapping[str, Any], augment: AugmentConfig | None) -> TrainTransform:
    """Training preprocessing for a model's preprocess_cfg; with None it equals evaluation preprocessing bit for bit."""
    cfg = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), dict(preprocess_cfg)))
    steps = list(image_transform_v2(cfg, is_train=False).transforms)
    start = next(i for i, step in enumerate(steps) if isinstance(step, MaybeConvertMode))
    resize, finish = steps[:start], steps[start:]  # to size; to RGB, tensor, normalised
    if augment is None:
        return TrainTransform(resize, finish)
    change = resize if augment.crop_scale is None else [_random_crop(cfg, augment.crop_scale)]
    if augment.flip:
        change = [*change, v2.RandomHorizontalFlip()]
    if augment.color_jitter:
        strength = augment.color_jitter
        change = [*change, v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)]
    return TrainTransform(change, finish)


def _random_crop(cfg: Any, scale: tuple[float, float]) -> v2.RandomResizedCrop:
    size = (cfg.size, cfg.size) if isinstance(cfg.size, int) else tuple(cfg.size)
    bilinear = cfg.interpolation == "bilinear"  # open_clip takes bicubic for every other word
    interpolation = v2.InterpolationMode.BILINEAR if bilinear else v2.InterpolationMode.BICUBIC
    return v2.RandomResizedCrop(size, scale=scale, ratio=RATIO, interpolation=interpolation, antialias=True)

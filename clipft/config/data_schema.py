"""Images, captions and labels: one sentence a field.

Sources of the defaults stand beside them; title: CLIP (Radford et al., 2021).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from clipft.config.source_schema import Source, SourceOrFraction
from clipft.config.values import Fraction, Section, Templates


class AugmentConfig(Section):
    """Random changes to training images."""

    crop_scale: Annotated[tuple[float, float], Field(strict=False)] | None = (0.8, 1.0)
    """Share of the image's area a random crop keeps, [least, most]; null takes no random crop
    (a gentle one: open_clip crops 0.9 to 1, torchvision's default is 0.08 to 1)."""
    flip: bool = False
    """Mirror half of the images; off, since hands, text and "on the left" have sides."""
    color_jitter: Fraction = 0.0
    """Strength of random brightness, contrast and saturation; 0 leaves colours alone."""

    @field_validator("crop_scale")
    @classmethod
    def _is_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected [least, most] with 0 < least <= most <= 1")
        return value


class ShotsConfig(Section):
    """Few shots: how many images of each class, and which."""

    per_class: PositiveInt
    """Images to take of each class."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Another seed draws other images; run.seed changes nothing about them, unless it splits off data.val."""


class DataConfig(Section):
    """Where images, captions and labels come from."""

    train: Source
    """What to train on."""
    val: SourceOrFraction | None = 0.1
    """What to measure on: a source, or a fraction of train held out by image; null measures nothing."""
    templates: Templates = ("a photo of a {}.",)
    """Prompts that a class name is put into: one is drawn at random in training (all are averaged under
    loss.type: zero_shot), all are averaged in evaluation (CLIP, section 3.1.4)."""
    class_names: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    """Folder or label name to the words for it: {"0": zero}."""
    shots: ShotsConfig | PositiveInt | None = None
    """Few shots: so many images of each class train, such as 16 or {per_class: 16, seed: 1}; null takes all."""
    augment: AugmentConfig | Literal["none"] = AugmentConfig()
    """Random changes to training images, or none."""
    max_bad_fraction: Fraction = 0.01
    """The run stops when more than this share of the images cannot be decoded."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that decode images; auto takes the cores less one, at most 8; 0 decodes in the training process."""

    @property
    def draw(self) -> ShotsConfig | None:
        """The few shots in full: a number alone is the draw of seed 0."""
        return ShotsConfig(per_class=self.shots) if isinstance(self.shots, int) else self.shots

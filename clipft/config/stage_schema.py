"""A stage of a run: a span of epochs with its own plan. What it leaves out is as the run has it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from clipft.config.loss_schema import LossConfig
from clipft.config.optim_schema import GroupConfig
from clipft.config.values import Kinds, Layers, Pattern, PositiveFloat, Rate, Section


class StageTower(Section):
    """What of a tower trains in a stage, and how fast. A freeze key clears the run's for this tower, and train_only."""

    freeze_pattern: Pattern | None = None
    """As model.image.freeze_pattern."""
    freeze_layers: Layers | None = None
    """As model.image.freeze_layers."""
    freeze_backbone: bool | None = None
    """As model.image.freeze_backbone."""
    train_only: Kinds | None = None
    """As model.image.train_only."""
    norm: Literal["train", "freeze"] | None = None
    """As model.image.norm."""
    projection: Literal["train", "freeze"] | None = None
    """As model.image.projection."""
    lr: Rate | None = None
    """As model.image.lr."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """As model.image.layer_decay."""


class StageScale(Section):
    """logit_scale in a stage."""

    train: bool | None = None
    """Whether it trains."""
    lr: Rate | None = None
    """Its learning rate."""


class StageModel(Section):
    """What of the model trains in a stage."""

    logit_scale: StageScale = StageScale()
    image: StageTower = StageTower()
    text: StageTower = StageTower()


class StageOptim(Section):
    """Rates and their schedule in a stage, which warms up on its own."""

    lr: PositiveFloat | None = None
    """As optim.lr."""
    lr_heads: Rate | None = None
    """As optim.lr_heads."""
    lr_new: Rate | None = None
    """As optim.lr_new."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """As optim.weight_decay."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    """As optim.min_lr."""
    clip_norm: PositiveFloat | None = None
    """As optim.clip_norm."""
    schedule: Literal["cosine", "linear", "constant"] | None = None
    """As optim.schedule."""
    warmup: Annotated[float, Field(ge=0)] | None = None
    """As optim.warmup, of the stage's steps."""
    groups: Annotated[tuple[GroupConfig, ...], Field(strict=False)] | None = None
    """As optim.groups."""


class StageConfig(Section):
    """A span of epochs with one plan."""

    epochs: PositiveInt
    """How many epochs it lasts."""
    model: StageModel = StageModel()
    optim: StageOptim = StageOptim()
    loss: LossConfig | None = None
    """The loss of this stage; null is the run's."""
    reset_optimizer: bool = False
    """Start the optimiser afresh; otherwise its state stays for what stays trainable."""

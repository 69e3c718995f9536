"""The loop: how long, in which batches, on what. One sentence a field.

Sources of the defaults stand beside them; titles: FLYP (Finetune like you pretrain, CVPR 2023), WiSE-FT (Robust
fine-tuning of zero-shot models, CVPR 2022).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipft.config.forgetting_schema import EmaConfig, Regularize
from clipft.config.values import Section


class EarlyStopConfig(Section):
    """When to end before the last epoch: the run, or a stage that others follow."""

    metric: str | None = None
    """The metric to watch; null takes evaluate.best."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Evaluations of a stage without a new best before it ends."""


class TrainConfig(Section):
    """How long, in which batches, on what device."""

    epochs: Annotated[int, Field(ge=1)] = 10
    """Passes over the training data (10: FLYP, WiSE-FT)."""
    first_epoch: Annotated[int, Field(ge=0)] = 0
    """Which epoch of order and augmentation the run begins with, where it goes on from another run's weights."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Rows a step; under a contrastive loss the other rows are the negatives (FLYP and WiSE-FT: 256 and more, on
    several GPUs; 64 fits into one)."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows at once in memory: the batch is encoded in pieces with exactly the gradient of
    the whole; null takes it whole (of prompts of classes, 256)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto takes bf16 where the hardware computes it, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    early_stop: EarlyStopConfig | None = None
    """End when a metric no longer improves."""
    regularize: Regularize | None = None
    """A pull back to the base, or a list of several; null has none."""
    ema: EmaConfig | None = None
    """An average of the weights, which is what is measured and saved; null takes the weights themselves."""

    @model_validator(mode="after")
    def _micro_fits(self) -> TrainConfig:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size: {self.micro_batch_size} is more than batch_size: {self.batch_size}")
        return self

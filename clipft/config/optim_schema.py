"""The optimiser, its rates and their schedule: one sentence a field.

Sources of the defaults stand beside them; titles: FLYP (Finetune like you pretrain, CVPR 2023), WiSE-FT (Robust
fine-tuning of zero-shot models, CVPR 2022), LIFT (Long-tail learning with foundation model: heavy fine-tuning hurts,
ICML 2024), CLIP (Radford et al., 2021).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from clipft.config.values import Pattern, PositiveFloat, Rate, Section


class GroupConfig(Section):
    """A rate or a decay for the parameters whose name a pattern matches."""

    pattern: Pattern
    """A regular expression over full parameter names, under the number rule of freeze_pattern."""
    lr: Rate | None = None
    """Learning rate of what it matches: a number or a factor of optim.lr."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of what it matches."""


class OptimConfig(Section):
    """The optimiser, its rates and their schedule."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """The optimiser; sgd has momentum."""
    lr: PositiveFloat = 1.0e-5
    """Learning rate of the backbones (1e-5: FLYP)."""
    lr_heads: Rate | None = None
    """Learning rate of projections and classifier: a number or a factor of lr; null takes lr."""
    lr_new: Rate | None = None
    """Learning rate of LoRA, adapters and prompt vectors: a number or a factor of lr; null takes lr."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Pull toward zero, never on biases, norms, embeddings and scales (0.1: FLYP, WiSE-FT)."""
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.98)
    """Adam's two averages (CLIP, table 18)."""
    eps: PositiveFloat = 1.0e-6
    """Adam's guard against division by zero (CLIP, table 18, ViT)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd (0.9: LIFT)."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """The rate that the schedule falls to (0: open_clip_train's cosine)."""
    clip_norm: PositiveFloat | None = 1.0
    """Gradients are scaled down to this norm; null never (1.0: WiSE-FT)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up (cosine: FLYP, WiSE-FT)."""
    warmup: Annotated[float, Field(ge=0)] = 0.05
    """Steps over which the rate rises: below 1 a fraction of all steps, else a number of steps
    (FLYP and WiSE-FT: 500 steps, more than a small run has; hence a fraction)."""
    groups: Annotated[tuple[GroupConfig, ...], Field(strict=False)] = ()
    """Rates and decay by parameter name; the last pattern that matches rules."""

    @field_validator("betas")
    @classmethod
    def _below_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("expected two numbers from 0 to below 1")
        return value

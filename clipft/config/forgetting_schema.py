"""Keys against forgetting: pulls back to the base, and an average of the weights. One sentence a field.

Titles: L2-SP (Explicit Inductive Bias for Transfer Learning with Convolutional Networks, ICML 2018), ProLIP (CLIP's
Visual Embedding Projector is a Few-shot Cornucopia, 2024), CLIPFit (Vision-Language Model Fine-Tuning via Simple
Parameter-Efficient Modification, EMNLP 2024), LwF (Learning without Forgetting, ECCV 2016), ZSCL (Preventing Zero-Shot
Transfer Degradation in Continual Learning of Vision-Language Models, ICCV 2023), FT-CLIP (CLIP Itself is a Strong
Fine-tuner, 2022).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from clipft.config.values import Section


class RegularizeConfig(Section):
    """A pull back to the base, added to the loss."""

    type: Literal["l2sp", "feature_distill", "zero_shot_distill"]
    """l2sp: the sum of squared differences to the base's own weights (L2-SP; ProLIP). feature_distill: 1 - cosine to
    the base's features of the same images and texts (CLIPFit). zero_shot_distill: the divergence from the base's
    softmax over the batch's captions (LwF, ZSCL)."""
    weight: Annotated[float, Field(ge=0)]
    """What it is multiplied by; 0 is off (ProLIP: 1 / shots for l2sp; CLIPFit: 2 or 8 for feature_distill of text)."""
    towers: Literal["image", "text", "both"] = "both"
    """Whose features feature_distill holds; both takes those of the two that train."""

    @model_validator(mode="after")
    def _towers_of_features(self) -> RegularizeConfig:
        if self.towers != "both" and self.type != "feature_distill":
            raise ValueError(f"towers: is for type: feature_distill, not {self.type}")
        return self


class EmaConfig(Section):
    """An exponential average of the weights that train."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """The average's share of itself at each step; (1 + t) / (10 + t) at step t while that is less (ours: between
    0.995, published for 750 steps, and FT-CLIP's 0.9998 for tens of thousands)."""


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, (list, tuple)) else "one"


Regularize = Annotated[
    Annotated[RegularizeConfig, Tag("one")]
    | Annotated[tuple[RegularizeConfig, ...], Field(strict=False), Tag("several")],
    Discriminator(_one_or_several),
]
"""One pull, or a list of several."""


def regularizers(value: RegularizeConfig | tuple[RegularizeConfig, ...] | None) -> tuple[RegularizeConfig, ...]:
    """The pulls that have a weight."""
    several = (value,) if isinstance(value, RegularizeConfig) else value or ()
    return tuple(one for one in several if one.weight)

"""What training makes small: one sentence a field.

Sources of the defaults stand beside them; title: WiSE-FT (Robust fine-tuning of zero-shot models, CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from clipft.config.values import PositiveFloat, Section, refuse


class LossConfig(Section):
    """What training makes small."""

    type: Literal["auto", "contrastive", "siglip", "zero_shot", "classifier"] = "auto"
    """auto takes siglip where the model has a logit_bias, else contrastive; zero_shot tells an image's class from the
    prompts of all classes, as it is measured; classifier trains a linear head on labels."""
    features: Literal["projected", "pooled"] = "projected"
    """What the classifier sees: the projected feature, or the pooled one before the projection."""
    init: Literal["prompts", "random"] = "prompts"
    """The classifier starts from the text features of the class prompts (WiSE-FT, section 3), or at random."""
    cosine: bool = False
    """Normalise the classifier's weights too, so that logits are scaled cosines."""
    bias: bool = True
    """Whether the classifier has a bias, started at zero."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes, under classifier and zero_shot."""
    class_weights: dict[str, PositiveFloat] | Literal["balanced"] | None = None
    """Weight of each class under classifier and zero_shot: {name: weight} (1 for the rest), or balanced (inverse to
    its count)."""

    @field_validator("type", mode="before")
    @classmethod
    def _no_captioning(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in ("caption", "captioning", "coca"):
            raise ValueError(
                f"{value}: a captioning loss is not built; CoCa trains contrastively here, with its decoder frozen: "
                "write auto"
            )
        return value

    @model_validator(mode="after")
    def _classifier_only(self) -> LossConfig:
        refuse(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[str]:
        if self.type == "classifier":
            if self.features == "pooled" and self.init == "prompts":
                yield (
                    "init: prompts have the projected width, not the pooled one; "
                    "write init: random with features: pooled"
                )
            return
        of_classes = () if self.type == "zero_shot" else ("label_smoothing", "class_weights")
        for key in ("features", "init", "cosine", "bias", *of_classes):
            if getattr(self, key) != type(self).model_fields[key].default:
                kinds = "classifier or zero_shot" if key in of_classes else "classifier"
                yield f"{key}: is for type: {kinds}, not {self.type}"

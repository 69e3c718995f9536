"""What is measured, and when: one sentence a field.

Title: CoCoOp (Conditional prompt learning for vision-language models, CVPR 2022).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipft.config.source_schema import Source
from clipft.config.values import Section, Strings, Templates


class EvaluateConfig(Section):
    """When to measure, and which figure chooses the best checkpoint."""

    every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    """When to measure: at each epoch's end, or every so many steps."""
    best: str | None = None
    """The metric that chooses the best checkpoint, such as zero_shot_top1; null keeps the last only."""
    keep: Source | None = None
    """Rows to watch for forgetting, measured beside data.val at each evaluation and at epoch 0; as a metric's name,
    keep.image_to_text_r5."""
    keep_templates: Templates | None = None
    """Prompts for the class names of `keep`; null takes data.templates."""
    novel_classes: Literal["half"] | Annotated[Strings, Field(min_length=1)] | None = None
    """Classes that leave training and are measured apart, by name; half is the second half of them, in their order
    (CoCoOp, section 4.1). Gives base_top1, novel_top1 and harmonic_mean."""

    @model_validator(mode="after")
    def _templates_of_something(self) -> EvaluateConfig:
        if self.keep_templates is not None and self.keep is None:
            raise ValueError("keep_templates: are for the class names of keep, which is null")
        return self

"""Which two strategies do not go together, each with what its refusal says."""

from __future__ import annotations

REFUSED = {
    ("freeze_image", "freeze_text"): "each freeze what the other trains",
    ("full", "freeze_image"): "freeze_image freezes the image tower, and full trains of it",
    ("full", "freeze_text"): "freeze_text freezes the text tower, and full trains of it",
    ("freeze_image", "last_layers"): "freeze_image freezes the image tower, and last_layers trains of it",
    ("freeze_text", "last_layers"): "freeze_text freezes the text tower, and last_layers trains of it",
    ("freeze_image", "lora"): "another strategy trains the whole text tower",
    ("freeze_text", "lora"): "another strategy trains the whole image tower",
    ("full", "lora"): "lora stands for weights that stand still",
    ("prompt", "linear_probe"): "prompt trains vectors of the text tower",
    ("freeze_image", "linear_probe"): "freeze_image trains the text tower",
    ("logit_scale", "linear_probe"): "logit_scale has no say",
}


def refusal_of(one: str, other: str) -> str | None:
    """What the refusal of a pair says, in either order; None where it works."""
    return REFUSED.get((one, other)) or REFUSED.get((other, one))

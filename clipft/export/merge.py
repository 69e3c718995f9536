"""New parameters put into the weights they stand beside, so that the model is an ordinary open_clip model again."""

from __future__ import annotations

from clipft.export.fingerprint import probe_whole, same_features
from clipft.model.clip_model import ClipModel
from clipft.model.lora import has_lora, merge_lora

SAME = 1e-5
"""How far a normalised feature may be from that of the model with its LoRA unmerged."""


def merge(clip: ClipModel) -> str:
    """Merge LoRA in place, where the model has any; returns how the features compared, else nothing.

    Args:
        clip: the model as it was loaded for this, in evaluation mode; nobody else has it.

    Raises:
        ClipftError: the merged model answers otherwise (P51).
    """
    if not has_lora(clip.model):
        return ""
    with clip.without_prompts():  # a known text need not be a class's
        before = probe_whole(clip)
        merge_lora(clip.model, clip.image, clip.text)
        after = probe_whole(clip)
    advice = "; if weights have grown very large, take an earlier checkpoint of the run"
    difference = same_features(before, after, SAME, "the model with its LoRA merged gives features that", advice)
    return f"LoRA merged into the weights: normalised features differ by at most {difference:.1e}; "

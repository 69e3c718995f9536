"""What a figure of metrics.jsonl is called in a table."""

from __future__ import annotations

_OF_ANSWERS = {
    "mean_per_class": "mean per class",
    "ece": "calibration error",
    "confident_wrong": "wrong above 0.9",
    "nll": "negative log-likelihood",
}

WORDS = {
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "zero-shot top-5",
    "base_top1": "base top-1",
    "novel_top1": "novel top-1",
    "harmonic_mean": "harmonic mean",
    **_OF_ANSWERS,
    "classifier_top1": "classifier top-1",
    "classifier_top5": "classifier top-5",
    **{f"classifier_{figure}": f"classifier {words}" for figure, words in _OF_ANSWERS.items()},
    "loss": "val loss",
    **{f"image_to_text_r{k}": f"image to text R@{k}" for k in (1, 5, 10)},
    **{f"text_to_image_r{k}": f"text to image R@{k}" for k in (1, 5, 10)},
}
"""A figure's name in a table."""


def words_of(figure: str) -> str:
    """A figure's name in a sentence, also of one under `keep.`."""
    name = figure.removeprefix("keep.")
    return WORDS[name] if name == figure else f"kept {WORDS[name]}"

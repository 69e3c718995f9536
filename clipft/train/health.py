"""Whether a run still has a model: the signs of a collapse, and the sentence that ends it (P25)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipft.train.checkpoint import Kept
from clipft.words import some

# Measured: pretrained bases 0.15 to 0.80 (four data sets), well tuned 0.13 to 0.55; tiny random models 0.86 to 0.97;
# tiny models that learn below 0.99, at rates ten times too high and above 0.998 to 1.0000.
COLLAPSED, SOUND = 0.99, 0.95
_WHAT = {
    "image_similarity": "images that say different things",
    "text_similarity": "different texts",
}


def collapsed(first: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """What has become nearly the same to the model, in words; None while all is well.

    A model that began by holding its inputs for alike (random weights, prompt vectors or a feature adapter that were
    drawn, rows that hardly differ) says nothing.

    Args:
        first: `Measurement.similarity` before the first step.
        now: that of now.
    """
    for name, what in _WHAT.items():
        if name in first and name in now and first[name] < SOUND and now[name] > COLLAPSED:
            return f"two {what} now have a mean cosine of {now[name]:.4f} ({first[name]:.2f} before the first step)"
    return None


def may_pass(what: str) -> str:
    """The sentence for a model with random weights, which may begin like this and still learn."""
    return (
        f"the embeddings have collapsed: {what}. From random weights that may pass; if the next epochs do not change "
        "it, lower the rates"
    )


def end_of_collapse(what: str, rates: Sequence[float], last_good: Kept | None) -> str:
    """The sentence that a collapsed run ends with.

    Args:
        what: what `collapsed` said.
        rates: the peak rates of the run.
        last_good: the newest checkpoint that was measured and sound.
    """
    kept = "none was saved before, so the base itself is the last good model"
    if last_good is not None:
        kept = f"the last good checkpoint is {last_good.folder}"
    named = some((f"{rate:g}" for rate in rates), 5)
    return (
        f"the embeddings have collapsed: {what}, so every query gets the same answer. The usual cause is a learning "
        f"rate far too high (here {named}); start anew with rates a tenth of that and another run.dir; {kept}"
    )

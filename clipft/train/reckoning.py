"""The run in words before its first step: data, batch, steps, rates."""

from __future__ import annotations

from pathlib import Path

from clipft.data.captions import all_texts, caption_report, example_prompts
from clipft.data.rows import Rows
from clipft.model.tokenizer import Tokenizer
from clipft.train.prepare import Prepared
from clipft.train.watch import peak_rates


def reckoning(prepared: Prepared) -> list[tuple[str, str]]:
    """Headed lines: what the rows are, what a batch holds, how many steps, at which rates."""
    return [
        ("data", _data(prepared)),
        ("batch", _batch(prepared)),
        ("steps", _steps(prepared)),
        ("rates", " · ".join(f"{part} {rate:g}" for part, rate in peak_rates(prepared).items())),
    ]


def captions_in_words(rows: Rows, templates: tuple[str, ...], tokenizer: Tokenizer) -> str:
    """How long the training texts are beside the context, with an example of those that will be cut (P6)."""
    return str(caption_report(all_texts(rows, templates), tokenizer.count, tokenizer.context_length))


def _data(prepared: Prepared) -> str:
    rows, val = prepared.splits.train, prepared.splits.val
    words = f"{len(rows):,} images"
    if rows.labels is not None:
        counts = rows.class_counts()
        words += f" in {len(rows.classes)} classes ({counts.min()} to {counts.max()} each)"
    words += f" · val {len(val):,}" if val is not None else " · val none: nothing will be measured"
    return "\n".join([words, *_shown(prepared)])


def _shown(prepared: Prepared) -> list[str]:
    """The first row with what it says, and the prompts of the first classes (P61)."""
    rows, templates = prepared.splits.train, prepared.config.data.templates
    if rows.captions is not None:
        return [f"first: {Path(rows.images[0]).name}  {_short(rows.captions[0])!r}"]
    prompts = example_prompts(rows.classes, templates)
    return [
        f"first: {Path(rows.images[0]).name}  class {rows.classes[int(rows.labels[0])]!r}"
        if rows.labels is not None
        else "",
        *(f"prompt: {prompt!r}" for prompt in prompts),
    ]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _batch(prepared: Prepared) -> str:
    sums = prepared.arithmetic
    words = f"{sums.batch_size} pairs x 1 process"
    if sums.micro_batch_size < sums.batch_size:
        words += f", encoded {sums.micro_batch_size} at a time with the gradient of the whole"
    if prepared.loss == "classifier":
        return f"{sums.batch_size} images x 1 process"
    if sums.positives < 1.005:
        return f"{words} · {sums.negatives:.0f} negatives a row"
    return (
        f"{words} · a row shares its caption or class with about {sums.positives - 1:.1f} others: "
        f"they are its positives, {sums.negatives:.1f} negatives a row"
    )


def _steps(prepared: Prepared) -> str:
    sums, optim = prepared.arithmetic, prepared.config.optim
    left = sums.rows - sums.steps_per_epoch * sums.batch_size
    tail = f" ({left} rows sit out each epoch, others each time)" if left else ""
    fall = f"{optim.schedule} to {optim.min_lr:g}" if optim.schedule != "constant" else "constant"
    return f"{sums.steps_per_epoch} an epoch x {sums.epochs} = {sums.steps} · warm-up {sums.warmup} · {fall}{tail}"

"""A stage of a run in figures, a headed line each: its rows, what a batch holds, how many steps, at which rates."""

from __future__ import annotations

from pathlib import Path

from clipft.config.forgetting_schema import EmaConfig
from clipft.config.schema import Config
from clipft.data.captions import example_prompts
from clipft.data.rows import Rows
from clipft.data.shots import shots_in_words
from clipft.train.average import NO_AVERAGE
from clipft.train.pieces import texts_at_once
from clipft.train.prepare import Prepared
from clipft.train.scale_search import search_in_words
from clipft.train.watch import peak_rates
from clipft.words import counted, some


def reckoning(prepared: Prepared) -> list[tuple[str, str]]:
    """Headed lines: what the rows are, what a batch holds, how many steps, at which rates."""
    data = [("data", _data(prepared))]
    if prepared.keep is not None:
        data.append(("keep", _keep(prepared.keep, prepared.config)))
    if prepared.searches:
        left_out = [("ema", NO_AVERAGE)] if prepared.config.train.ema else []
        return [*data, ("search", search_in_words(prepared)), *left_out]
    return [
        *data,
        ("batch", _batch(prepared)),
        ("steps", _steps(prepared)),
        ("rates", " · ".join(f"{part} {rate:g}" for part, rate in peak_rates(prepared).items())),
        *(("pull", pull.in_words()) for pull in prepared.pulls),
        *([("ema", _average(ema))] if (ema := prepared.config.train.ema) else []),
    ]


def _data(prepared: Prepared) -> str:
    rows, val = prepared.splits.train, prepared.splits.val
    words = f"{len(rows):,} images"
    if rows.labels is not None:
        counts = [n for name, n in zip(rows.classes, rows.class_counts(), strict=True) if name not in rows.novel]
        each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        words += f" in {len(counts)} classes ({each} each)"
    if prepared.config.data.draw is not None:
        words += f" · {shots_in_words(prepared.config.data.draw)}"
    words += f" · val {len(val):,}" if val is not None else " · val none: nothing will be measured"
    novel = [f"novel classes, in val alone: {some(rows.novel)}"] if rows.novel else []
    return "\n".join([words, *novel, *_shown(prepared)])


def _keep(keep: Rows, config: Config) -> str:
    """What is watched for forgetting, and with which prompts (P62)."""
    words = f"{keep.name}: {counted(len(keep), 'row')}, watched for what is forgotten"
    templates = config.evaluate.keep_templates or config.data.templates
    shown = () if keep.labels is None else example_prompts(keep.classes, templates, count=2)
    return "\n".join([words, *(f"prompt: {prompt!r}" for prompt in shown)])


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
    return "\n".join(words for words in (_rows(prepared), _texts(prepared)) if words)


def _texts(prepared: Prepared) -> str:
    """How many texts of which length go through the text tower in a step, and how many of them in one graph (P55).

    Said where prompt vectors in it train, or where the prompts of all classes are too many for one graph.
    """
    sums, captions = prepared.arithmetic, prepared.splits.train.captions is not None
    trains = {p.name for p in prepared.plan.trainable}
    vectors = any(p.tower == "text" and p.group == "prompt" for p in prepared.plan.trainable)
    templates = 1 if captions else len(prepared.config.data.templates)
    texts, of_classes = sums.distinct * templates, prepared.loss == "zero_shot"
    if not of_classes:
        texts = min(texts, sums.batch_size)
    at_once = texts_at_once(
        texts,
        sums.batch_size,
        prepared.config.train.micro_batch_size,
        trains=not trains.isdisjoint(prepared.meta.text.body_names()),
        of_classes=of_classes,
    )
    if not vectors and not (of_classes and at_once < texts):
        return ""
    kind = "captions" if captions else "classes" if templates == 1 else "prompts of classes"
    pieces = f", {at_once} at a time" if at_once < texts else ""
    head = "prompt vectors: up to" if vectors else "texts:"
    return f"{head} {texts} {kind} x {prepared.meta.context_length} tokens of text a step{pieces}"


def _rows(prepared: Prepared) -> str:
    sums = prepared.arithmetic
    words = f"{sums.batch_size} pairs x 1 process"
    if sums.micro_batch_size < sums.batch_size:
        words += f", encoded {sums.micro_batch_size} at a time with the gradient of the whole"
    if prepared.loss in ("classifier", "zero_shot"):
        against = f", each against the prompts of {sums.distinct} classes" if prepared.loss == "zero_shot" else ""
        return words.replace(" pairs ", " images ") + against
    if sums.positives < 1.005:
        return f"{words} · {sums.negatives:.0f} negatives a row"
    return (
        f"{words} · {prepared.repeats.repeated:.0%} of the rows share their caption, class or image with others, on "
        f"average {sums.positives - 1:.1f} in a batch: these are positives of each other, {sums.negatives:.1f} "
        "negatives a row"
    )


def _steps(prepared: Prepared) -> str:
    sums, optim = prepared.arithmetic, prepared.config.optim
    left = sums.rows - sums.steps_per_epoch * sums.batch_size
    tail = f" ({left} rows sit out each epoch, others each time)" if left else ""
    fall = f"{optim.schedule} to {optim.min_lr:g}" if optim.schedule != "constant" else "constant"
    return f"{sums.steps_per_epoch} an epoch x {sums.epochs} = {sums.steps} · warm-up {sums.warmup} · {fall}{tail}"


def _average(ema: EmaConfig) -> str:
    return (
        f"measured and saved is an average of the weights, decay {ema.decay:g} ((1 + t) / (10 + t) at step t while "
        "that is less); training goes on from the weights themselves, which a checkpoint holds beside it"
    )

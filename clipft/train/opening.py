"""What is said before the first step: what trains, on what, for how long, at which rates, from which weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipft.config.forgetting_schema import EmaConfig
from clipft.config.load import Loaded
from clipft.config.schema import Config
from clipft.data.captions import all_texts, caption_report, example_prompts
from clipft.data.names import counted, some
from clipft.data.rows import Rows
from clipft.data.shots import shots_in_words
from clipft.data.sources import keep_overlap
from clipft.model.fill import RANDOM_BASE
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.tokenizer import Tokenizer
from clipft.report.amounts import in_bytes
from clipft.report.freeze_table import print_freeze_report
from clipft.report.strategy_view import print_strategy
from clipft.report.train_view import TrainView
from clipft.train import arithmetic
from clipft.train.keeper import Keeper
from clipft.train.loop import Progress
from clipft.train.prepare import Prepared
from clipft.train.scale_search import search_in_words
from clipft.train.start import Started
from clipft.train.watch import peak_rates


def show_plan(stages: Sequence[Prepared], loaded: Loaded, view: TrainView, notes: tuple[str, ...]) -> None:
    """Say where the run goes, what will train, on what, for how long; then what is odd about it.

    Args:
        stages: the run's, of which the first is told whole; see `show_stage` for the others.
    """
    prepared = stages[0]
    for note in notes:
        view.note(note)
    view.show(lambda console: print_strategy(loaded, console))
    if len(stages) > 1:
        view.facts([("stages", stages_in_words(stages))])
    _show_report(prepared, view)
    for note in (*loaded.notes, *prepared.splits.notes):
        view.note(note)
    for warning in prepared.splits.warnings:
        view.warn(warning)
    _say_kept(prepared, view)
    for stage in stages:
        if not stage.searches:  # the warnings are about steps
            _warn(stage, view)


def _say_kept(prepared: Prepared, view: TrainView) -> None:
    if prepared.keep is None:
        return
    for note in prepared.keep.notes:
        view.note(note)
    for warning in keep_overlap(prepared.splits.train, prepared.keep):
        view.warn(warning)


def show_stage(prepared: Prepared, view: TrainView) -> None:
    """Say what the next stage trains, for how long and at which rates."""
    stage = prepared.stage
    state = "afresh" if stage.fresh_optimizer else "as it stands, for what stays trainable"
    view.facts([("stage", f"{stage.number + 1} of {stage.count} begins; optimiser {state}")])
    _show_report(prepared, view)


def stages_in_words(stages: Sequence[Prepared]) -> str:
    """A line a stage: how long it is and how much trains."""
    return "\n".join(
        f"{p.stage.number + 1} of {p.stage.count}: {p.config.train.epochs} epochs, "
        f"{p.plan.totals()['trainable']:,} parameters train"
        + (f", {p.loss} loss" if len({s.loss for s in stages}) > 1 else "")
        for p in stages
    )


def _show_report(prepared: Prepared, view: TrainView) -> None:
    optimizer, base = prepared.config.optim.name, prepared.meta.base
    view.show(lambda console: print_freeze_report(prepared.plan, console, base=base, optimizer=optimizer))
    view.facts(reckoning(prepared))


def _warn(prepared: Prepared, view: TrainView) -> None:
    pretrained, stage = prepared.meta.base != RANDOM_BASE, prepared.stage
    place = f"stage {stage.number + 1}: " if stage.count > 1 else ""
    for warning in arithmetic.warnings(
        prepared.config, prepared.plan, prepared.arithmetic, loss=prepared.loss, pretrained=pretrained
    ):
        view.warn(f"{place}{warning}")


def show_start(prepared: Prepared, started: Started, view: TrainView) -> None:
    """Say what the weights, the device and the precision turned out to be, and how long the captions are."""
    lines = [("weights", started.clip.base), ("compute", f"{started.device} in {started.precision.name}")]
    if started.objective.needs_text:
        rows, templates = prepared.splits.train, prepared.config.data.templates
        lines.append(("captions", captions_in_words(rows, templates, started.clip.tokenizer)))
        if isinstance(started.clip.tokenizer, PromptTokenizer):
            lines.append(("prompts", layouts_in_words(rows, templates, started.clip.tokenizer)))
    view.facts(lines)
    for note in started.clip.notes:
        (view.warn if note.startswith("RANDOM") else view.note)(note)
    for note in started.precision.notes:
        view.warn(note)


def disk_in_words(keeper: Keeper, stages: Sequence[Prepared]) -> str:
    """How many checkpoints of which size a run keeps, and where.

    Args:
        stages: all of the run's.
    """
    return f"{counted(_kept(stages), 'checkpoint')} of {in_bytes(keeper.bytes)} into {keeper.run}"


def _kept(stages: Sequence[Prepared]) -> int:
    """How many checkpoints lie there in the end, at most: no more of the last than the run writes."""
    last = stages[-1]
    keep, evaluate = last.config.checkpoint.keep, last.config.evaluate
    ends = 1 if last.searches else last.stage.last_epoch
    apart = ends > keep.last or (evaluate.every != "epoch" and not last.searches)  # the best is else one of the last
    return min(keep.last, ends) + (1 if evaluate.best and keep.best and apart else 0)


def resume_in_words(progress: Progress, started: Started) -> str:
    """What a checkpoint brought back, and the rate before and after (P35)."""
    peak = max(group["peak"] for group in started.stepper.optimizer.param_groups)
    before = started.schedule.rate(peak, max(0, progress.step - 1))
    after = started.schedule.rate(peak, progress.step) if progress.step < started.schedule.end else 0.0
    return (
        f"weights, optimiser, schedule and random states of step {progress.step} (epoch {progress.epoch}); "
        f"learning rate {before:.3g} at that step, {after:.3g} at the next, as scheduled"
    )


def reckoning(prepared: Prepared) -> list[tuple[str, str]]:
    """Headed lines: what the rows are, what a batch holds, how many steps, at which rates."""
    data = [("data", _data(prepared))]
    if prepared.keep is not None:
        data.append(("keep", _keep(prepared.keep, prepared.config)))
    if prepared.searches:
        return [*data, ("search", search_in_words(prepared))]
    return [
        *data,
        ("batch", _batch(prepared)),
        ("steps", _steps(prepared)),
        ("rates", " · ".join(f"{part} {rate:g}" for part, rate in peak_rates(prepared).items())),
        *(("pull", pull.in_words()) for pull in prepared.pulls),
        *([("ema", _average(ema))] if (ema := prepared.config.train.ema) else []),
    ]


def captions_in_words(rows: Rows, templates: tuple[str, ...], tokenizer: Tokenizer) -> str:
    """How long the training texts are beside the context, with an example of those that will be cut (P6)."""
    return str(caption_report(all_texts(rows, templates), tokenizer.count, tokenizer.context_length))


def layouts_in_words(rows: Rows, templates: tuple[str, ...], tokenizer: PromptTokenizer) -> str:
    """What the model reads for the prompts of three classes, or for the first caption (P53)."""
    texts = example_prompts(rows.classes, templates) if rows.captions is None else (rows.captions[0],)
    return "\n".join(tokenizer.layout(text) for text in texts)


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
    """How many texts of which length go through the text tower in a step, where prompt vectors in it train (P55)."""
    if not any(p.tower == "text" and p.group == "prompt" for p in prepared.plan.trainable):
        return ""
    sums, captions = prepared.arithmetic, prepared.splits.train.captions is not None
    templates = 1 if captions else len(prepared.config.data.templates)
    texts = sums.distinct * templates
    if prepared.loss != "zero_shot":
        texts = min(texts, sums.batch_size)
    kind = "captions" if captions else "classes" if templates == 1 else "prompts of classes"
    pieces = f", {sums.micro_batch_size} at a time" if sums.micro_batch_size < texts else ""
    return f"prompt vectors: up to {texts} {kind} x {prepared.meta.context_length} tokens of text a step{pieces}"


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

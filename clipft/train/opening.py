"""What is said before the first step: what trains, on what, for how long, at which rates, from which weights."""

from __future__ import annotations

from collections.abc import Sequence

from clipft.config.load import Loaded
from clipft.data.captions import all_texts, caption_report, example_prompts
from clipft.data.rows import Rows
from clipft.data.sources import keep_overlap
from clipft.model.fill import RANDOM_BASE
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.tokenizer import Tokenizer
from clipft.report.amounts import in_bytes
from clipft.report.freeze_table import print_freeze_report
from clipft.report.strategy_view import print_strategy
from clipft.report.train_view import TrainView
from clipft.train import arithmetic
from clipft.train.batch_statistics import batch_statistics_note
from clipft.train.keeper import Keeper
from clipft.train.loop import Progress
from clipft.train.prepare import Prepared
from clipft.train.reckoning import reckoning
from clipft.train.start import Started
from clipft.words import counted


def show_plan(
    stages: Sequence[Prepared], loaded: Loaded, view: TrainView, notes: tuple[str, ...], *, resumes: bool = False
) -> None:
    """Say where the run goes, what will train, on what, for how long; then what is odd about it.

    Args:
        stages: the run's, of which the first is told whole; see `show_stage` for the others.
        resumes: whether the run was begun before, and its warnings were told then.
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
    if not resumes:
        _warn(stages, view)


def _say_kept(prepared: Prepared, view: TrainView) -> None:
    if prepared.keep is None:
        return
    for note in prepared.keep.notes:
        view.note(note)
    if prepared.keep.labels is None and prepared.config.evaluate.keep_templates is not None:
        view.note("evaluate.keep_templates is not used: evaluate.keep has captions and no classes")
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
        f"{p.stage.number + 1} of {p.stage.count}: {counted(p.config.train.epochs, 'epoch')}, "
        f"{p.plan.totals()['trainable']:,} parameters train"
        + (f", {p.loss} loss" if len({s.loss for s in stages}) > 1 else "")
        for p in stages
    )


def _show_report(prepared: Prepared, view: TrainView) -> None:
    optimizer, base = prepared.config.optim.name, prepared.meta.base
    searches = prepared.searches
    view.show(
        lambda console: print_freeze_report(prepared.plan, console, base=base, optimizer=optimizer, searches=searches)
    )
    view.facts(reckoning(prepared))
    noisy = batch_statistics_note(prepared.meta.model, prepared.plan, prepared.config.train.batch_size)
    if noisy is not None:
        view.note(noisy)


def _warn(stages: Sequence[Prepared], view: TrainView) -> None:
    """What is seldom meant, each once, with the stages that it is about where not all are."""
    about: dict[str, list[int]] = {}
    for prepared in stages:
        if prepared.searches:  # the warnings are about steps
            continue
        pretrained = prepared.meta.base != RANDOM_BASE
        for warning in arithmetic.warnings(
            prepared.config, prepared.plan, prepared.arithmetic, loss=prepared.loss, pretrained=pretrained
        ):
            about.setdefault(warning, []).append(prepared.stage.number + 1)
    for warning, numbers in about.items():
        some = f"stage {' and '.join(map(str, numbers))}: " if len(numbers) < len(stages) else ""
        view.warn(f"{some}{warning}")


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
    if progress.stopped_early:
        return f"weights of step {progress.step} (epoch {progress.epoch}), at which early stopping has ended its stage"
    peak = max(group["peak"] for group in started.stepper.optimizer.param_groups)
    before = started.schedule.rate(peak, max(0, progress.step - 1))
    after = started.schedule.rate(peak, progress.step) if progress.step < started.schedule.end else 0.0
    return (
        f"weights, optimiser, schedule and random states of step {progress.step} (epoch {progress.epoch}); "
        f"learning rate {before:.3g} at that step, {after:.3g} at the next, as scheduled"
    )


def captions_in_words(rows: Rows, templates: tuple[str, ...], tokenizer: Tokenizer) -> str:
    """How long the training texts are beside the context, with an example of those that will be cut (P6)."""
    return str(caption_report(all_texts(rows, templates), tokenizer.count, tokenizer.context_length))


def layouts_in_words(rows: Rows, templates: tuple[str, ...], tokenizer: PromptTokenizer) -> str:
    """What the model reads for the prompts of three classes, or for the first caption (P53)."""
    texts = example_prompts(rows.classes, templates) if rows.captions is None else (rows.captions[0],)
    return "\n".join(tokenizer.layout(text) for text in texts)

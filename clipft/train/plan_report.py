"""A plan without its run, made without weights, as `freeze-report`, `inspect` and `init` show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clipft.config.schema import Config
from clipft.config.stages import stage_configs
from clipft.data.shots import shots_in_words
from clipft.data.sources import read_source
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.cost import Cost
from clipft.model.plan import Plan
from clipft.model.rates import judge_patterns
from clipft.train.average import NO_AVERAGE
from clipft.train.batch_statistics import batch_statistics_note
from clipft.train.copies import bytes_of_copies
from clipft.train.cost import StepShape, step_cost
from clipft.train.loss_section import check_rows, check_start, resolve_loss
from clipft.train.precision import expected
from clipft.train.prepare import check_pooled, drawn_projections, plan_of, stage_named


@dataclass(frozen=True)
class PlanReport:
    """A plan without its run, for `clipft freeze-report` and `inspect`.

    Args:
        meta: the model that the plan is for.
        base: where the weights would come from.
        notes: what the plan could not know.
        cost: of a step; None where it was not asked for, or none is taken.
        searches: whether what trains is computed, at no rate.
    """

    meta: MetaModel
    plan: Plan
    base: str
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
    searches: bool = False

    def to_json(self) -> dict[str, Any]:
        """What `freeze-report --json` prints."""
        plan = self.plan.to_json()
        if self.searches:
            plan["parameters"] = [{**parameter, "lr": None} for parameter in plan["parameters"]]
        return {**plan, "cost": None if self.cost is None else self.cost.to_json()}


def report_plans(config: Config, *, with_cost: bool = True) -> tuple[PlanReport, ...]:
    """The plan of each stage without weights; the data is asked only for its classes, and only where they matter.

    Args:
        with_cost: count what a step costs, which takes a second or more.

    Raises:
        InputError: a model, or keys for it, that `prepare_stages` refuses too.
    """
    sketches = []
    for number, own in enumerate(stage_configs(config)):
        with stage_named(config, number):
            sketches.append(_sketch(own, first=number == 0))
    sketches = _judged(sketches)
    reports = [sketch.report for sketch in sketches]
    searches = len(reports) == 1 and reports[0].plan.only_scale
    if with_cost and not searches:
        plans = [report.plan for report in reports]
        for number, sketch in enumerate(sketches):
            with stage_named(config, number):
                reports[number] = _with_cost(sketch, plans)
    first = reports[0]
    reports[0] = replace(first, notes=(*first.notes, *_run_notes(config, searches)), searches=searches)
    return tuple(reports)


def _run_notes(config: Config, searches: bool) -> Iterator[str]:
    """What bears on the plans and is not in them, without reading a row."""
    if config.data.draw is not None:
        yield f"data.shots: {shots_in_words(config.data.draw)}"
    if searches:
        yield "the best value is computed from features encoded once, in place of epochs; no rate is used"
        if config.train.ema is not None:
            yield NO_AVERAGE


def report_plan(config: Config, *, with_cost: bool = True) -> PlanReport:
    """The plan of a stage as if it were a run of its own; see `report_plans`."""
    (sketch,) = _judged([_sketch(config)])
    return _with_cost(sketch, [sketch.report.plan]) if with_cost else sketch.report


@dataclass(frozen=True)
class _Sketch:
    """A stage's report before its cost, and what the cost hangs on."""

    config: Config
    loss: str
    classes: tuple[str, ...]
    report: PlanReport


def _judged(sketches: Sequence[_Sketch]) -> list[_Sketch]:
    """The sketches of all stages, with what is to be said of the patterns of `optim.groups`."""
    plans = judge_patterns([(sketch.config.optim, sketch.report.plan) for sketch in sketches])
    return [replace(s, report=replace(s.report, plan=plan)) for s, plan in zip(sketches, plans, strict=True)]


def _sketch(config: Config, *, first: bool = True) -> _Sketch:
    meta = build_meta(config.model)
    loss = resolve_loss(config.loss, has_bias=meta.model.logit_bias is not None)
    if first:
        check_start(config.loss, drawn_projections(config.model, meta))
    prompt = config.model.text.prompt
    own_vectors = prompt is not None and prompt.class_specific
    classes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    if loss in ("classifier", "zero_shot") or own_vectors:
        try:
            rows = read_source(config.data.train, config.data.class_names, "data.train")
        except InputError as error:
            sizes = {"classifier": "the classifier's size", "zero_shot": "the cost of a step"}
            what = sizes.get(loss, "the number of prompt vectors")
            unread = (f"{what} is not known, since the classes cannot be read: {error}",)
        else:
            check_rows(rows, loss, "data.train")
            classes = rows.classes
            meta = build_meta(config.model, classes=classes) if own_vectors else meta
    check_pooled(meta)
    plan = plan_of(config, meta, loss, classes)
    noisy = batch_statistics_note(meta.model, plan, config.train.batch_size)
    notes = (*meta.resized, *unread, *([noisy] if noisy else []))
    return _Sketch(config, loss, classes, PlanReport(meta, plan, meta.base, notes))


def _with_cost(sketch: _Sketch, plans: Sequence[Plan]) -> PlanReport:
    """The report with what a step costs; without, where classes that it is about cannot be read.

    Args:
        plans: of all stages of the run.
    """
    config, report = sketch.config, sketch.report
    if sketch.loss == "zero_shot" and not sketch.classes:
        return report
    shape = step_shape(config, sketch.loss, len(sketch.classes))
    copies = bytes_of_copies(config.train, report.meta, report.plan, plans)
    cost = step_cost(report.meta, report.plan, shape, copies=copies)
    return replace(report, notes=(*report.notes, *shape.precision.notes), cost=cost)


def step_shape(config: Config, loss: str, classes: int = 0) -> StepShape:
    """What of a config a step's cost hangs on; `classes` is how many there are, where the loss is about all of them."""
    train = config.train
    device, precision = expected(train.device, train.precision)
    return StepShape(
        loss=loss,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        precision=precision,
        pooled=config.loss.features == "pooled",
        optimizer=config.optim.name,
        device=device,
        texts=classes * len(config.data.templates) if loss == "zero_shot" else None,
        classes=classes if loss == "zero_shot" else None,
    )

"""Before any weight is loaded: the data read, the plan made on the meta device, the run worked out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from clipft.config.loss_schema import LossConfig
from clipft.config.schema import Config, ModelConfig
from clipft.config.stages import stage_configs
from clipft.data.captions import RepeatReport, repeats
from clipft.data.rows import Rows
from clipft.data.shots import shots_in_words
from clipft.data.sources import Splits, read_keep, read_source, read_splits
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.classifier import Classifier
from clipft.model.cost import Cost
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.recipe import recipe_of
from clipft.model.sources import check_there
from clipft.train.arithmetic import Arithmetic, one_search, work_out
from clipft.train.cost import StepShape, step_cost
from clipft.train.precision import choose_device, expected
from clipft.train.prompting import check_prompt
from clipft.train.regularize import Pull, settle


@dataclass(frozen=True)
class Stage:
    """A span of a run's epochs, counted from the run's start.

    Args:
        number: counted from 0.
        count: how many stages the run has.
        first_epoch: epochs before it.
        first_step: steps before it.
        last_epoch: epochs until its end.
        fresh_optimizer: whether the optimiser starts afresh.
    """

    number: int
    count: int
    first_epoch: int
    first_step: int
    last_epoch: int
    fresh_optimizer: bool


@dataclass(frozen=True)
class Prepared:
    """What is known of a run, or of one of its stages, before its weights.

    Args:
        config: what was asked; of a stage, as if it were a run of its own.
        loss: contrastive, siglip, zero_shot or classifier; `auto` is resolved.
        splits: the rows.
        meta: the model without weights.
        plan: what trains.
        repeats: how often captions and classes come again.
        arithmetic: steps, warm-up, negatives.
        data_sha256: changes when a row, a caption or a class does.
        stage: which span of the run this is.
        pulls: what `train.regularize` comes to under the plan.
        all_plans: those of all stages of the run.
        keep: rows to watch for forgetting; None watches none.
        model: the run's own `model` section, from which all stages' model is built.
    """

    config: Config
    loss: str
    splits: Splits
    meta: MetaModel
    plan: Plan
    repeats: RepeatReport
    arithmetic: Arithmetic
    data_sha256: str
    stage: Stage
    pulls: tuple[Pull, ...] = ()
    all_plans: tuple[Plan, ...] = ()
    keep: Rows | None = None
    model: ModelConfig = field(kw_only=True)

    @property
    def searches(self) -> bool:
        """Whether the answer is computed in place of steps: nothing but logit_scale trains, in the run's one stage."""
        return self.plan.only_scale and self.stage.count == 1

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, a label's index into them."""
        return self.splits.train.classes


def prepare(config: Config) -> Prepared:
    """The run's first stage; see `prepare_stages`."""
    return prepare_stages(config)[0]


def prepare_stages(config: Config) -> tuple[Prepared, ...]:
    """Read the data and make the plan of each stage; one where the config names none.

    Raises:
        InputError: the data cannot be read, the loss does not fit, nothing trains, or the run makes no sense.
    """
    refuse_many_processes()
    choose_device(config.train.device)
    check_there(recipe_of(config.model).source)
    splits = read_splits(config.data, config.run.seed, config.evaluate.novel_classes)
    keep = None if config.evaluate.keep is None else read_keep(config.evaluate.keep, config.data)
    measured = {"data.val": splits.val, "evaluate.keep": keep}
    for key, rows in {"data.train": splits.train, **measured}.items():
        if rows is not None:
            check_prompt(config.model.text.prompt, rows, key, classes=splits.train.classes)
    meta = build_meta(config.model, classes=splits.train.classes)
    check_pooled(meta)
    found, digest = repeats(splits.train), data_sha256(splits, keep)
    stages: list[Prepared] = []
    configs = stage_configs(config)
    for number, own in enumerate(configs):
        with stage_named(config, number):
            loss = _loss_of(own, meta, splits, stages[-1] if stages else None)
            plan = plan_of(own, meta, loss, splits.train.classes)
            search = plan.only_scale and len(configs) == 1
            if search:
                _check_search(own.loss)
            sums = (one_search if search else work_out)(own, len(splits.train), found)
        stage = _stage(config, number, sums)
        stages.append(
            Prepared(own, loss, splits, meta, plan, found, sums, digest, stage, keep=keep, model=config.model)
        )
    plans = tuple(stage.plan for stage in stages)
    two_encoders = config.model.name is None and config.model.pretrained is None  # joined by projections that are drawn
    drawn = [
        tower.name
        for tower in (meta.image, meta.text)
        if tower.projection_is_new or (two_encoders and tower.has_projection)
    ]
    pulls = settle(config.train, [(stage.plan, stage.loss) for stage in stages], drawn)
    return tuple(replace(stage, pulls=own, all_plans=plans) for stage, own in zip(stages, pulls, strict=True))


def _check_search(loss: LossConfig) -> None:
    """What is searched for is the best scale of the plain loss."""
    for key in ("label_smoothing", "class_weights"):
        if getattr(loss, key) != LossConfig.model_fields[key].default:
            raise InputError(
                f"loss.{key}: where logit_scale alone trains, it is fitted to the plain loss; leave it out"
            )


@contextmanager
def stage_named(config: Config, number: int) -> Iterator[None]:
    """Say which stage a mistake is of, where there are several."""
    try:
        yield
    except InputError as error:
        if not config.stages:
            raise
        raise InputError(f"stages[{number}]: {error}") from None


def _stage(config: Config, number: int, sums: Arithmetic) -> Stage:
    """The place of a stage in its run."""
    if not config.stages:
        return Stage(0, 1, 0, 0, config.train.epochs, fresh_optimizer=True)
    before = sum(stage.epochs for stage in config.stages[:number])
    own = config.stages[number]
    first_step = before * sums.steps_per_epoch
    return Stage(number, len(config.stages), before, first_step, before + own.epochs, own.reset_optimizer)


def _loss_of(config: Config, meta: MetaModel, splits: Splits, before: Prepared | None) -> str:
    """The loss of a stage, checked against the rows and the stage before."""
    loss = resolve_loss(config.loss, has_bias=meta.model.logit_bias is not None)
    if before is not None and before.loss == "classifier":
        if loss != "classifier":
            raise InputError(
                f"loss.type: {loss} comes after a stage with a classifier, which would be lost; put it first"
            )
        _check_same_head(config.loss, before.config.loss)
    if loss in ("contrastive", "siglip") and config.train.batch_size < 2:
        raise InputError(f"train.batch_size: a {loss} loss needs at least 2 rows a step: one pair has no negatives")
    check_rows(splits.train, loss, "data.train")
    if splits.val is not None:
        check_rows(splits.val, loss, "data.val")
    class_weights(config.loss, splits.train)
    return loss


def _check_same_head(loss: LossConfig, before: LossConfig) -> None:
    """A classifier goes on from stage to stage as it was made."""
    for key in ("features", "cosine", "bias"):
        now, then = (str(getattr(section, key)).lower() for section in (loss, before))
        if now != then:
            raise InputError(f"loss.{key}: {now}, but the stage before has made its classifier with {then}; write that")


def plan_of(config: Config, meta: MetaModel, loss: str, classes: Sequence[str]) -> Plan:
    """The plan on the meta device; under a classifier loss the head for these classes is part of it."""
    if loss == "classifier" and classes:
        meta.model.classifier = classifier_for(config.loss, meta, len(classes), device="meta")
    return make_plan(
        meta.model,
        meta.image,
        meta.text,
        name=meta.name,
        config=config.model,
        loss=loss,
        features=config.loss.features,
        optim=config.optim,
    )


@dataclass(frozen=True)
class PlanReport:
    """A plan without its run, for `clipft freeze-report` and `inspect`.

    Args:
        meta: the model that the plan is for.
        base: where the weights would come from.
        notes: what the plan could not know.
        cost: of a step; None where it was not asked for.
    """

    meta: MetaModel
    plan: Plan
    base: str
    notes: tuple[str, ...] = ()
    cost: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """What `freeze-report --json` prints."""
        return {**self.plan.to_json(), "cost": None if self.cost is None else self.cost.to_json()}


def report_plans(config: Config, *, with_cost: bool = True) -> tuple[PlanReport, ...]:
    """The plan of each stage without weights; see `report_plan`."""
    reports = []
    for number, own in enumerate(stage_configs(config)):
        with stage_named(config, number):
            reports.append(report_plan(own, with_cost=with_cost))
    first = reports[0]
    reports[0] = replace(first, notes=(*first.notes, *_run_notes(config, reports)))
    return tuple(reports)


def _run_notes(config: Config, reports: Sequence[PlanReport]) -> Iterator[str]:
    """What bears on the plans and is not in them, without reading a row."""
    if config.data.draw is not None:
        yield f"data.shots: {shots_in_words(config.data.draw)}"
    if len(reports) == 1 and reports[0].plan.only_scale:
        yield "the best value is computed from features encoded once, in place of epochs; no rate is used"


def report_plan(config: Config, *, with_cost: bool = True) -> PlanReport:
    """The plan of one stage without weights; the data is asked only for its classes, and only by a classifier.

    Args:
        with_cost: count what a step costs, which takes a second or more.

    Raises:
        InputError: a model, or keys for it, that `prepare` refuses too.
    """
    meta = build_meta(config.model)
    loss = resolve_loss(config.loss, has_bias=meta.model.logit_bias is not None)
    prompt = config.model.text.prompt
    own_vectors = prompt is not None and prompt.class_specific
    classes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    if loss in ("classifier", "zero_shot") or own_vectors:
        try:
            classes = read_source(config.data.train, config.data.class_names, "data.train").classes
        except InputError as error:
            sizes = {"classifier": "the classifier's size", "zero_shot": "the cost of a step"}
            what = sizes.get(loss, "the number of prompt vectors")
            unread = (f"{what} is not known, since the classes cannot be read: {error}",)
        else:
            meta = build_meta(config.model, classes=classes) if own_vectors else meta
    check_pooled(meta)
    notes = (*meta.resized, *unread)
    plan = plan_of(config, meta, loss, classes)
    if not with_cost or (loss == "zero_shot" and not classes):
        return PlanReport(meta, plan, meta.base, notes)
    shape = step_shape(config, loss, len(classes))
    cost = step_cost(meta, plan, shape)
    return PlanReport(meta, plan, meta.base, (*notes, *shape.precision.notes), cost)


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
    )


def classifier_for(config: LossConfig, meta: MetaModel, num_classes: int, *, device: str) -> Classifier:
    """A head of the width that `loss.features` names."""
    width = meta.image.pooled_width if config.features == "pooled" else meta.image.embed_dim
    with torch.device(device):
        return Classifier(num_classes, width, cosine=config.cosine, bias=config.bias)


def resolve_loss(config: LossConfig, *, has_bias: bool) -> str:
    """The loss that `loss.type` means for this model.

    Raises:
        InputError: the sigmoid loss for a model without a bias (P23).
    """
    if config.type == "auto":
        return "siglip" if has_bias else "contrastive"
    if config.type == "siglip" and not has_bias:
        raise InputError(
            "loss.type: siglip needs a model with a logit_bias, which this one lacks; write auto, which takes "
            "contrastive for it"
        )
    return config.type


def check_pooled(meta: MetaModel) -> None:
    """Refuse a model whose tower gives a feature a token, not one: no loss here knows what to do with them."""
    for tower in (meta.image, meta.text):
        if tower.describe().pooling == "none":
            raise InputError(
                f"model.name: {meta.name}: its {tower.name} tower has no pooling (pool_type: none), so it gives a "
                "feature for each token and cannot be trained here; name a model that pools"
            )


def check_rows(rows: Rows, loss: str, key: str) -> None:
    """Refuse rows without a class where the loss is about classes."""
    if loss not in ("classifier", "zero_shot"):
        return
    if rows.labels is None:
        raise InputError(
            f"loss.type: {loss} needs a class for each row, and {key} ({rows.name}) has captions only; name "
            f"a label column"
        )
    without = int((rows.labels < 0).sum())
    if without:
        first = rows.place(int((rows.labels < 0).argmax()))
        raise InputError(
            f"{key}: {without} rows have no class, the first is {first}; loss.type: {loss} needs one for each"
        )


def class_weights(loss: LossConfig, rows: Rows) -> Tensor | None:
    """(C,) weights of the classes, or None for equal ones.

    Raises:
        InputError: `loss.class_weights` names a class that is not there.
    """
    if loss.class_weights is None:
        return None
    if loss.class_weights == "balanced":
        counts = torch.as_tensor(rows.class_counts(), dtype=torch.float32)
        return counts.sum() / (len(counts) * counts.clamp(min=1))
    unknown = [name for name in loss.class_weights if name not in rows.classes]
    if unknown:
        raise InputError(
            f"loss.class_weights: {unknown[0]!r} is not a class; the classes are {', '.join(rows.classes[:20])}"
        )
    return torch.tensor([loss.class_weights.get(name, 1.0) for name in rows.classes])


def data_sha256(splits: Splits, keep: Rows | None = None) -> str:
    """A digest of what trains and what measures: images by name, captions, labels, classes, in order."""
    digest = hashlib.sha256()
    for rows in (splits.train, splits.val, *(() if keep is None else (keep,))):
        if rows is None:
            digest.update(b"none")
            continue
        digest.update(json.dumps(rows.classes).encode())
        for i in range(len(rows)):
            digest.update(os.path.basename(rows.images[i]).encode("utf-8", "surrogatepass") + b"\0")
            if rows.captions is not None:
                digest.update(rows.captions[i].encode("utf-8", "surrogatepass") + b"\0")
        if rows.labels is not None:
            digest.update(rows.labels.tobytes())
    return digest.hexdigest()


def refuse_many_processes() -> None:
    """More than one process is not built yet."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise InputError(
            f"WORLD_SIZE is {world}: training in more than one process is not built yet; start clipft without torchrun"
        )

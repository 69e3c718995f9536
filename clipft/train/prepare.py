"""Before any weight is loaded: the data read, the plan made on the meta device, the run worked out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from clipft.config.schema import Config, ModelConfig
from clipft.config.stages import stage_configs
from clipft.data.captions import RepeatReport, repeats
from clipft.data.digest import data_sha256
from clipft.data.headers import refuse_no_pictures
from clipft.data.rows import Rows
from clipft.data.sources import Splits, read_keep, read_splits
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.rates import judge_patterns
from clipft.model.recipe import recipe_of
from clipft.model.sources import check_there
from clipft.train.arithmetic import Arithmetic, one_search, work_out
from clipft.train.loss_section import (
    check_rows,
    check_same_head,
    check_search,
    check_start,
    class_weights,
    classifier_for,
    resolve_loss,
)
from clipft.train.precision import choose_device
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

    def stopped_in_words(self) -> str:
        """What early stopping ends."""
        if self.number + 1 == self.count:
            return "the run ends here (train.early_stop)"
        stage = f"stage {self.number + 1} of {self.count}"
        return f"{stage} ends here (train.early_stop); the next begins with epoch {self.last_epoch + 1}"


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
    def asks_classes(self) -> bool:
        """Whether rows with a class are told apart by class, as a search does, and not by their captions."""
        return has_classes(self.splits.train)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, a label's index into them."""
        return self.splits.train.classes

    def all_rows(self) -> Iterator[tuple[str, Rows, Sequence[str]]]:
        """Where rows were named, the rows, and the templates of their classes: to train, to measure, to watch."""
        templates = self.config.data.templates
        yield "data.train", self.splits.train, templates
        if self.splits.val is not None:
            yield "data.val", self.splits.val, templates
        if self.keep is not None:
            yield "evaluate.keep", self.keep, self.config.evaluate.keep_templates or templates


def has_classes(rows: Rows) -> bool:
    """Whether any of the rows has a class."""
    return rows.labels is not None and bool((rows.labels >= 0).any())


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
    refuse_no_pictures(splits.train, config.data.max_bad_fraction)
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
                check_search(own.loss)
            sums = (one_search if search else work_out)(own, len(splits.train), found)
        stage = _stage(config, number, sums)
        stages.append(
            Prepared(own, loss, splits, meta, plan, found, sums, digest, stage, keep=keep, model=config.model)
        )
    plans = judge_patterns([(stage.config.optim, stage.plan) for stage in stages])
    pulls = settle(config.train, [(stage.plan, stage.loss) for stage in stages], drawn_projections(config.model, meta))
    return tuple(
        replace(stage, plan=plan, pulls=own, all_plans=plans)
        for stage, plan, own in zip(stages, plans, pulls, strict=True)
    )


def drawn_projections(model: ModelConfig, meta: MetaModel) -> list[str]:
    """The towers whose projection is no part of the base: reset, or between two encoders that never met."""
    two_encoders = model.name is None and model.pretrained is None
    towers = (meta.image, meta.text)
    return [t.name for t in towers if t.projection_is_new or (two_encoders and t.has_projection)]


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
        check_same_head(config.loss, before.config.loss)
    if before is None:
        check_start(config.loss, drawn_projections(config.model, meta))
    if loss in ("contrastive", "siglip") and config.train.batch_size < 2:
        raise InputError(f"train.batch_size: a {loss} loss needs at least 2 rows a step: one pair has no negatives")
    check_rows(splits.train, loss, "data.train")
    if splits.val is not None:
        check_rows(splits.val, loss, "data.val")
    class_weights(config.loss, splits.train)
    return loss


def plan_of(config: Config, meta: MetaModel, loss: str, classes: Sequence[str]) -> Plan:
    """The plan on the meta device; under a classifier loss the head for these classes is part of it.

    Its `idle` patterns are yet to be judged.
    """
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


def check_pooled(meta: MetaModel) -> None:
    """Refuse a model whose tower gives a feature a token, not one: no loss here knows what to do with them."""
    for tower in (meta.image, meta.text):
        if tower.describe().pooling == "none":
            raise InputError(
                f"model.name: {meta.name}: its {tower.name} tower has no pooling (pool_type: none), so it gives a "
                "feature for each token and cannot be trained here; name a model that pools"
            )


def refuse_many_processes() -> None:
    """More than one process is not built yet."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise InputError(
            f"WORLD_SIZE is {world}: training in more than one process is not built yet; start clipft without torchrun"
        )

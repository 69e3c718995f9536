"""A tuned model and its base, looked at one after the other on the same rows: `evaluate` and `embed` do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

from clipft.config.schema import Config
from clipft.config.source_schema import Source
from clipft.config.stages import classifier_init
from clipft.data.novel import novel_of
from clipft.data.rows import Rows
from clipft.data.sources import read_keep, read_source, read_splits, trained_on
from clipft.errors import InputError
from clipft.evaluate.target import Target, open_target
from clipft.evaluate.zeroshot import class_embeddings
from clipft.model.additions import base_config
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast
from clipft.model.runfiles import Which
from clipft.words import some

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Asked:
    """What both models are looked at with.

    Args:
        rows: the rows, their labels as the run numbers its classes.
        templates: prompts for class names.
        pooled: whether the classifier, if any, sees features before the projection.
        keep: rows that the config watches for forgetting; None where it watches none, or they were not asked for.
        keep_templates: prompts for their class names.
    """

    rows: Rows
    templates: tuple[str, ...]
    pooled: bool
    keep: Rows | None = None
    keep_templates: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sides(Generic[T]):
    """What was found on either side of a training.

    Args:
        asked: what both were looked at with.
        base_name: what the base is.
        base: found in it; None where it was not asked for or is not known.
        tuned: found in the tuned model; None for a config.
        notes: what a reader should know.
    """

    asked: Asked
    base_name: str
    base: T | None
    tuned: T | None
    notes: tuple[str, ...]


def look_at_sides(
    name: str,
    data: Source | None,
    look: Callable[[ClipModel, Asked], T],
    *,
    which: Which | None,
    device: torch.device,
    with_base: bool,
    classifier_too: bool,
    keep_too: bool = False,
    adapter: str | None = None,
    autocast: Autocast = nullcontext,
) -> Sides[T]:
    """Look at what `name` stands for, then at the base it was tuned from.

    Args:
        name: a run, a checkpoint, a config (its base alone), an exported model; see `open_target`.
        data: the rows to look with; None takes the validation rows of the run's config.
        look: is called with each model on `device`; one of them is in memory at a time.
        which: a run's best or last checkpoint.
        device: where the models go.
        with_base: whether to look at the base too, where it is known.
        classifier_too: whether a run's classifier will be asked, which has no output for a strange class.
        keep_too: whether to read evaluate.keep of the run's config.
        adapter: a file to put on `name`, which is the base then.
        autocast: the precision's context, for the prompts that a run's classifier started from.
    """
    target = open_target(name, which, need_data=data is None, adapter=adapter)
    rows, notes = rows_for(target, data, classifier_too=classifier_too)
    notes = (*target.notes, *rows.notes, *notes)
    asked = Asked(rows, target.templates, target.pooled)
    if keep_too and target.config is not None and target.config.evaluate.keep is not None:
        keep, said = keep_rows(target.config, target.config.evaluate.keep)
        asked = replace(asked, keep=keep, keep_templates=target.config.evaluate.keep_templates or target.templates)
        notes = (*notes, *said)
    config, tuned, first_name, base = target.config, target.tuned, target.clip.base, target.base
    target.clip.model.to(device)
    first = look(target.clip, asked)
    if not tuned:
        return Sides(asked, first_name, first, None, notes)
    head = zero_shot_head(target) if classifier_too else None
    classes, templates = target.classes, target.templates
    del target  # two large models need not fit side by side
    if not with_base or (config is None and base is None):
        known = config is not None or base is not None
        why = () if known else ("an exported model does not bring its base: name the run for a comparison",)
        return Sides(asked, first_name, None, first, (*notes, *why))
    if base is None:
        assert config is not None
        base = build(base_config(config.model), config.run.seed)
    base.model.to(device)
    if head is not None:  # what the run's own started as
        head.start_from(class_embeddings(base, classes, templates, device=device, autocast=autocast), base.scale)
        base.model.classifier = head.to(device)
    return Sides(asked, base.base, look(base, asked), first, notes)


def zero_shot_head(target: Target) -> Classifier | None:
    """A head of the form of the run's classifier, where that started from prompts, as the base has them too."""
    own, config = target.classifier, target.config
    if own is None or config is None or classifier_init(config) != "prompts":
        return None
    return Classifier(*own.weight.shape, cosine=own.cosine, bias=own.bias is not None)


def keep_rows(config: Config, source: Source) -> tuple[Rows | None, tuple[str, ...]]:
    """The rows to watch for forgetting; a sentence where they are not there any more."""
    try:
        rows = read_keep(source, config.data)
    except InputError as error:
        return None, (f"what is kept is not measured: {error}",)
    return rows, rows.notes


def rows_for(target: Target, data: Source | None, *, classifier_too: bool) -> tuple[Rows, tuple[str, ...]]:
    """The rows to look with, their labels as the target numbers its classes, and what to say about them.

    Args:
        target: the model.
        data: the rows; None takes the validation rows of its config.
        classifier_too: whether a run's classifier will be asked, which has no output for a strange class.
    """
    notes: tuple[str, ...] = ()
    config = target.config
    if data is not None:
        rows = read_source(data, target.class_names, "--data")
        if config is not None and target.tuned:
            novel = config.evaluate.novel_classes
            notes = trained_on(rows, data, config.data, config.run.seed, novel)
    elif config is None:
        raise InputError(f"--data: {target.name} brings no data of its own; name some, such as --data folder:DIR")
    else:
        splits = read_splits(config.data, config.run.seed, config.evaluate.novel_classes)
        if splits.val is None:
            raise InputError("--data: the config has data.val: null; name some, such as --data folder:DIR")
        rows, notes = splits.val, splits.warnings
    return _aligned(rows, target, notes, classifier_too)


def _aligned(rows: Rows, target: Target, notes: tuple[str, ...], classifier_too: bool) -> tuple[Rows, tuple[str, ...]]:
    if rows.labels is None or not target.classes:
        return rows, notes
    strange = sorted(set(rows.classes) - set(target.classes))
    if not strange or (classifier_too and target.classifier is not None):
        # refuses what a classifier has no output for (P60)
        return replace(rows.aligned(target.classes), novel=_novel(target)), notes
    return rows, (
        *notes,
        f"{rows.name}: {len(strange)} of its {len(rows.classes)} classes are not the run's ({some(strange)}): "
        "zero-shot among this data's own classes",
    )


def _novel(target: Target) -> tuple[str, ...]:
    """The classes that the run left out of its training, to be measured apart."""
    if target.config is None or target.config.evaluate.novel_classes is None:
        return ()
    return novel_of(target.classes, target.config.evaluate.novel_classes, target.class_names)

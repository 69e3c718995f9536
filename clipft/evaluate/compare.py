"""`clipft evaluate`: a tuned model beside its base, on the same rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clipft.config.schema import Config
from clipft.config.source_schema import Source
from clipft.data.names import some
from clipft.data.rows import Rows
from clipft.data.sources import read_source, read_splits, trained_on
from clipft.errors import InputError
from clipft.evaluate.features import Autocast
from clipft.evaluate.measure import Measurement, Watch, measure, unwatched
from clipft.evaluate.target import Target, open_target
from clipft.model.build import ClipModel, build
from clipft.model.saved import Which


@dataclass(frozen=True)
class Evaluation:
    """Figures of a base and of what was tuned from it.

    Args:
        target: what was evaluated, as the user wrote it.
        base_name: what the base is.
        base: its figures; None where it was not asked for or is not known.
        tuned: the tuned model's figures; None for a config.
        notes: what a reader of the figures should know.
    """

    target: str
    base_name: str
    base: Measurement | None
    tuned: Measurement | None
    notes: tuple[str, ...]

    def measurements(self) -> list[Measurement]:
        """Those that were made, the base first."""
        return [measurement for measurement in (self.base, self.tuned) if measurement is not None]

    def to_json(self) -> dict[str, Any]:
        """`base` and `tuned` by the names of metrics.jsonl (null where not measured), and on what."""
        last = self.measurements()[-1]
        return {
            "base": None if self.base is None else self.base.figures(),
            "tuned": None if self.tuned is None else self.tuned.figures(),
            "target": self.target,
            "data": last.data,
            "counts": last.counts,
            "prompts": list(last.prompts),
            "unreadable": [str(fault) for fault in last.faults],
            "notes": list(self.notes),
        }


def evaluate_target(
    name: str,
    data: Source | None,
    *,
    which: Which | None = None,
    device: torch.device,
    autocast: Autocast = nullcontext,
    batch_size: int = 64,
    workers: int | Literal["auto"] = "auto",
    with_base: bool = True,
    watch: Watch = unwatched,
) -> Evaluation:
    """Measure what `name` stands for, and the base it was tuned from.

    Args:
        name: a run, a checkpoint, a config (its base alone), an exported model; see `open_target`.
        data: what to measure on; None takes the validation rows of the run's config.
        which: a run's best or last checkpoint.
        device: where to compute.
        autocast: the precision's context.
        batch_size: images encoded at once.
        workers: processes that decode images.
        with_base: whether to measure the base too, where it is known.
        watch: shows progress.
    """
    target = open_target(name, which, need_data=data is None)
    rows, notes = _rows(target, data)
    templates, pooled, config = target.templates, target.pooled, target.config

    def figures(clip: ClipModel) -> Measurement:
        clip.model.to(device)
        return measure(
            clip,
            rows,
            templates=templates,
            batch_size=batch_size,
            workers=workers,
            device=device,
            autocast=autocast,
            pooled=pooled,
            texts_too=True,
            watch=watch,
        )

    notes = (*target.notes, *rows.notes, *notes)
    first, base_name = figures(target.clip), target.clip.base
    if not target.tuned:
        return Evaluation(name, base_name, first, None, notes)
    del target  # two large models need not fit side by side
    if config is None or not with_base:
        return Evaluation(name, base_name, None, first, (*notes, *_why_no_base(config)))
    base = build(config.model, config.run.seed)
    return Evaluation(name, base.base, figures(base), first, notes)


def _why_no_base(config: Config | None) -> tuple[str, ...]:
    return (
        () if config is not None else ("an exported model does not bring its base: evaluate the run for a comparison",)
    )


def _rows(target: Target, data: Source | None) -> tuple[Rows, tuple[str, ...]]:
    """The rows to measure on, their labels as the target numbers its classes, and what to say about them."""
    notes: tuple[str, ...] = ()
    config = target.config
    if data is not None:
        rows = read_source(data, target.class_names, "--data")
        if config is not None and target.tuned:
            notes = trained_on(rows, data, config.data, config.run.seed)
    elif config is None:
        raise InputError(f"--data: {target.name} brings no data of its own; name some, such as --data folder:DIR")
    else:
        splits = read_splits(config.data, config.run.seed)
        if splits.val is None:
            raise InputError("--data: the config has data.val: null; name some, such as --data folder:DIR")
        rows, notes = splits.val, splits.warnings
    return _aligned(rows, target, notes)


def _aligned(rows: Rows, target: Target, notes: tuple[str, ...]) -> tuple[Rows, tuple[str, ...]]:
    if rows.labels is None or not target.classes:
        return rows, notes
    strange = sorted(set(rows.classes) - set(target.classes))
    if not strange or target.classifier is not None:
        return rows.aligned(target.classes), notes  # refuses what a classifier has no output for (P60)
    return rows, (
        *notes,
        f"{rows.name}: {len(strange)} of its {len(rows.classes)} classes are not the run's ({some(strange)}): "
        "zero-shot among this data's own classes",
    )

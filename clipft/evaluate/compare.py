"""`clipft evaluate`: a tuned model beside its base, on the same rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clipft.config.source_schema import Source
from clipft.evaluate.features import Autocast
from clipft.evaluate.measure import Measurement, Watch, measure, unwatched
from clipft.evaluate.sides import Asked, look_at_sides
from clipft.model.build import ClipModel
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

    def figures(clip: ClipModel, asked: Asked) -> Measurement:
        return measure(
            clip,
            asked.rows,
            templates=asked.templates,
            batch_size=batch_size,
            workers=workers,
            device=device,
            autocast=autocast,
            pooled=asked.pooled,
            texts_too=True,
            watch=watch,
        )

    sides = look_at_sides(name, data, figures, which=which, device=device, with_base=with_base, classifier_too=True)
    return Evaluation(name, sides.base_name, sides.base, sides.tuned, sides.notes)

"""`clipft evaluate`: a tuned model beside its base, on the same rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from clipft.config.source_schema import Source
from clipft.evaluate.measure import KEPT, Measurement, Watch, measure, unwatched
from clipft.evaluate.sides import Asked, look_at_sides
from clipft.evaluate.target import with_adapter
from clipft.model.clip_model import ClipModel
from clipft.model.encode import Autocast
from clipft.model.runfiles import Which


@dataclass(frozen=True)
class Evaluation:
    """Figures of a base and of what was tuned from it.

    Args:
        target: what was evaluated, as the user wrote it.
        base_name: what the base is.
        base: its figures; None where it was not asked for or is not known.
        tuned: the tuned model's figures; None for a config.
        notes: what a reader of the figures should know.
        kept_base: the base's figures on evaluate.keep; None where the config watches nothing.
        kept_tuned: the tuned model's.
    """

    target: str
    base_name: str
    base: Measurement | None
    tuned: Measurement | None
    notes: tuple[str, ...]
    kept_base: Measurement | None = None
    kept_tuned: Measurement | None = None

    def measurements(self) -> list[Measurement]:
        """Those that were made, the base first."""
        return [measurement for measurement in (self.base, self.tuned) if measurement is not None]

    @property
    def kept(self) -> Measurement | None:
        """The last of those on evaluate.keep."""
        return self.kept_tuned or self.kept_base

    def to_json(self) -> dict[str, Any]:
        """`base` and `tuned` by the names of metrics.jsonl (null where not measured), and on what."""
        return {
            "base": _with_kept(self.base, self.kept_base),
            "tuned": _with_kept(self.tuned, self.kept_tuned),
            "target": self.target,
            **_on_what(self.measurements()[-1]),
            "keep": None if self.kept is None else _on_what(self.kept),
            "notes": list(self.notes),
        }


def _with_kept(found: Measurement | None, kept: Measurement | None) -> dict[str, float] | None:
    """All figures of a side by name, those on evaluate.keep under `keep.`, as in a run's result.json."""
    if found is None:
        return None
    return found.figures() | {f"{KEPT}{name}": value for name, value in (kept.figures() if kept else {}).items()}


def _on_what(measurement: Measurement) -> dict[str, Any]:
    """What figures were measured on."""
    whole = measurement.to_json()
    return {key: whole[key] for key in ("data", "counts", "prompts", "unreadable")}


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
    with_keep: bool = True,
    adapter: str | None = None,
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
        with_keep: whether to measure on evaluate.keep too, where the config names it.
        adapter: a file to put on `name`, which is the base then.
        watch: shows progress.
    """
    how: dict[str, Any] = {
        "batch_size": batch_size,
        "workers": workers,
        "device": device,
        "autocast": autocast,
        "watch": watch,
    }

    def figures(clip: ClipModel, asked: Asked) -> tuple[Measurement, Measurement | None]:
        found = measure(clip, asked.rows, templates=asked.templates, pooled=asked.pooled, texts_too=True, **how)
        if asked.keep is None:
            return found, None
        return found, measure(clip, asked.keep, templates=asked.keep_templates, by_classifier=False, **how)

    sides = look_at_sides(
        name,
        data,
        figures,
        which=which,
        device=device,
        with_base=with_base,
        classifier_too=True,
        keep_too=with_keep,
        adapter=adapter,
        autocast=autocast,
    )
    base, kept_base = sides.base or (None, None)
    tuned, kept_tuned = sides.tuned or (None, None)
    name = with_adapter(name, adapter)
    return Evaluation(name, sides.base_name, base, tuned, sides.notes, kept_base, kept_tuned)

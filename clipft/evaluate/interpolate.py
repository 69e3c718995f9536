"""`clipft interpolate`: figures of the models on the line between a base and what was tuned from it.

WiSE-FT (Robust fine-tuning of zero-shot models, CVPR 2022), section 3: what tuning gained often stays, and what it
forgot often comes back, well before the base is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipft.config.source_schema import Source
from clipft.config.stages import classifier_init
from clipft.errors import InputError
from clipft.evaluate.measure import Measurement, figure_names, headline, higher_is_better
from clipft.evaluate.sides import Asked, keep_rows, rows_for
from clipft.evaluate.sweep import Compute, Variants, batches_of, sweep
from clipft.evaluate.target import target_of
from clipft.evaluate.zeroshot import class_embeddings
from clipft.export.read import is_export
from clipft.model.additions import base_config
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.encode import Autocast
from clipft.model.mixing import Mixture
from clipft.model.runfiles import Which
from clipft.model.saved import SavedModel, load_saved


@dataclass(frozen=True, eq=False)
class Between:
    """A run's model that can be set to any point between its base and itself.

    Args:
        name: the run, as the user wrote it.
        saved: the run's model, whose weights `mixture` sets.
        mixture: sets them.
        base_name: what the base is.
    """

    name: str
    saved: SavedModel
    mixture: Mixture
    base_name: str

    def at(self, alpha: float, measured: Sequence[Measurement]) -> SavedModel:
        """The mixture at `alpha`, on the CPU, as a model to be exported; `measured` are its figures."""
        self.mixture.put(alpha)
        self.saved.clip.model.cpu()
        figures = {found.data: found.figures() for found in measured}
        state = {**self.saved.state, "metrics": {}, "mixed": {"alpha": alpha, "figures": figures}}
        return replace(self.saved, state=state)


@dataclass(frozen=True)
class Point:
    """A model on the line and its figures, a Measurement for each data set."""

    alpha: float
    measured: tuple[Measurement, ...]


@dataclass(frozen=True)
class Interpolation:
    """Figures along the line.

    Args:
        run: the run, as the user wrote it.
        base_name: what the base is.
        figures: for each data set, the figure that stands in the table.
        averaged: the data sets, by number, whose figures the mean is of.
        points: by rising alpha, the base (0) first, the tuned (1) last.
        chosen: the number of the point that is taken.
        why: how it was chosen.
        notes: what a reader should know.
        kept: whether the last data set is evaluate.keep of the run's config.
    """

    run: str
    base_name: str
    figures: tuple[str, ...]
    averaged: tuple[int, ...]
    points: tuple[Point, ...]
    chosen: int
    why: str
    notes: tuple[str, ...]
    kept: bool = False

    def values(self, data: int) -> list[float]:
        """The figure of a data set along the line."""
        return [point.measured[data].figures()[self.figures[data]] for point in self.points]

    def means(self) -> list[float]:
        """The mean over the data sets along the line."""
        return _means([self.values(data) for data in self.averaged])

    def best(self, data: int) -> int:
        """The number of the point that is best for a data set."""
        return best_of(self.values(data), higher=higher_is_better(self.figures[data]))

    def best_mean(self) -> int:
        """The number of the point with the best mean."""
        return best_of(self.means(), higher=higher_is_better(self.figures[self.averaged[0]]))

    def to_json(self) -> dict[str, Any]:
        """What `interpolate --json` prints."""
        alphas = [point.alpha for point in self.points]
        names = [found.data for found in self.points[0].measured]
        sets = zip(names, self.figures, range(len(names)), strict=True)
        return {
            "run": self.run,
            "base": self.base_name,
            "data": [
                {
                    "name": name,
                    "figure": figure,
                    "best": alphas[self.best(i)],
                    "kept": self.kept and i == len(names) - 1,
                }
                for name, figure, i in sets
            ],
            "points": [
                {"alpha": point.alpha, "mean": mean, "measured": [found.to_json() for found in point.measured]}
                for point, mean in zip(self.points, self.means(), strict=True)
            ],
            "best_mean": alphas[self.best_mean()],
            "chosen": alphas[self.chosen],
            "why": self.why,
            "notes": list(self.notes),
        }


def open_between(name: str, which: Which | None, *, device: torch.device, autocast: Autocast) -> Between:
    """Load a run's model and its base.

    Args:
        name: a run or a checkpoint.
        which: a run's best or last checkpoint.
        device: where the models go.
        autocast: the precision's context, for the prompts that a classifier started from.

    Raises:
        InputError: there is no such run, or nothing lies between its base and it.
    """
    path = Path(name).expanduser()
    if path.is_dir() and is_export(path):
        raise InputError(f"{name}: an exported model does not bring its base; name the run that it is of")
    saved = load_saved(path, which)
    config = saved.config
    if saved.state["classifier"] is not None and classifier_init(config) != "prompts":
        raise InputError(
            f"{name}: its classifier started at random (loss.init: random), so the base has none to mix it with; "
            "train with loss.init: prompts"
        )
    saved.clip.model.to(device)
    base = build(base_config(config.model), config.run.seed)
    if base.image.projection_is_new or base.text.projection_is_new:
        raise InputError(
            f"{name}: its projections were drawn anew (model.embed_dim, projection: reset), so its base has none to "
            "mix them with; interpolate a run that kept them"
        )
    base.model.to(device)
    tensors: dict[str, Tensor] = base.model.state_dict()
    if saved.state["classifier"] is not None:
        prompts = class_embeddings(base, saved.classes, saved.templates, device=device, autocast=autocast)
        tensors |= {f"classifier.{key}": tensor for key, tensor in _started(saved, prompts, base.scale).items()}
    return Between(name, saved, Mixture(saved.clip, tensors), base.base)


def _started(saved: SavedModel, prompts: Tensor, scale: float) -> dict[str, Tensor]:
    """The run's classifier as it was before the first step: the zero-shot one."""
    settings = saved.state["classifier"]
    head = Classifier(*prompts.shape, cosine=settings["cosine"], bias=settings["bias"])
    head.start_from(prompts, scale)
    started: dict[str, Tensor] = head.state_dict()
    return started


def interpolate(
    between: Between,
    alphas: Sequence[float],
    data: Sequence[Source],
    *,
    compute: Compute,
    choose: float | str | None = None,
    with_keep: bool = True,
    watch: Callable[[int], Callable[[], object]] = lambda steps: lambda: None,
) -> Interpolation:
    """Measure the line between a base and a run, and choose a point of it.

    Args:
        between: the run.
        alphas: where to measure, beside the base (0) and the tuned (1).
        data: what to measure on; nothing takes the validation rows of the run's config.
        compute: how.
        choose: an alpha, or the figure whose mean over the data sets chooses; None takes the run's evaluate.best where
            it is measured, else each one's headline.
        with_keep: whether to measure on evaluate.keep of the run's config too, where it names some.
        watch: told how many steps there are, it returns what to call after each.

    Raises:
        InputError: data that cannot be read or has nothing to measure by, or an unknown figure.
    """
    at = sorted({0.0, 1.0, *alphas, *([choose] if isinstance(choose, float) else [])})
    saved = between.saved
    sets, answers, notes = _sets(between, data, with_keep=with_keep)
    kept = with_keep and len(sets) > len(data or (None,))
    if isinstance(choose, str):
        _refuse_unmeasured(choose, sets, answers)
    if not between.mixture.names:
        notes = (*notes, "base and tuned model are the same to the bit: the run has changed nothing")
    variants = Variants(saved.clip, between.mixture.names, len(at), lambda number: between.mixture.put(at[number]))
    compute = replace(compute, tick=watch(sum(batches_of(asked.rows, compute) for asked in sets) * len(at)))
    found = [
        sweep(variants, asked.rows, asked.templates, compute, by_classifier=answered, pooled=asked.pooled)
        for asked, answered in zip(sets, answers, strict=True)
    ]
    points = tuple(Point(alpha, measured) for alpha, measured in zip(at, zip(*found, strict=True), strict=True))
    best = saved.config.evaluate.best
    figures, averaged = _figures(points[0].measured, choose if isinstance(choose, str) else None, best)
    together = Interpolation(between.name, between.base_name, figures, averaged, points, 0, "", (), kept)
    if isinstance(choose, float):
        return replace(together, chosen=at.index(choose), why="as asked", notes=notes)
    flattered = "alpha was chosen on these rows, so its figures here flatter it: report those on other rows"
    why = f"best {'mean' if len(averaged) > 1 else 'figure'}"
    if choose is None and best in figures:
        why += f" ({best}, the run's evaluate.best)"
    return replace(together, chosen=together.best_mean(), why=why, notes=(*notes, flattered))


def best_of(values: Sequence[float], *, higher: bool) -> int:
    """The number of the best value; among equal ones the first, which is the nearest to the base."""
    return values.index(max(values) if higher else min(values))


def _sets(
    between: Between, data: Sequence[Source], *, with_keep: bool
) -> tuple[list[Asked], list[bool], tuple[str, ...]]:
    """What to measure on, the rows last that the config watches for forgetting; whether each is for the run's
    classifier; and what to say.
    """
    saved, target = between.saved, target_of(between.name, between.saved)
    sets: list[Asked] = []
    notes = list(target.notes)
    for source in data or (None,):
        rows, said = rows_for(target, source, classifier_too=False)
        sets.append(Asked(rows, saved.templates, target.pooled))
        notes += [*rows.notes, *said]
    has_one = saved.state["classifier"] is not None
    answers = [has_one and asked.rows.labels is not None and asked.rows.classes == saved.classes for asked in sets]
    watched = saved.config.evaluate
    if with_keep and watched.keep is not None and watched.keep not in data:
        kept, said = keep_rows(saved.config, watched.keep)
        notes += said
        if kept is not None:
            sets.append(Asked(kept, watched.keep_templates or saved.templates, pooled=False))
            answers.append(False)
    return sets, answers, tuple(dict.fromkeys(notes))


def _refuse_unmeasured(asked: str, sets: Sequence[Asked], answers: Sequence[bool]) -> None:
    """Refuse a figure that none of the data sets will have, before anything is measured (P59)."""
    known: list[str] = []
    for each, answered in zip(sets, answers, strict=True):
        known += figure_names(each.rows, classifier=False, loss=False)
        known += figure_names(each.rows, classifier=True, loss=False) if answered else ()
    if asked not in known:
        raise InputError(
            f"--choose: {asked!r} is not measured on this data; expected an alpha from 0 to 1 or one of "
            f"{', '.join(dict.fromkeys(known))}"
        )


def _figures(
    measured: Sequence[Measurement], asked: str | None, best: str | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """For each data set the figure to show, and which data sets the mean is of.

    Args:
        asked: the figure that chooses; only data sets that have it are averaged.
        best: the run's own, where none is asked for; the others' headlines are averaged with it where they are good
            in the same direction.
    """
    wanted = asked or best
    figures = tuple(wanted if wanted in found.figures() else headline(found.figures()) for found in measured)
    if wanted is None or wanted not in figures:
        return figures, tuple(range(len(figures)))
    same = (asked is None and higher_is_better(figure) == higher_is_better(wanted) for figure in figures)
    return figures, tuple(n for n, alike in enumerate(same) if alike or figures[n] == wanted)


def _means(columns: Sequence[Sequence[float]]) -> list[float]:
    return [sum(row) / len(row) for row in zip(*columns, strict=True)]

"""`clipft soup`: the average of several runs' weights, greedy by held-out data, or of all.

Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time
(ICML 2022), section 3.1 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clipft.config.source_schema import Source
from clipft.data.rows import Rows
from clipft.data.sources import trained_on
from clipft.errors import InputError
from clipft.evaluate.measure import Measurement, headline, higher_is_better
from clipft.evaluate.pot import Pot
from clipft.evaluate.sides import keep_rows, rows_for
from clipft.evaluate.sweep import Compute, Variants, batches_of, sweep
from clipft.evaluate.target import target_of
from clipft.model.saved import SavedModel


@dataclass(frozen=True)
class Tasted:
    """A run that was tried.

    Args:
        run: its number.
        alone: its figure; None where there was no data to measure on.
        together: the figure of the average with it in; None where it was not measured.
        taken: whether it is in the soup.
        kept: its figure on what is watched for forgetting; None where nothing is.
    """

    run: int
    alone: float | None
    together: float | None
    taken: bool
    kept: float | None = None


@dataclass(frozen=True)
class Soup:
    """What came of it.

    Args:
        recipe: greedy or uniform.
        names: the runs, as the user wrote them.
        base_name: what they all started from.
        figure: what was measured; None where there was no data.
        tasted: the runs in the order in which they were tried.
        measured: the soup's own figures.
        notes: what a reader should know.
        kept: the soup's figures on what the runs watch for forgetting.
    """

    recipe: Literal["greedy", "uniform"]
    names: tuple[str, ...]
    base_name: str
    figure: str | None
    tasted: tuple[Tasted, ...]
    measured: Measurement | None
    notes: tuple[str, ...]
    kept: Measurement | None = None

    @property
    def taken(self) -> tuple[int, ...]:
        """The runs in the soup, by number."""
        return tuple(each.run for each in self.tasted if each.taken)

    def to_json(self) -> dict[str, Any]:
        """What `soup --json` prints."""
        return {
            "recipe": self.recipe,
            "base": self.base_name,
            "figure": self.figure,
            "runs": [
                {
                    "run": self.names[each.run],
                    "alone": each.alone,
                    "together": each.together,
                    "kept": each.kept,
                    "taken": each.taken,
                }
                for each in self.tasted
            ],
            "soup": None if self.measured is None else self.measured.to_json(),
            "kept": None if self.kept is None else self.kept.to_json(),
            "notes": list(self.notes),
        }


def serve(pot: Pot, soup: Soup) -> SavedModel:
    """The soup on the CPU, as a model to be exported."""
    pot.put(soup.taken)
    pot.saved.clip.model.cpu()
    figures = {} if soup.measured is None else {soup.measured.data: soup.measured.figures()}
    runs = [str(Path(pot.names[number]).expanduser().resolve()) for number in soup.taken]
    mixed = {"soup": soup.recipe, "runs": runs, "figures": figures}
    return replace(pot.saved, state={**pot.saved.state, "metrics": {}, "mixed": mixed})


def cook(
    pot: Pot,
    data: Source | None,
    *,
    recipe: Literal["greedy", "uniform"],
    compute: Compute,
    watch: Callable[[int], Callable[[], object]] = lambda steps: lambda: None,
) -> Soup:
    """Measure each run, then average them.

    Args:
        pot: the runs.
        data: what to measure on; None takes the validation rows of the runs' configs, where all have the same.
        recipe: `greedy` takes a run in where the average does not become worse; `uniform` averages all.
        compute: how to measure.
        watch: told how many steps there are at most, it returns what to call after each.

    Raises:
        InputError: there is nothing to measure on, which only `uniform` can do without.
    """
    everything = tuple(range(len(pot.names)))
    watched, said = _watched(pot)
    keeping = 0 if watched is None else batches_of(watched, compute) * (len(everything) + 1)
    if data is None and recipe == "uniform" and (odd := _other_validation(pot)):
        compute = replace(compute, tick=watch(keeping))
        tasted = tuple(Tasted(number, None, None, True) for number in everything)
        found = Soup(recipe, pot.names, pot.base_name, None, tasted, None, (f"nothing was measured: {odd}", *said))
    else:
        rows, notes = _held_out(pot, data)
        trials = len(everything) - 1 if recipe == "greedy" else 1
        compute = replace(compute, tick=watch(batches_of(rows, compute) * (len(everything) + trials) + keeping))
        found = _choose(pot, rows, (*notes, *said), recipe, compute)
    return found if watched is None else _with_kept(pot, found, watched, compute)


def _choose(
    pot: Pot, rows: Rows, notes: tuple[str, ...], recipe: Literal["greedy", "uniform"], compute: Compute
) -> Soup:
    """The soup by what was measured on rows."""
    everything = tuple(range(len(pot.names)))
    alone = _measure(pot, rows, [(number,) for number in everything], compute)
    figure = _figure(pot, alone[0])
    values = [found.figures()[figure] for found in alone]
    order = sorted(everything, key=lambda number: values[number], reverse=higher_is_better(figure))
    found: dict[tuple[int, ...], Measurement] = {
        (number,): measured for number, measured in zip(everything, alone, strict=True)
    }

    def value_of(numbers: tuple[int, ...]) -> float:
        if numbers not in found:
            (found[numbers],) = _measure(pot, rows, [numbers], compute)
        return found[numbers].figures()[figure]

    if recipe == "greedy":
        tasted = greedy(order, value_of, higher=higher_is_better(figure))
    else:
        together = value_of(everything)
        tasted = tuple(Tasted(number, values[number], together, True) for number in order)
    taken = tuple(each.run for each in tasted if each.taken)
    if recipe == "greedy":
        notes = (*notes, "the soup was chosen on these rows: keep other rows for the figure that you report")
    measured = found[everything if recipe == "uniform" else taken]
    return Soup(recipe, pot.names, pot.base_name, figure, tasted, measured, notes)


def greedy(order: Sequence[int], value_of: Callable[[tuple[int, ...]], float], *, higher: bool) -> tuple[Tasted, ...]:
    """Algorithm 1: from the best run down, one is taken in where the average does not become worse.

    Args:
        order: the runs, the best first.
        value_of: the figure of the average of some.
        higher: whether more of it is better.
    """
    best = value_of((order[0],))
    tasted = [Tasted(order[0], best, best, True)]
    taken: tuple[int, ...] = (order[0],)
    for number in order[1:]:
        together = value_of((*taken, number))
        better = together >= best if higher else together <= best
        tasted.append(Tasted(number, value_of((number,)), together, better))
        if better:
            best, taken = together, (*taken, number)
    return tuple(tasted)


def _watched(pot: Pot) -> tuple[Rows | None, tuple[str, ...]]:
    """What all the runs watch for forgetting, if they do, and what to say of it (P62)."""
    config = pot.checkpoints[0].config
    if all(checkpoint.config.evaluate.keep is None for checkpoint in pot.checkpoints):
        return None, ()
    for key in ("keep", "keep_templates"):
        first, *others = (getattr(checkpoint.config.evaluate, key) for checkpoint in pot.checkpoints)
        if any(other != first for other in others):
            return None, (f"what is kept is not measured: the runs have different evaluate.{key}",)
    assert config.evaluate.keep is not None
    return keep_rows(config, config.evaluate.keep)


def _with_kept(pot: Pot, soup: Soup, rows: Rows, compute: Compute) -> Soup:
    """The same with what each run alone, and the soup, keep of what the base knew."""
    asked = pot.checkpoints[0].config.evaluate
    templates = asked.keep_templates or pot.saved.templates
    *alone, kept = _measure(
        pot, rows, [*((each.run,) for each in soup.tasted), soup.taken], compute, kept_with=templates
    )
    figure = headline(kept.figures())
    pairs = zip(soup.tasted, alone, strict=True)
    return replace(soup, tasted=tuple(replace(each, kept=found.figures()[figure]) for each, found in pairs), kept=kept)


def _measure(
    pot: Pot,
    rows: Rows,
    soups: Sequence[tuple[int, ...]],
    compute: Compute,
    *,
    kept_with: Sequence[str] | None = None,
) -> tuple[Measurement, ...]:
    """Figures of each average; of what is kept with templates of its own, and never by the classifier."""
    saved = pot.saved
    variants = Variants(saved.clip, pot.varying, len(soups), lambda number: pot.put(soups[number]))
    if len(soups) == 1:  # reading weights takes its time: once is enough
        pot.put(soups[0])
        variants = replace(variants, put=lambda number: None)
    answered = kept_with is None and rows.labels is not None and rows.classes == saved.classes
    pooled = saved.state["features"] == "pooled"
    return sweep(variants, rows, kept_with or saved.templates, compute, by_classifier=answered, pooled=pooled)


def _figure(pot: Pot, measured: Measurement) -> str:
    """What the runs' configs judge a checkpoint by, where they agree on it and it is measured; else the headline."""
    asked = {checkpoint.config.evaluate.best for checkpoint in pot.checkpoints}
    name = asked.pop() if len(asked) == 1 else None
    return name if name is not None and name in measured.figures() else headline(measured.figures())


def _held_out(pot: Pot, data: Source | None) -> tuple[Rows, tuple[str, ...]]:
    """The rows to measure on, and what to say of them."""
    if data is None and (odd := _other_validation(pot)):
        raise InputError(f"--data: {odd}; name what to measure on, such as --data folder:my/val (not the test set)")
    target = target_of(pot.names[0], pot.saved)
    rows, notes = rows_for(target, data, classifier_too=False)
    if data is not None:  # of the first run, `rows_for` has said it
        for other in pot.checkpoints[1:]:
            config = other.config
            notes += trained_on(rows, data, config.data, config.run.seed, config.evaluate.novel_classes)
    return rows, tuple(dict.fromkeys((*rows.notes, *notes)))


def _other_validation(pot: Pot) -> str:
    """Why the runs' validation rows cannot be taken; empty where all have the same."""
    first = pot.checkpoints[0].config
    for name, other in zip(pot.names[1:], (checkpoint.config for checkpoint in pot.checkpoints[1:]), strict=True):
        where = f"{pot.names[0]} and {name}"
        if first.data.val != other.data.val:
            return f"{where} have different data.val"
        if isinstance(first.data.val, float) and first.data.train != other.data.train:
            return f"{where} hold out rows of different data.train"
        if isinstance(first.data.val, float) and first.run.seed != other.run.seed:
            return (
                f"{where} hold out other rows, since run.seed differs, so each has trained on what the other held out"
            )
    return "the runs have data.val: null" if first.data.val is None else ""

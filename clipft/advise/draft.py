"""From `--data` to a config with its reasons: the data looked at, a model chosen, what trains fitted into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from clipft.advise.base import BATCH, Base, Machine, choose_base, named_base
from clipft.advise.class_names import Wording, wording
from clipft.advise.rules import Depths, Goal, Way, batch_size, ways
from clipft.advise.write import Step, Written, write
from clipft.config.data_schema import DataConfig
from clipft.config.load import load_config
from clipft.config.schema import Config, ModelConfig
from clipft.config.source_schema import FolderSource, HandsSource, SidecarSource, Source, TableSource
from clipft.data.captions import CaptionReport, caption_report
from clipft.data.guess import Guess, guess_sources
from clipft.data.rows import Rows
from clipft.data.sighting import Sighting, look
from clipft.data.sources import read_splits
from clipft.data.splits import hold_out
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.catalogue import catalogue
from clipft.model.construct import make_tokenizer
from clipft.model.recipe import recipe_of

HELD_OUT = 0.1
MOST_CAPTIONS = 10_000
"""Captions whose tokens are counted."""
_LEAST_AT_ONCE = 4

Peak = Callable[[Config], int]


@dataclass(frozen=True)
class Data:
    """The data of a config to be: sources for the goal, what was seen, what was guessed, what is doubtful."""

    goal: Goal
    train: Source
    val: Source | float
    rows: Rows
    seen: Sighting
    said: tuple[str, ...]
    doubts: tuple[str, ...]


def look_at(text: str, goal: Goal | None) -> Data:
    """The data that `--data` names, looked at.

    Raises:
        InputError: there are none, or they do not have what the goal needs.
    """
    guess = guess_sources(text)
    goal = goal or ("classify" if _has_classes(guess.train) else "retrieve")
    train = for_goal(guess.train, goal)
    said = (*guess.said, *_left_out(guess.train, train))
    guess = replace(guess, said=said, train=train, val=None if guess.val is None else for_goal(guess.val, goal))
    guess, rows, validation, notes = _read(guess)
    training = len(rows)
    if guess.val is None:
        stay, outside = hold_out(rows, HELD_OUT, seed=0)  # as run.seed: 0 does
        training, validation = len(stay), len(outside)
    seen = look(rows, training=training, validation=validation)
    return Data(goal, train, HELD_OUT if guess.val is None else guess.val, rows, seen, guess.said, notes)


def _read(guess: Guess) -> tuple[Guess, Rows, int, tuple[str, ...]]:
    """The training rows, how many validate, and notes; a validation source that was guessed wrong is left out."""
    if guess.val is not None:
        try:
            splits = read_splits(DataConfig(train=guess.train, val=guess.val, max_bad_fraction=1.0), seed=0)
            assert splits.val is not None
            return guess, splits.train, len(splits.val), (*splits.notes, *splits.warnings)
        except InputError as error:
            said = f"the data beside it could not be taken to measure on: {error}"
            guess = replace(guess, val=None, said=(*guess.said, said))
    splits = read_splits(DataConfig(train=guess.train, val=None, max_bad_fraction=1.0), seed=0)
    return guess, splits.train, 0, (*splits.notes, *splits.warnings)


def _left_out(source: Source, now: Source) -> Iterator[str]:
    if isinstance(source, TableSource) and isinstance(now, TableSource) and source != now:
        what, column, other = (
            ("captions", source.caption, "retrieve") if now.caption is None else ("classes", source.label, "classify")
        )
        yield f"the table has {what} too, in column {column}; --goal {other} trains on them"


def _has_classes(source: Source) -> bool:
    match source:
        case FolderSource():
            return True
        case SidecarSource():
            return False
        case TableSource() | HandsSource():
            return source.label is not None


def for_goal(source: Source, goal: Goal) -> Source:
    """The source with what the goal needs alone: classes, or captions.

    Raises:
        InputError: it has none.
    """
    match goal, source:
        case "classify", TableSource(label=label) if label:
            return source.model_copy(update={"caption": None})
        case "retrieve", TableSource(caption=caption) if caption:
            return source.model_copy(update={"label": None})
        case "retrieve", HandsSource():
            return source.model_copy(update={"label": None})
    if _has_classes(source) == (goal == "classify"):
        return source
    has, lacks = ("captions", "classes") if goal == "classify" else ("classes", "captions")
    other = "retrieve" if goal == "classify" else "classify"
    raise InputError(f"--goal {goal}: needs {lacks}, and these data have {has} only; leave it out for --goal {other}")


# --- the config ----------------------------------------------------------------------------------


def draft(data: Data, machine: Machine, peak: Peak, name: str | None, pretrained: str | None) -> str:
    """The text of a config for these data.

    Args:
        data: of `look_at`.
        machine: where it is to train.
        peak: bytes of a step's tensors at the most, under a config.
        name: the model that was asked for; None chooses one.
        pretrained: its weights that were asked for.

    Raises:
        InputError: there is no such model, or not even the smallest step fits.
    """
    goal, seen = data.goal, data.seen
    batch = batch_size(seen.training, goal, gpu=machine.gpu)
    if name is None:
        profile = ways(seen.rows, goal, Depths(1, 1, ()))[0].profile
        base = choose_base(catalogue(), machine, profile, min(batch, BATCH))
    else:
        base = named_base(catalogue(), name, pretrained)
    model = ModelConfig(name=base.name, pretrained=base.pretrained)
    meta = build_meta(model)
    names = wording(seen.classes) if goal == "classify" else Wording({})
    lengths = _lengths(data, model)
    candidates = ways(seen.rows, goal, _depths(meta))

    def text_of(way: Way, step: Step) -> str:
        doubts = (*data.doubts, *(note for note in meta.notes if note.startswith("RANDOM")))
        return write(
            Written(goal, data.train, data.val, seen, data.said, doubts, base, names, lengths, machine, way, step)
        )

    return _fitted(candidates, batch, machine, peak, text_of, base)


def _fitted(
    candidates: tuple[Way, ...],
    batch: int,
    machine: Machine,
    peak: Peak,
    text_of: Callable[[Way, Step], str],
    base: Base,
) -> str:
    """The config with the first way of which a step fits, in pieces if need be."""
    for way in candidates:
        whole = Step(batch, None, 0, None if way is candidates[0] else candidates[0].strategy)
        config = _loaded(text_of(way, whole))
        for micro in _pieces(batch):
            train = config.train.model_copy(update={"micro_batch_size": micro})
            bytes_at_most = peak(config.model_copy(update={"train": train}))
            if machine.room is None or bytes_at_most <= machine.room:
                return text_of(way, replace(whole, micro_batch_size=micro, peak=bytes_at_most))
    raise InputError(
        f"--model: {base.name} does not train on this {machine.device}, not even {_LEAST_AT_ONCE} rows at once with "
        "most of it frozen; clipft models --fits SIZE lists what does"
    )


def _pieces(batch: int) -> Iterator[int | None]:
    """The batch whole, then in ever smaller pieces."""
    yield None
    micro = batch // 2
    while micro >= _LEAST_AT_ONCE:
        yield micro
        micro //= 2


def _loaded(text: str) -> Config:
    """The config as `clipft train` would read it: what does not load is not printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path).config


def _depths(meta: MetaModel) -> Depths:
    towers = {"image": meta.image, "text": meta.text}
    lora = tuple(name for name, tower in towers.items() if any(map(tower.matrices, range(tower.depth))))
    return Depths(meta.image.depth, meta.text.depth, lora)


def _lengths(data: Data, model: ModelConfig) -> CaptionReport | str | None:
    """How long the captions are, or why that is not known; None where there are none."""
    captions = data.rows.captions
    if captions is None or data.goal == "classify":
        return None
    try:
        tokenizer = make_tokenizer(recipe_of(model))
    except InputError as error:
        return str(error)
    step = -(-len(captions) // MOST_CAPTIONS)
    return caption_report(captions[::step], tokenizer.count, tokenizer.context_length, examples=1)

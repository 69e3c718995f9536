"""The config as text: each key with the reason for its value, for somebody who sees it for the first time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clipft.advise.base import Base, Machine
from clipft.advise.class_names import Wording
from clipft.advise.findings import facts, unequal, warnings
from clipft.advise.page import Page
from clipft.advise.rules import SOURCES, Goal, Way, epochs
from clipft.config.dump import inline_yaml
from clipft.config.source_schema import Source
from clipft.data.captions import CaptionReport, fill
from clipft.data.sighting import Sighting
from clipft.report.amounts import in_bytes
from clipft.report.metric_words import WORDS

TEMPLATE = "a photo of a {}."


@dataclass(frozen=True)
class Step:
    """A step of training.

    Args:
        batch_size: rows.
        micro_batch_size: rows at once in memory; None takes the batch whole.
        peak: bytes that it takes.
        too_large: the strategy that would have been chosen, had it fitted.
    """

    batch_size: int
    micro_batch_size: int | None
    peak: int
    too_large: Any = None


@dataclass(frozen=True)
class Written:
    """All that a config is written from.

    Args:
        said: what was guessed of the data.
        doubts: what reading them, or the model, found worth a look.
    """

    goal: Goal
    train: Source
    val: Source | float
    seen: Sighting
    said: tuple[str, ...]
    doubts: tuple[str, ...]
    base: Base
    names: Wording
    lengths: CaptionReport | str | None
    machine: Machine
    way: Way
    step: Step


def write(of: Written) -> str:
    """The whole file."""
    page = Page()
    _head(page, of)
    page.gap()
    _strategy(page, of)
    page.gap()
    _model(page, of)
    page.gap()
    _data(page, of)
    page.gap()
    if _unequal(of):
        weighed = inline_yaml({"type": "classifier", "class_weights": "balanced"})
        page.say("A classifier that weighs rare classes up (and write best: classifier_mean_per_class below):")
        page.say_as_it_is(f"loss: {weighed}")
        page.gap()
    _optim(page, of)
    page.gap()
    _train(page, of)
    page.gap()
    _evaluate(page, of)
    page.gap()
    page.say("Sources:")
    page.points(f"{name}: {title}" for name, title in SOURCES.items() if name in page.text())
    return page.text()


def _head(page: Page, of: Written) -> None:
    page.say(
        "A first config, made by clipft init. Save it as config.yaml; every line may be changed."
        if of.goal == "classify"
        else "A first config for finding images by text, made by clipft init. Save it as config.yaml; every line "
        "may be changed."
    )
    commands = (
        ("clipft freeze-report config.yaml", "what trains, and what a step costs"),
        ("clipft train config.yaml --dry-run", "one step as a rehearsal; writes nothing"),
        ("clipft train config.yaml", "trains"),
    )
    for command, what in commands:
        page.say_as_it_is(f"  {command:<36}{what}")
    page.gap()
    page.say("What the data are:")
    page.points([*facts(of.seen, of.goal, of.lengths), *map(_sentence, of.said)])
    found = [*warnings(of.seen, of.goal, of.names, of.lengths), *map(_sentence, of.doubts)]
    if found:
        page.gap()
        page.say("Please look at this before training:")
        page.points(found)


def _sentence(note: str) -> str:
    """A note as one; what is no word, such as a path or a key, keeps its spelling."""
    start = note[:1].upper() if note.split(" ", 1)[0].isalpha() else note[:1]
    return f"{start}{note[1:]}{'' if note.endswith('.') else '.'}"


def _strategy(page: Page, of: Written) -> None:
    page.say(of.way.trains)
    page.say(of.way.why)
    if of.step.too_large is not None:
        wanted = inline_yaml({"strategy": of.step.too_large})[1:-1]
        page.say(f"For so many images {wanted} would be the choice, but a step of it does not fit into memory here.")
    page.put("strategy", of.way.strategy)
    page.say("Others, to write in its place:")
    for value, when in of.way.others:
        page.say(f"if {when}:", first="- ")
        page.say_as_it_is(f"strategy: {inline_yaml(value)}")


def _model(page: Page, of: Written) -> None:
    page.section("model")
    page.say(of.base.why, indent=2)
    page.put("name", of.base.name, indent=2)
    if of.base.pretrained is not None:
        page.put("pretrained", of.base.pretrained, indent=2)


def _data(page: Page, of: Written) -> None:
    page.section("data")
    page.put("train", _plain(of.train), indent=2)
    if isinstance(of.val, float):
        page.put("val", of.val, indent=2, comment="this share of the images is held out to measure on")
    else:
        page.put("val", _plain(of.val), indent=2)
    if of.goal == "classify":
        _prompts(page, of)
        page.say("Mirrored pictures, where left and right mean nothing:", indent=2)
        page.say_as_it_is("augment: {flip: true}", indent=2)
    else:
        page.put("augment", {"crop_scale": [0.9, 1.0]}, 2, "captions speak of the whole picture: cut little off")


def _prompts(page: Page, of: Written) -> None:
    first = next(name for name, count in zip(of.seen.classes, of.seen.counts, strict=True) if count)
    example = fill(TEMPLATE, of.names.names.get(first, first))
    page.say(
        f'CLIP learns from sentences, here "{example}" Say more of what the pictures show if you can, such as '
        '"a photo of a {}, a kind of food."',
        indent=2,
    )
    page.put("templates", [TEMPLATE], indent=2)
    if of.names.names:
        page.say("The names in the data, and the words that the sentences have for them.", indent=2)
        page.put("class_names", of.names.names, indent=2)


def _plain(source: Source) -> dict[str, Any]:
    """The source's keys as they would be written by hand."""
    keys: dict[str, Any] = source.model_dump(exclude_defaults=True)
    if "table" in keys:
        keys = {"table": keys.pop("table"), "image": getattr(source, "image", None), **keys}
    if "builtin" in keys and getattr(source, "label", None) is None:
        keys["label"] = None
    return keys


def _optim(page: Page, of: Written) -> None:
    page.say(f"The learning rates come with the strategy: {of.way.rates}.")
    page.say("If figures fall below those of the base, write a smaller one for the blocks:")
    page.say_as_it_is("optim: {lr: 1.0e-5}")


def _train(page: Page, of: Written) -> None:
    page.section("train")
    count, why = epochs(of.seen.training)
    steps = of.seen.training // of.step.batch_size
    page.say(f"{why}, of {steps:,} steps each: {count * steps:,} in all.", indent=2)
    page.put("epochs", count, indent=2)
    page.say(" ".join(_of_batch(of, steps)), indent=2)
    page.put("batch_size", of.step.batch_size, indent=2)
    if of.step.micro_batch_size is not None:
        page.put("micro_batch_size", of.step.micro_batch_size, 2, "rows at once in memory; the gradient is the same")


def _of_batch(of: Written, steps: int) -> Iterator[str]:
    if of.goal == "retrieve":
        yield "The other rows of a batch are the wrong answers that a row is told from: the more, the better."
    else:
        yield "Large enough for a steady gradient, small enough for several steps an epoch."
    where = {"cpu": "in this machine's memory", "cuda": "on this GPU"}.get(of.machine.device, "here")
    free = "" if of.machine.free is None else f"; {in_bytes(of.machine.free)} are free {where}"
    yield f"A step takes about {in_bytes(of.step.peak)} in {of.machine.precision}{free}."


def _evaluate(page: Page, of: Written) -> None:
    page.section("evaluate")
    if of.goal == "retrieve":
        best, meaning = "text_to_image_r5", "how often the right image is among the first 5 found for its caption"
    elif _unequal(of):
        best, meaning = "mean_per_class", "the share that is right, the mean over classes, so that small ones count"
    else:
        best, meaning = "zero_shot_top1", "the share of images whose class is named right"
    page.say(f"After each epoch the figures of val are shown; the checkpoint best in {WORDS[best]} is kept:", indent=2)
    page.say(f"{meaning}.", indent=2)
    page.put("best", best, indent=2)
    page.say("To see what is forgotten, name other data, which are measured too:", indent=2)
    page.say_as_it_is("keep: {folder: my/other/photos}", indent=2)


def _unequal(of: Written) -> bool:
    return of.goal == "classify" and unequal(of.seen)

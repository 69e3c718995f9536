"""What `inspect` was asked for, one view after the other; each can be printed and told as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image
from rich.console import Console

from clipft.data.images import ImageFault, read_image
from clipft.errors import InputError
from clipft.model.anatomy import anatomy
from clipft.model.forward_cost import model_cost
from clipft.model.module_tree import block_trees, module_tree
from clipft.model.plan import Plan
from clipft.model.subject import Subject
from clipft.model.walkthrough import Walkthrough, walk
from clipft.report.compare_view import Measured, print_comparison
from clipft.report.explain import explain, print_explanation
from clipft.report.inspect_options import Asked
from clipft.report.inspect_view import print_inspection
from clipft.report.tree_view import print_blocks, print_tree
from clipft.report.walkthrough_view import print_walkthrough


@dataclass(frozen=True)
class View:
    """One thing to see.

    Args:
        key: its name in JSON.
        value: what JSON says of it.
        show: prints it.
    """

    key: str
    value: Any
    show: Callable[[Console], None]


def views(
    asked: Asked, subject: Subject, other: Subject | None, plan: Plan | None, picture: Image.Image | None
) -> list[View]:
    """What was asked for, in the order it is shown; empty where nothing was, and the summary will do.

    Args:
        other: the model of --compare.
        plan: what trains, where a config says so.
        picture: of --image.
    """
    found = [walkthrough(subject, picture, asked.text)] if asked.walkthrough else []
    if asked.block is not None:
        found.append(one_block(subject, plan, asked.block))
    elif asked.tree:
        found.append(tree(subject, plan, full=asked.full))
    if other is not None:
        found.append(comparison(subject, other))
    if asked.explain is not None:
        found.append(explanation(subject, asked.explain))
    return found


def summary(subject: Subject) -> View:
    """The towers side by side."""
    return View("facts", subject.facts.to_json(), lambda console: print_inspection(subject.facts, console))


def read_picture(path: str) -> Image.Image:
    """The picture of --image."""
    try:
        return read_image(path)
    except ImageFault as fault:
        raise InputError(f"--image: {fault}") from None


def walkthrough(subject: Subject, picture: Image.Image | None, text: str | None) -> View:
    """Shapes from input to logit; of this image and this text the values too."""
    found = _walk(subject, picture, text)
    return View("walkthrough", found.to_json(), lambda console: print_walkthrough(found, console))


def tree(subject: Subject, plan: Plan | None, *, full: bool) -> View:
    """The modules; where there is a plan, what it trains of them."""
    found = module_tree(subject.model, subject.image, subject.text, plan=plan, fold=not full)
    return View("tree", found.to_json(), lambda console: print_tree(found, console, full=full))


def one_block(subject: Subject, plan: Plan | None, number: int) -> View:
    """One block of each tower, whole."""
    found = block_trees(subject.model, subject.image, subject.text, number, plan=plan)
    value = {tower: node.to_json() for tower, node in found.items()}
    return View("block", value, lambda console: print_blocks(number, found, console))


def comparison(subject: Subject, other: Subject) -> View:
    """Two models side by side, neither with weights."""
    one, two = _measured(subject), _measured(other)
    value = {"cost": one.to_json()["cost"], "other": two.to_json()}
    return View("compare", value, lambda console: print_comparison(one, two, console))


def explanation(subject: Subject, topic: str) -> View:
    """An idea, with the numbers of this model."""
    said = explain(topic, anatomy(subject.model, subject.image, subject.text, subject.facts))
    value = {"topic": topic} | asdict(said)
    return View("explain", value, lambda console: print_explanation(topic, subject.facts.name, said, console))


def _walk(subject: Subject, picture: Image.Image | None, text: str | None) -> Walkthrough:
    model, towers, clip = subject.model, (subject.image, subject.text), subject.clip
    if picture is None or text is None or clip is None:
        return walk(model, *towers, subject.facts)
    pixels, tokens = clip.preprocess(picture)[None], clip.tokenizer([text])  # (1, 3, H, W), (1, L)
    return walk(model, *towers, subject.facts, pixels=pixels, tokens=tokens)


def _measured(subject: Subject) -> Measured:
    return Measured(subject.facts, model_cost(subject.model, subject.image, subject.text, subject.facts))

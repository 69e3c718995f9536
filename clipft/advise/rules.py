"""From the size of the data and the task to what trains, in which batches, how long: pure rules, each with its why.

The titles of the sources are in SOURCES.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Goal = Literal["classify", "retrieve"]

SOURCES = {
    "FLYP": "Finetune like you pretrain, CVPR 2023",
    "ProLIP": "CLIP's Visual Embedding Projector is a Few-shot Cornucopia, 2024",
    "Soups": "Word and Descriptor Soups, CVPR 2024",
    "WiSE-FT": "Robust fine-tuning of zero-shot models, CVPR 2022",
}
"""The short names in the reasons, with their titles."""

FEW = 5_000
"""Below so many images most of the image tower stands still."""
MANY = 50_000
"""Below so many images its first half does; from here on nothing need."""
SHOTS = 16
"""Images a class up to which few-shot recipes go (CoOp, CLIP-LoRA, ProLIP)."""
HUNDREDS = 1_000


@dataclass(frozen=True)
class Depths:
    """Blocks of each tower, and whether LoRA finds matrices in them.

    Args:
        lora: the towers that it may join.
    """

    image: int
    text: int
    lora: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """What trains.

    Args:
        strategy: as `strategy:` has it in YAML.
        trains: what that is, in words.
        why: for these data.
        rates: the learning rates that it stands for, with their sources.
        profile: the way of training that `clipft models --fits` knows which takes at least as much memory.
        others: what could stand in its place, each with when.
    """

    strategy: Any
    trains: str
    why: str
    rates: str
    profile: Literal["full", "lora"]
    others: tuple[tuple[Any, str], ...]


_RATES = "blocks 2e-5 (as Soups, for the last 3 blocks), projections 1e-4 (ProLIP tried 1e-5 to 1e-2)"


def ways(images: int, goal: Goal, depths: Depths) -> tuple[Way, ...]:
    """What to train, the best for this size first, then what takes less memory."""
    lighter = (_most_frozen(images, goal, depths),)
    if images < FEW:
        return lighter
    half = _half(images, goal, depths)
    return (half, *lighter) if images < MANY else (_everything(images, depths), half, *lighter)


def _most_frozen(images: int, goal: Goal, depths: Depths) -> Way:
    both = goal == "retrieve"
    strategy = _last(1) if both else ["heads", _last({"image": 1})]
    trains = (
        "Trains the last block of both towers (freeze_layers: depth - 1), both projections, logit_scale."
        if both
        else "Trains both projections and logit_scale (heads), and the image tower's last block "
        "(freeze_layers: depth - 1)."
    )
    others = [
        ("heads", "the model is to forget as little as can be"),
        *_lora(depths, "the pictures are unlike those of the web (scans, X-rays): all blocks change, a little"),
        (_last(min(2, depths.image, depths.text)), "val still rises in the last epoch"),
    ]
    if not both:
        others.append(("linear_probe", "it need never know other classes (and write best: classifier_top1 below)"))
    return Way(
        strategy,
        trains,
        f"With {images:,} images the rest of the model knows more than they could teach it: trained, it would learn "
        "them by heart and forget what else it knew.",
        _RATES,
        "lora",
        tuple(others),
    )


def _half(images: int, goal: Goal, depths: Depths) -> Way:
    image = depths.image - depths.image // 2
    text = min(4 if goal == "retrieve" else 2, depths.text)
    of_text = "captions" if goal == "retrieve" else "class names, few as they are,"
    others = [
        (_last(min(2, depths.image, depths.text)), "memory is short, or less is to be forgotten"),
        *_lora(depths, "checkpoints are to be small: all blocks change, a little"),
        ("full", "the pictures are unlike those of the web (scans, X-rays), and val still rises"),
    ]
    return Way(
        _last({"image": image, "text": text}),
        f"Trains the second half of the image tower (freeze_layers: depth - {image}), the last {text} "
        f"block{'s' if text > 1 else ''} of the text tower, both projections, logit_scale.",
        f"{images:,} images teach the upper blocks, which know things and scenes. The lower half sees edges and "
        f"textures, which hardly differ from data to data. The {of_text} need less of the text tower.",
        _RATES,
        "full",
        tuple(others),
    )


def _everything(images: int, depths: Depths) -> Way:
    all_but_first = {"image": max(depths.image - 1, 0), "text": depths.text}
    others = [
        (_last(all_but_first), "the first image block, which sees edges and colours, is to stand still"),
        (_last(min(4, depths.image, depths.text)), "memory is short, or less is to be forgotten"),
        *_lora(depths, "checkpoints are to be small: all blocks change, a little"),
        ("freeze_text", "only the pictures are new, not the words"),
    ]
    return Way(
        "full",
        "Trains everything (no block frozen).",
        f"{images:,} images are enough for the whole model to learn from.",
        "1e-5 (as FLYP; others take 1e-6 to 3e-5)",
        "full",
        tuple(others),
    )


def _last(n: int | dict[str, int]) -> dict[str, Any]:
    return {"name": "last_layers", "n": n}


def _lora(depths: Depths, when: str) -> Iterator[tuple[Any, str]]:
    if depths.lora == ("image", "text"):
        yield "lora", when
    elif "image" in depths.lora:
        yield {"name": "lora", "towers": ["image"]}, when


# --- batches and epochs --------------------------------------------------------------------------

_LARGEST = {("classify", False): 64, ("retrieve", False): 128, ("classify", True): 256, ("retrieve", True): 256}
"""By goal and whether there is a GPU; FLYP and WiSE-FT train with 256 and 512 on several."""
_STEPS = 10
"""An epoch has at least so many, while a batch has at least _SMALLEST rows."""
_SMALLEST = 8


def batch_size(training: int, goal: Goal, *, gpu: bool) -> int:
    """Rows a step: a power of two, as large as there is a point in.

    Args:
        training: rows to train on.
    """
    limit = min(_LARGEST[goal, gpu], max(_SMALLEST, training // _STEPS), max(training, 2))
    return 1 << (limit.bit_length() - 1)


def epochs(training: int) -> tuple[int, str]:
    """How many, and why."""
    if training < HUNDREDS:
        return 20, "20 passes over the images (FLYP, where they are few)"
    return 10, "10 passes over the images (FLYP and WiSE-FT)"

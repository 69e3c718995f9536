"""One image and one text through a model, step by step: the shape at each, and, with weights, what is in it.

B is 1 throughout: the image's steps, the text's, then both together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.model.anatomy import embedding_tables
from clipft.model.describe import ModelFacts
from clipft.model.facts import Landmark, TowerFacts
from clipft.model.tower import Tower
from clipft.model.tower_parts import Hidden

_FIRST = 4  # values shown of a tensor


@dataclass(frozen=True)
class Step:
    """What one step gives.

    Args:
        tower: image, text or both.
        title: what it is, in a word or two.
        shape: of what it gives.
        why: what the step is for, a sentence.
        first: the first values of it; empty where nothing was computed.
        norm: length of a vector; None where the step gives no single one.
    """

    tower: str
    title: str
    shape: tuple[int, ...]
    why: str
    first: tuple[float, ...] = ()
    norm: float | None = None


@dataclass(frozen=True)
class Table:
    """A parameter worth a look: a projection, or what the embeddings look up or add."""

    name: str
    shape: tuple[int, ...]
    first: tuple[float, ...]


@dataclass(frozen=True)
class Walkthrough:
    """All steps, and with weights the first values of some parameters."""

    steps: tuple[Step, ...]
    tables: tuple[Table, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `inspect --walkthrough --json` prints."""
        return asdict(self)


def walk(
    model: nn.Module,
    image: Tower,
    text: Tower,
    facts: ModelFacts,
    *,
    pixels: Tensor | None = None,
    tokens: Tensor | None = None,
) -> Walkthrough:
    """The steps of a model in evaluation mode.

    Args:
        pixels: (1, 3, H, W) as preprocessed; with `tokens` (1, L) values are told, without them shapes alone.
    """
    shows = pixels is not None and tokens is not None
    blank_pixels, blank_tokens = blank_inputs(model, facts)
    with torch.no_grad():
        image_steps, image_vector = _tower_steps(model, image, facts.image, blank_pixels if pixels is None else pixels)
        text_steps, text_vector = _tower_steps(model, text, facts.text, blank_tokens if tokens is None else tokens)
        steps = (*image_steps, *text_steps, *_together(model, facts, image_vector, text_vector))
    tables = () if facts.initial else (*_tables(model, image), *_tables(model, text))
    return Walkthrough(steps if shows else tuple(replace(s, first=(), norm=None) for s in steps), tables)


def blank_inputs(model: nn.Module, facts: ModelFacts) -> tuple[Tensor, Tensor]:
    """One black image (1, 3, H, W) and one text of zeros (1, L), where the model is."""
    assert facts.image.image_size is not None
    assert facts.text.context_length is not None
    device = model.get_parameter("logit_scale").device
    pixels = torch.zeros(1, 3, *facts.image.image_size, device=device)
    return pixels, torch.zeros(1, facts.text.context_length, dtype=torch.long, device=device)


# --- a tower -------------------------------------------------------------------------------------


def _tower_steps(model: nn.Module, tower: Tower, facts: TowerFacts, inputs: Tensor) -> tuple[list[Step], Tensor]:
    """The steps of a tower, and the normalised vector (1, D) that it ends in."""
    seen: dict[str, Tensor] = {}
    with _watching(model, facts.landmarks, seen):
        hidden = tower.embed(inputs)
    what = "picture" if tower.name == "image" else "text"
    steps = [_step(tower, "input", inputs, _input_why(facts))]
    steps += [_step(tower, mark.title, seen[mark.path], mark.why) for mark in facts.landmarks if mark.path in seen]
    if not any(output is hidden.x for output in seen.values()):
        steps.append(_step(tower, "into block 0", hidden.x, _entry_why(facts, hidden.x, list(seen.values()))))
    through, hidden = _blocks(tower, facts, hidden)
    pooled = tower.finish(hidden)
    steps += [*through, _step(tower, "pooled", pooled, f"one vector for the whole {what}: {facts.pooling}", norm=True)]
    projected = tower.project(tower.drop(pooled))
    if tower.has_projection:
        steps.append(_step(tower, "projected", projected, "into the space that both towers share", norm=True))
    if tower.feature_adapter is not None:
        projected = tower.feature_adapter(projected)
        steps.append(_step(tower, "adapted", projected, "a small network's answer is mixed in", norm=True))
    vector = F.normalize(projected, dim=-1)
    why = "length 1: from here on only the direction counts, and a dot product is a cosine"
    return [*steps, _step(tower, "normalised", vector, why, norm=True)], vector


def _blocks(tower: Tower, facts: TowerFacts, hidden: Hidden) -> tuple[list[Step], Hidden]:
    """A line for each block; those in a row that give the same shape share one."""
    given = [hidden.x]  # to block 0, by block 0, ...
    for number in range(tower.depth):
        hidden = tower.through(hidden, number, number + 1)
        given.append(hidden.x)
    steps = []
    for _, run in groupby(range(tower.depth), key=lambda number: given[number + 1].shape):
        first, *others = run
        last = others[-1] if others else first
        shrinks = facts.stages is not None and given[first + 1].shape[2] < given[first].shape[2]  # a side of the maps
        title = f"blocks {first}-{last}" if others else f"block {first}"
        steps.append(_step(tower, title, given[last + 1], _block_why(facts, first, last, shrinks=shrinks)))
    return steps, hidden


@contextmanager
def _watching(model: nn.Module, marks: Sequence[Landmark], seen: dict[str, Tensor]) -> Iterator[None]:
    """Within, what the landmarks' modules give is put into `seen`, by path."""

    def watch(path: str) -> Any:
        def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[path] = output

        return model.get_submodule(path).register_forward_hook(see)

    handles = [watch(mark.path) for mark in marks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- both towers ---------------------------------------------------------------------------------


def _together(model: Any, facts: ModelFacts, image: Tensor, text: Tensor) -> Iterator[Step]:
    """Cosine, scale and logits of one image and one text."""
    cosine = image @ text.T  # (1, D) @ (D, 1) -> (1, 1)
    scale, bias = model.logit_scale.exp(), model.logit_bias
    whose = "the initial value; weights bring their own" if facts.initial else "as the weights have it"
    yield _step("both", "cosine", cosine, "the dot product of the two vectors: 1 where both point the same way")
    said = f"exp({facts.logit_scale:.3f}) = {math.exp(facts.logit_scale):.2f}, {whose}"
    needs = "softmax" if bias is None else "sigmoid"
    yield _step("both", "scale", scale, f"cosines differ little and a {needs} needs more, so they are times {said}")
    if bias is not None:
        why = f"most pairs of a batch do not match, so each starts from {facts.logit_bias:.2f}, {whose}"
        yield _step("both", "bias", bias, why)
    logits = scale * cosine if bias is None else scale * cosine + bias
    yield _step("both", "logits", logits, "a row an image, a column a text: B x B of them in a batch of B pairs")


def _tables(model: nn.Module, tower: Tower) -> Iterator[Table]:
    """What the embeddings look up or add, and the matrices of the projection."""
    projection = [name for part in tower.parts if part.group == "projection" for name in part.names]
    for name in (*embedding_tables(tower), *projection):
        parameter = model.get_parameter(name)
        if name not in projection or parameter.ndim == 2:
            yield Table(name, tuple(parameter.shape), _first(parameter))


# --- words and values ----------------------------------------------------------------------------


def _input_why(facts: TowerFacts) -> str:
    if facts.image_size is not None:
        return "red, green and blue of each pixel, less a mean and divided by a spread"
    return f"numbers of pieces of words, filled up or cut to {facts.context_length}"


def _entry_why(facts: TowerFacts, x: Tensor, before: list[Tensor]) -> str:
    """What happens between the last landmark and block 0."""
    more = x.shape[1] - before[-1].shape[1] if before and before[-1].ndim == x.ndim == 3 else 0
    joined = {0: "", 1: "a class token joins; "}.get(more, f"{more} tokens of the model's own join; ")
    kind = next((kind for kind in _ADDED if facts.positions.startswith(kind)), None)
    return joined + (_ADDED[kind] if kind else f"as block 0 takes it (positions: {facts.positions})")


_ADDED = {
    "learnt": "a learnt vector for each place is added, since attention knows no order",
    "sine and cosine": "a fixed vector for each place is added, since attention knows no order",
}


def _block_why(facts: TowerFacts, first: int, last: int, *, shrinks: bool) -> str:
    if facts.stages is not None:
        numbers = facts.stages[first : last + 1]
        units = " + ".join(map(str, numbers)) + (" unit" if sum(numbers) == 1 else " units")
        does = "they look at the maps anew, which keep their size"
        return f"{units}; the maps shrink, so that a place sees more of the picture" if shrinks else f"{units}; {does}"
    times = f"{last - first + 1} times: " if last > first else ""
    sees = "itself and those before it" if facts.causal else "all others"
    return f"{times}each token takes what it needs from {sees} (attention), then is worked on alone (MLP)"


def _step(tower: Tower | str, title: str, value: Tensor, why: str, *, norm: bool = False) -> Step:
    name = tower if isinstance(tower, str) else tower.name
    if value.is_meta:
        return Step(name, title, tuple(value.shape), why)
    length = value.float().norm().item() if norm else None
    return Step(name, title, tuple(value.shape), why, _first(value), length)


def _first(tensor: Tensor) -> tuple[float, ...]:
    return tuple(tensor.flatten()[:_FIRST].tolist())

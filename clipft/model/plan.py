"""The plan: for each parameter whether it trains, by which rule, in which group, at which rate. Pure data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

NEW = ("prompt", "lora", "adapter")
"""Groups of parameters that the base does not have."""
_ORDER = (
    *("embeddings", "block", "norm", "pooling", "projection", *NEW),
    *("logit_scale", "logit_bias", "classifier", "decoder"),
)
TOWERS = ("image", "text", "heads", "decoder")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterPlan:
    """What becomes of one parameter.

    Args:
        name: the model's own `named_parameters()` name.
        tower: image, text, heads or decoder.
        group: embeddings, block N, norm, pooling, projection, lora, adapter, prompt, logit_scale, logit_bias,
            classifier or decoder.
        rule: why it is frozen, such as `freeze_layers: 10`; empty where it trains.
        lr: its learning rate; None where it is frozen.
        weight_decay: likewise.
        part: where in its tower it is: its group, or, of a new parameter, the part that it was put into.
    """

    name: str
    tower: str
    group: str
    shape: Shape
    numel: int
    trainable: bool
    rule: str
    lr: float | None
    weight_decay: float | None
    part: str


@dataclass(frozen=True)
class Idle:
    """A pattern of `optim.groups` that sets no rate in a plan.

    Args:
        key: where it stands.
        words: what it matches instead, in a sentence.
        unknown: whether no parameter of the model has such a name.
    """

    key: str
    pattern: str
    words: str
    unknown: bool


@dataclass(frozen=True)
class Plan:
    """What trains in a model, and why.

    Args:
        model: what the user called it.
        lines: for each of image and text, what its freeze keys did.
        parameters: in the model's order.
        notes: what else is worth saying, a sentence each.
        warnings: what is seldom meant, a sentence each.
        idle: patterns that set no rate, yet to be judged beside the run's other stages.
    """

    model: str
    lines: Mapping[str, str]
    parameters: tuple[ParameterPlan, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    idle: tuple[Idle, ...] = ()

    @cached_property
    def trainable(self) -> tuple[ParameterPlan, ...]:
        """Those that train, in the model's order."""
        return tuple(p for p in self.parameters if p.trainable)

    @cached_property
    def only_scale(self) -> bool:
        """Whether nothing but logit_scale (and logit_bias) trains, so that its optimum can be computed."""
        return {p.group for p in self.trainable} <= {"logit_scale", "logit_bias"} and bool(self.trainable)

    @cached_property
    def frozen(self) -> tuple[ParameterPlan, ...]:
        """Those that stand still, in the model's order."""
        return tuple(p for p in self.parameters if not p.trainable)

    def totals(self) -> dict[str, int]:
        """How many numbers the model has, and how many of them train."""
        return {"parameters": numel(self.parameters), "trainable": numel(self.trainable)}

    def groups(self) -> dict[tuple[str, str], tuple[ParameterPlan, ...]]:
        """The parameters by (tower, group), in the order data meets them: image, text, heads, decoder."""
        found: dict[tuple[str, str], list[ParameterPlan]] = {}
        for parameter in self.parameters:
            found.setdefault((parameter.tower, parameter.group), []).append(parameter)
        return {key: tuple(found[key]) for key in sort_groups(found)}

    def to_json(self) -> dict[str, Any]:
        """What `freeze-report --json` prints and a run keeps as plan.json."""
        keys = ("name", "tower", "group", "shape", "numel", "trainable", "rule", "lr")
        return {
            "model": self.model,
            "lines": dict(self.lines),
            "parameters": [{key: getattr(p, key) for key in keys} | {"shape": list(p.shape)} for p in self.parameters],
            "totals": self.totals(),
        }


def numel(parameters: tuple[ParameterPlan, ...]) -> int:
    """How many numbers these parameters hold."""
    return sum(p.numel for p in parameters)


def block_number(group: str) -> int | None:
    """N of `block N`; None for any other group."""
    return int(group.removeprefix("block ")) if group.startswith("block ") else None


def sort_groups(places: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(tower, group) in the order data meets them: image, text, heads, decoder; embeddings, blocks, norm and so on."""
    return sorted(places, key=_place)


def _place(key: tuple[str, str]) -> tuple[int, int, int]:
    tower, group = key
    number = block_number(group)
    return TOWERS.index(tower), _ORDER.index("block" if number is not None else group), number or 0

"""The facts behind `inspect` and `freeze-report`: parameters by part, memory, and how far the backward pass goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import open_clip
from torch import nn

from clipft.model.facts import TowerFacts
from clipft.model.hf_form import Form, form_of
from clipft.model.plan import Plan, sort_groups
from clipft.model.tower import Tower, owners

_FLOAT32 = 4  # bytes: weights, gradients and optimiser state are float32 at every precision
_SLOTS = {"adamw": 2, "adam": 2, "sgd": 1}  # tensors of state a parameter: two averages, or the momentum
_SCALE_START = math.log(1 / 0.07)  # CLIP, section 2.5
_BIAS_START = -10.0  # SigLIP (Zhai et al., 2023), section 3.2


@dataclass(frozen=True)
class Memory:
    """Bytes that weights, gradients and optimiser take; what activations take hangs on the batch."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class PartSize:
    """One group of one tower: its tensors and numbers."""

    tower: str
    group: str
    tensors: int
    parameters: int


@dataclass(frozen=True)
class ModelFacts:
    """What `inspect` shows of a model.

    Args:
        parts: in the order data meets them: image, text, heads.
        logit_scale: its logarithm, as the parameter holds it.
        logit_bias: None where the model has none.
        initial: whether the two are where training from scratch starts, since no weights are loaded.
        exports: what `clipft export --to` can make of it.
    """

    name: str
    image: TowerFacts
    text: TowerFacts
    parts: tuple[PartSize, ...]
    logit_scale: float
    logit_bias: float | None
    initial: bool
    exports: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(part.parameters for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """What `inspect --json` prints."""
        facts = asdict(self)
        return {"name": facts.pop("name"), "parameters": self.parameters, **facts, "scale": math.exp(self.logit_scale)}


def describe(
    model: nn.Module, image: Tower, text: Tower, *, name: str, model_cfg: Mapping[str, Any] | None = None
) -> ModelFacts:
    """The facts of a model, with or without its weights.

    Args:
        name: what the user called it.
        model_cfg: the model half of an open_clip_config.json: says what a model without values cannot.
    """
    cfg = model_cfg or {}
    text_facts = text.describe()
    if "text_cfg" in cfg:  # a Hugging Face encoder has positions to spare, or knows no limit
        length = cfg["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        text_facts = replace(text_facts, context_length=min(length, text_facts.context_length or length))
    scale, bias = _scales(model, cfg)
    parts, exports = _part_sizes(model, image, text), ["open_clip", "pt"]
    if isinstance(form_of(model, model_cfg), Form):
        exports.append("hf")
    return ModelFacts(name, image.describe(), text_facts, parts, scale, bias, _is_meta(model), tuple(exports))


def memory(plan: Plan, optimizer: str) -> Memory:
    """Bytes of weights, gradients and optimiser state under a plan.

    Args:
        optimizer: adamw, adam or sgd (with momentum).
    """
    totals = plan.totals()
    trainable = totals["trainable"] * _FLOAT32
    return Memory(totals["parameters"] * _FLOAT32, trainable, trainable * _SLOTS[optimizer])


def backward_reach(plan: Plan) -> str:
    """How far down the backward pass goes in each tower, in words."""
    stops, through, outside = [], [], []
    for tower in ("image", "text"):
        own = [p for p in plan.parameters if p.tower == tower]
        lowest = next((part for _, part in sort_groups({(tower, p.part) for p in own if p.trainable})), None)
        if lowest is None:
            outside.append(f"the {tower} tower")
        elif lowest == sort_groups({(tower, p.part) for p in own})[0][1]:
            through.append(f"the {tower} tower")
        else:
            the = "" if lowest.startswith("block") else "the "
            stops.append(f"at {the}{tower} {lowest}")
    said = [f"goes through all of {' and '.join(through)}"] if through else []
    said += [f"stops {' and '.join(stops)}"] if stops else []
    said += [f"stays out of {' and '.join(outside)}"] if outside else []
    return "backward " + ", ".join(said)


def _part_sizes(model: nn.Module, image: Tower, text: Tower) -> tuple[PartSize, ...]:
    sizes: dict[tuple[str, str], list[int]] = {}
    places = owners(model, image, text)
    for name, parameter in model.named_parameters():
        sizes.setdefault(places[name], []).append(parameter.numel())
    return tuple(PartSize(*place, len(sizes[place]), sum(sizes[place])) for place in sort_groups(sizes))


def _scales(model: Any, cfg: Mapping[str, Any]) -> tuple[float, float | None]:
    """logit_scale and logit_bias: the model's own, or those it starts from where it holds no values."""
    if not _is_meta(model):
        return model.logit_scale.item(), None if model.logit_bias is None else model.logit_bias.item()
    bias = None if model.logit_bias is None else cfg.get("init_logit_bias", _BIAS_START)
    return cfg.get("init_logit_scale", _SCALE_START), bias


def _is_meta(model: Any) -> bool:
    return bool(model.logit_scale.is_meta)

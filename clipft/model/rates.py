"""Learning rate and weight decay of each trainable parameter, and the optimiser's groups made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.config.values import resolve_rate
from clipft.errors import InputError
from clipft.model.patterns import matches_nothing, names_matching
from clipft.model.plan import NEW, Idle, Plan, Shape, block_number


@dataclass(frozen=True)
class Rate:
    """A parameter's learning rate and weight decay."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one rate and one decay, by name, in the model's order."""

    lr: float
    weight_decay: float
    names: tuple[str, ...]


def rates(
    trainable: Mapping[str, Shape],
    places: Mapping[str, tuple[str, str]],
    depths: Mapping[str, int],
    tables: frozenset[str],
    *,
    model: ModelConfig,
    optim: OptimConfig,
) -> tuple[dict[str, Rate], tuple[Idle, ...]]:
    """The rate and decay of each trainable parameter, and the patterns of `optim.groups` that set none.

    Args:
        trainable: names and shapes of what trains.
        places: the tower and group of each parameter of the model.
        depths: how many blocks each tower has.
        tables: token, position and class embeddings, which get no decay.
    """
    found = {
        name: Rate(
            _lr(*places[name], depths, model, optim),
            0.0 if _undecayed(name, shape, places[name][1], tables) else optim.weight_decay,
        )
        for name, shape in trainable.items()
    }
    names, idle = list(trainable), []
    for i, group in enumerate(optim.groups):
        key = f"optim.groups[{i}].pattern"
        taken = names_matching(group.pattern, names, key=key)
        if not taken:
            idle.append(_takes_nothing(group.pattern, names, list(places), key))
        for name in taken:  # later groups come later: the last pattern that matches rules
            lr = found[name].lr if group.lr is None else resolve_rate(group.lr, optim.lr)
            decay = found[name].weight_decay if group.weight_decay is None else group.weight_decay
            found[name] = Rate(lr, decay)
    return found, tuple(idle)


def judge_patterns(stages: Sequence[tuple[OptimConfig, Plan]]) -> tuple[Plan, ...]:
    """The plans of a run's stages with what is to be said of patterns that set no rate: a note, or a warning.

    A pattern may be meant for one stage, in whose plan it sets rates; in another it does nothing.

    Raises:
        InputError: one matches no parameter in any stage that has it (P14).
    """
    works = {
        group.pattern
        for optim, plan in stages
        for group in optim.groups
        if group.pattern not in {one.pattern for one in plan.idle}
    }
    known = works | {one.pattern for _, plan in stages for one in plan.idle if not one.unknown}
    judged = []
    for number, (_, plan) in enumerate(stages):
        for one in plan.idle:
            if one.pattern not in known:
                raise InputError(f"stages[{number}]: {one.words}" if len(stages) > 1 else one.words)
        nothing = (f"{i.key}: {i.pattern!r} matches nothing in this stage" for i in plan.idle if i.unknown)
        elsewhere = (i.words for i in plan.idle if not i.unknown and i.pattern in works)
        warnings = (i.words for i in plan.idle if not i.unknown and i.pattern not in works)
        judged.append(
            replace(plan, notes=(*plan.notes, *nothing, *elsewhere), warnings=(*plan.warnings, *warnings), idle=())
        )
    return tuple(judged)


def groups(plan: Plan) -> tuple[ParameterGroup, ...]:
    """The optimiser's groups: each trainable parameter in exactly one (P32), frozen ones in none (P15)."""
    found: dict[Rate, list[str]] = {}
    for parameter in plan.trainable:
        if parameter.lr is None or parameter.weight_decay is None:
            raise ValueError(f"{parameter.name} trains without a rate")
        found.setdefault(Rate(parameter.lr, parameter.weight_decay), []).append(parameter.name)
    return tuple(ParameterGroup(rate.lr, rate.weight_decay, tuple(names)) for rate, names in found.items())


def _lr(tower: str, group: str, depths: Mapping[str, int], model: ModelConfig, optim: OptimConfig) -> float:
    heads = resolve_rate(optim.lr_heads, optim.lr)
    if group in ("logit_scale", "logit_bias"):
        return heads if model.logit_scale.lr is None else resolve_rate(model.logit_scale.lr, optim.lr)
    if group in ("projection", "classifier"):
        return heads
    if group in NEW:
        return resolve_rate(optim.lr_new, optim.lr)
    section = model.image if tower == "image" else model.text
    return resolve_rate(section.lr, optim.lr) * section.layer_decay ** _distance(group, depths[tower])


def _distance(group: str, depth: int) -> int:
    """How many steps of `layer_decay` a part is away from the end of its backbone.

    Norm and pooling have the full rate, the last block the first step, the embeddings the last (BEiT: BERT Pre-Training
    of Image Transformers, ICLR 2022, appendix: layer-wise decay, as timm counts it).
    """
    number = block_number(group)
    return depth - number if number is not None else depth + 1 if group == "embeddings" else 0


def _undecayed(name: str, shape: Shape, group: str, tables: frozenset[str]) -> bool:
    """Biases, norms, scales (all of them vectors or single numbers), embeddings and prompt vectors are never pulled to
    zero (P31).
    """
    return len(shape) <= 1 or group == "prompt" or name in tables


def _takes_nothing(pattern: str, trainable: Sequence[str], names: Sequence[str], key: str) -> Idle:
    """What is to be said of a pattern that takes nothing that trains."""
    if frozen := names_matching(pattern, names, key=key):
        count = f"{len(frozen)} parameters, all of them frozen" if len(frozen) > 1 else "one parameter, which is frozen"
        return Idle(key, pattern, f"{key}: {pattern!r} matches {count}; {frozen[0]} has no rate to set", unknown=False)
    words = matches_nothing(pattern, trainable, key=key, where="parameters that train")
    return Idle(key, pattern, words, unknown=True)

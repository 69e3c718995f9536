"""The freeze rules: which parameters train and why, decided once as a pure plan that everything else obeys.

Of a tower's three keys the first that is set wins: freeze_pattern, freeze_layers, freeze_backbone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import FREEZE_KEYS, FREEZES_ALL, LogitScaleConfig, ModelConfig, TowerConfig
from clipft.config.values import resolve_layers
from clipft.errors import InputError
from clipft.model.freeze_words import Frozen, ignored_keys, line_of, narrowed_line, parts_taken, unreached_line
from clipft.model.kinds import kept_of
from clipft.model.patterns import matches_nothing, names_matching
from clipft.model.plan import ParameterPlan, Plan, Shape
from clipft.model.rates import Rate, rates
from clipft.model.tower import NOT_IN_LOSS, Tower, owners
from clipft.words import counted

_SCALES = ("logit_scale", "logit_bias")


def make_plan(
    model: nn.Module,
    image: Tower,
    text: Tower,
    *,
    name: str,
    config: ModelConfig,
    loss: str,
    features: str,
    optim: OptimConfig,
) -> Plan:
    """Decide for every parameter whether it trains, why, and at which rate.

    Args:
        model: on any device, with its classifier where the loss has one.
        name: what the user called the model.
        loss: contrastive, siglip, zero_shot or classifier.
        features: what a classifier sees, projected or pooled.
        optim: rates and decay.

    Raises:
        InputError: a freeze pattern matches nothing, a depth is exceeded, or nothing trains (P17).
    """
    places = owners(model, image, text)
    shapes = _shapes(model)
    decided = {
        "image": _decide(model, image, config.image, projects=loss != "classifier" or features == "projected"),
        "text": (_decide if loss != "classifier" else _unreached)(model, text, config.text),
    }
    heads = _scale_rules(places, config.logit_scale, loss)
    decoder = {name: NOT_IN_LOSS for name, (tower, _) in places.items() if tower == "decoder"}
    rules = {**decided["image"].rules, **decided["text"].rules, **heads, **decoder}
    trainable = {n: shape for n, shape in shapes.items() if n not in rules}
    lines = {tower: decision.line for tower, decision in decided.items()}
    tables = image.tables | text.tables
    depths = {"image": image.depth, "text": text.depth}
    rate, idle = rates(trainable, places, depths, tables, model=config, optim=optim)
    head_to_come = loss == "classifier" and not hasattr(model, "classifier")
    if not trainable and not head_to_come:
        raise InputError(_nothing_trains(lines))
    return Plan(
        name,
        lines,
        _parameters(shapes, places, rules, rate, (image, text)),
        (
            *decided["image"].notes,
            *decided["text"].notes,
            *_head_notes(heads, trainable, loss),
            *_decoder_notes(decoder, loss),
        ),
        idle=idle,
    )


@dataclass(frozen=True)
class _Decision:
    """What is frozen in one tower: the rule of each such parameter, the report's line, further sentences."""

    rules: Mapping[str, str]
    line: str
    notes: tuple[str, ...]


def _decide(model: nn.Module, tower: Tower, section: TowerConfig, *, projects: bool = True) -> _Decision:
    """Apply a tower's keys.

    Args:
        projects: whether the loss sees the tower's projection.
    """
    frozen = _by_keys(tower, section)
    projection = [n for n in tower.names() if tower.group_of(n) == "projection"]
    freezes = section.projection == "freeze"
    rules = {
        **_narrowed(model, tower, section, frozen),
        **tower.untrained,
        **dict.fromkeys(frozen.names, frozen.rule),
        **_norm_rules(tower, section, frozen),
    }
    shapes = _shapes(model)
    if section.train_only is None:
        line = line_of(tower, frozen, shapes)
    else:
        left = [name for name in tower.backbone_names() if name not in rules]
        line = narrowed_line(tower, frozen, section.train_only, left, shapes)
    line += ignored_keys(section, _set_keys(section)[1:])
    notes = [f"{n} does not train: {rule}" for n, rule in tower.untrained.items()]
    notes += parts_taken(tower, frozen)
    if not projects and (behind := tower.behind_names()):
        notes.append(f"the feature adapter is frozen: pooled features are taken before it ({NOT_IN_LOSS})")
        rules |= dict.fromkeys(behind, NOT_IN_LOSS)
    if not projection:
        notes.append("this tower has no projection" + ("; projection: freeze ignored" if freezes else ""))
        line += "; projection: freeze ignored, there is none" if freezes else ""
    elif not projects:
        notes.append(f"the projection is frozen: pooled features are taken before it ({NOT_IN_LOSS})")
        rules |= dict.fromkeys(projection, NOT_IN_LOSS)
    elif freezes and tower.projection_is_new:
        line += "; projection: freeze ignored, the projection is new"
    elif freezes:
        rules |= dict.fromkeys(projection, "projection: freeze")
    return _Decision(rules, line, tuple(f"{tower.name}: {note}" for note in notes))


def _unreached(model: nn.Module, tower: Tower, section: TowerConfig) -> _Decision:
    """A tower that the loss does not look at; its keys must make sense all the same."""
    _narrowed(model, tower, section, _by_keys(tower, section))
    asked = [key for key in _set_keys(section) if getattr(section, key) != FREEZES_ALL[key]]  # the others agree
    line = unreached_line(tower, _shapes(model)) + ignored_keys(section, asked)
    return _Decision(dict.fromkeys(tower.names(), NOT_IN_LOSS), line, ())


def _narrowed(model: nn.Module, tower: Tower, section: TowerConfig, frozen: Frozen) -> dict[str, str]:
    """The backbone but for the kinds that `train_only` names."""
    if section.train_only is None:
        return {}
    kept = kept_of(model, tower, section.train_only, frozen)
    rule = f"train_only: {', '.join(section.train_only)}"
    return {name: rule for name in tower.backbone_names() if name not in kept}


def _norm_rules(tower: Tower, section: TowerConfig, frozen: Frozen) -> dict[str, str]:
    """Norm and pooling under `norm: freeze`, where the freeze keys left them training."""
    behind = (n for n in tower.backbone_names() if tower.group_of(n) in ("norm", "pooling"))
    return dict.fromkeys(behind, "norm: freeze") if section.norm == "freeze" and frozen.kind != "all" else {}


def _by_keys(tower: Tower, section: TowerConfig) -> Frozen:
    """What the first freeze key that is set takes of the backbone; without one, all of it beside new parameters."""
    names = tower.backbone_names()
    if section.freeze_pattern is not None:
        whole = section.freeze_pattern == "all"
        taken = names if whole else _matching(tower, section.freeze_pattern)
        return Frozen(taken, f"freeze_pattern: {section.freeze_pattern!r}", "all" if whole else "pattern")
    if section.freeze_layers is not None:
        written = section.freeze_layers
        layers = resolve_layers(written, tower.depth)
        taken = _first_layers(tower, layers, written)
        return Frozen(taken, f"freeze_layers: {written}", "all" if layers == -1 else "layers", max(layers, 0))
    if section.freeze_backbone:
        return Frozen(names, "freeze_backbone: true", "all")
    if section.freeze_backbone is None and section.train_only is None and (new := tower.new_groups()):
        return Frozen(names, f"{' and '.join(new)} set, no freeze key", "all")
    return Frozen((), "", "none")


def _matching(tower: Tower, pattern: str) -> tuple[str, ...]:
    """Backbone parameters whose name inside the backbone the pattern matches."""
    key = f"model.{tower.name}.freeze_pattern"
    inner = {tower.inner(name): name for name in tower.backbone_names()}
    taken = names_matching(pattern, list(inner), key=key)
    if not taken:
        # with the pattern in place the listing would stop at this very error
        hint = f"Every name: clipft freeze-report CONFIG --all --set {key}=null"
        raise InputError(f"{matches_nothing(pattern, list(inner), key=key, where='names of this backbone')}. {hint}")
    return tuple(inner[name] for name in taken)


def _first_layers(tower: Tower, layers: int, written: int | str) -> tuple[str, ...]:
    """The embeddings and the first blocks; the whole backbone for -1, nothing for 0.

    Counted from the end (depth - 12), the numbers 0 and -1 have no meaning of their own: all before the last blocks is
    frozen, the embeddings even where these are all the blocks there are.
    """
    from_the_end = isinstance(written, str)
    if not (0 if from_the_end else -1) <= layers <= tower.depth:
        allowed = f"0 to {tower.depth}, or -1 for the whole backbone"
        if from_the_end:
            allowed = f"at most depth - {tower.depth}; strategy: last_layers puts its n there"
        raise InputError(
            f"model.{tower.name}.freeze_layers: {written} is out of range: this {tower.family} tower has {tower.depth} "
            f"blocks; write {allowed}"
        )
    if layers == -1:
        return tower.backbone_names()
    if layers == 0 and not from_the_end:
        return ()
    groups = {"embeddings", *(f"block {i}" for i in range(layers))}
    return tuple(name for name in tower.backbone_names() if tower.group_of(name) in groups)


def _scale_rules(places: Mapping[str, tuple[str, str]], config: LogitScaleConfig, loss: str) -> dict[str, str]:
    """Why logit_scale and logit_bias are frozen, where they are."""
    unseen = {"classifier": _SCALES, "siglip": ()}.get(loss, ("logit_bias",))
    rules = {}
    for name, (_, group) in places.items():
        if group in unseen:
            rules[name] = NOT_IN_LOSS
        elif group in _SCALES and not config.train:
            rules[name] = "logit_scale.train: false"
    return rules


def _head_notes(heads: Mapping[str, str], trainable: Iterable[str], loss: str) -> list[str]:
    """What a person may not expect of the heads."""
    notes = []
    if heads.get("logit_bias") == NOT_IN_LOSS and loss != "classifier":  # P23
        notes.append(f"logit_bias is frozen: a {loss} loss has no use for it ({NOT_IN_LOSS}); loss.type: siglip has")
    if set(trainable) and set(trainable) <= set(_SCALES):
        names = " and ".join(sorted(trainable))
        notes.append(f"nothing but {names} trains: no feature will change")
    return notes


def _decoder_notes(decoder: Mapping[str, str], loss: str) -> list[str]:
    """Which of CoCa's two losses is on (P26)."""
    if not decoder:
        return []
    return [
        f"the decoder is frozen, {counted(len(decoder), 'tensor')}: of CoCa's two losses the {loss} one is on and the "
        f"captioning one is off ({NOT_IN_LOSS}), so what the model writes about an image is no longer "
        "fitted to its features"
    ]


def _parameters(
    shapes: Mapping[str, Shape],
    places: Mapping[str, tuple[str, str]],
    rules: Mapping[str, str],
    rate: Mapping[str, Rate],
    towers: Sequence[Tower],
) -> tuple[ParameterPlan, ...]:
    """All that is decided, parameter by parameter."""
    parts = {name: tower.part_of(name) for tower in towers for name in tower.names()}
    return tuple(
        ParameterPlan(
            name,
            *places[name],
            shape=shape,
            numel=prod(shape),
            trainable=name in rate,
            rule=rules.get(name, ""),
            lr=rate[name].lr if name in rate else None,
            weight_decay=rate[name].weight_decay if name in rate else None,
            part=parts.get(name, places[name][1]),
        )
        for name, shape in shapes.items()
    )


def _nothing_trains(lines: Mapping[str, str]) -> str:
    said = "; ".join(f"{tower} {line}" for tower, line in lines.items())
    return (
        f"model: nothing trains ({said}; projections and logit_scale are frozen too). Leave a projection at "
        "projection: train, or freeze fewer blocks"
    )


def _set_keys(section: TowerConfig) -> list[str]:
    return [key for key in FREEZE_KEYS if getattr(section, key) is not None]


def _shapes(model: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}

"""A strategy's name to the keys that it stands for, and which strategies go together.

Together they train what each of them trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import Any

from clipft.config.strategy_schema import DifferentialLr, LastLayers, Prompt, Strategy
from clipft.config.strategy_shares import ALL, RATES, Share, TowerShare, share_of


@dataclass(frozen=True)
class StrategyKey:
    """A key that a strategy sets.

    Args:
        path: the key.
        value: as YAML has it.
        why: what it is for, or where it is from.
    """

    path: tuple[str, ...]
    value: Any
    why: str


def keys_for(strategies: Sequence[Strategy]) -> tuple[StrategyKey, ...]:
    """The keys that these strategies stand for together; none for none.

    Raises:
        ValueError: two of them do not go together; the sentence says why.
    """
    if not strategies:
        return ()
    for one, other in combinations(strategies, 2):
        if why := refusal(one, other):
            raise ValueError(why)
    share = reduce(Share.__or__, map(share_of, strategies))
    if any(isinstance(strategy, DifferentialLr) for strategy in strategies):  # it is there for its rates
        share = replace(share, settings={**share.settings, **RATES["differential_lr"]})
    for tower, part in (("image", share.image), ("text", share.text)):
        if part.blocks == ALL and "lora" in part.new:
            raise ValueError(
                f"lora stands for weights that stand still, and another strategy trains the whole {tower} tower; write "
                f"{{name: lora, towers: [{'text' if tower == 'image' else 'image'}]}}"
            )
    return tuple(_keys(strategies, share))


def refusal(one: Strategy, other: Strategy) -> str:
    """Why two strategies do not go together; empty where they do."""
    names: set[str] = {one.name, other.name}
    by_name: dict[str, Strategy] = {strategy.name: strategy for strategy in (one, other)}
    if len(names) == 1:
        return f"{one.name} stands there twice"
    if names == {"freeze_image", "freeze_text"}:
        return "freeze_image and freeze_text each freeze what the other trains; write heads, logit_scale or full"
    for tower in ("image", "text"):
        rest = names - {f"freeze_{tower}"}
        if len(rest) == 1 and (rest == {"full"} or (rest == {"last_layers"} and _opens(by_name["last_layers"], tower))):
            return (
                f"freeze_{tower} freezes the {tower} tower, and {rest.pop()} trains of it; leave one out, or write the "
                "freeze keys of model.image and model.text"
            )
    if names == {"full", "lora"}:
        return "lora stands for weights that stand still, and full trains them; leave one out"
    if "linear_probe" in names:
        return _refused_by_classifier((names - {"linear_probe"}).pop(), by_name)
    return ""


def _refused_by_classifier(other: str, by_name: Mapping[str, Strategy]) -> str:
    """A classifier's loss does not look at the text tower, nor at logit_scale."""
    prompt = by_name.get("prompt")
    if isinstance(prompt, Prompt) and "text" in prompt.towers:
        return (
            "prompt trains vectors of the text tower, which linear_probe's classifier does not look at; write "
            "{name: prompt, towers: [image]}, or leave linear_probe out"
        )
    share = share_of(by_name[other])
    if share.text != TowerShare() and share.image == TowerShare():
        return f"{other} trains the text tower alone, which linear_probe's classifier does not look at; leave one out"
    if other == "logit_scale":
        return "logit_scale has no say over linear_probe's classifier; leave one out"
    return ""


def _opens(strategy: Strategy, tower: str) -> bool:
    assert isinstance(strategy, LastLayers)
    return isinstance(strategy.n, int) or getattr(strategy.n, tower) is not None


def _keys(strategies: Sequence[Strategy], share: Share) -> Iterator[StrategyKey]:
    names = {strategy.name for strategy in strategies}
    if names == {"differential_lr"}:  # says nothing of what trains
        yield from _settings(share.settings)
        return
    text = share.text
    if "linear_probe" in names:  # which looks at images alone
        text = TowerShare()
    for tower, part in (("image", share.image), ("text", text)):
        yield from _tower_keys(tower, part)
    if not share.logit_scale or "linear_probe" in names:
        yield StrategyKey(("model", "logit_scale", "train"), False, "stands still")
    yield from _settings(share.settings)


def _tower_keys(tower: str, part: TowerShare) -> Iterator[StrategyKey]:
    section = ("model", tower)
    if part.blocks is None:
        yield StrategyKey((*section, "freeze_backbone"), True, "stands still")
    elif part.blocks == ALL:
        yield StrategyKey((*section, "freeze_backbone"), False, "trains")
    else:
        layers = f"depth - {part.blocks}" if part.blocks else "depth"
        count = f"the last {part.blocks} blocks train" if part.blocks > 1 else "the last block trains"
        yield StrategyKey((*section, "freeze_layers"), layers, count if part.blocks else "norm and pooling train")
        if not part.norm:
            yield StrategyKey((*section, "norm"), "freeze", "stands still")
    if not part.projection:
        yield StrategyKey((*section, "projection"), "freeze", "stands still")
    for new in part.new:
        yield StrategyKey((*section, new), {}, "trains, with its defaults")


def _settings(settings: Mapping[str, tuple[Any, str]]) -> Iterable[StrategyKey]:
    return (StrategyKey(tuple(key.split(".")), value, why) for key, (value, why) in settings.items())

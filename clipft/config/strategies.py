"""A strategy's name to the keys that it stands for, and which strategies go together.

Together they train what each of them trains. Sources of the rates stand beside them; titles: FLYP (Finetune like you
pretrain, CVPR 2023), WiSE-FT (Robust fine-tuning of zero-shot models, CVPR 2022), CoOp (Learning to Prompt for
Vision-Language Models, IJCV 2022), CLIP-LoRA (Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPR workshops
2024), Soups (Word and Descriptor Soups, CVPR 2024), FT-CLIP (CLIP Itself is a Strong Fine-tuner, 2022), EVA-CLIP
(Improved Training Techniques for CLIP at Scale, 2023), Cross-modal (Multimodality Helps Unimodality, CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import combinations
from typing import Any

from clipft.config.strategy_schema import (
    Adapter,
    DifferentialLr,
    Full,
    Heads,
    LastLayers,
    LinearProbe,
    LogitScale,
    Lora,
    Prompt,
    Strategy,
)

ALL = 1 << 30  # blocks: more than any tower has


@dataclass(frozen=True)
class TowerShare:
    """What of a tower trains.

    Args:
        blocks: the last so many with norm and pooling, ALL for the whole backbone, None for nothing of it.
        norm: whether norm and pooling train beside them.
        projection: whether it trains.
        new: which new parameters it gets: lora, adapter, prompt.
    """

    blocks: int | None = None
    norm: bool = False
    projection: bool = False
    new: tuple[str, ...] = ()

    def __or__(self, other: TowerShare) -> TowerShare:
        blocks = [blocks for blocks in (self.blocks, other.blocks) if blocks is not None]
        return TowerShare(
            max(blocks, default=None),
            self.norm or other.norm,
            self.projection or other.projection,
            tuple(dict.fromkeys((*self.new, *other.new))),
        )


@dataclass(frozen=True)
class Share:
    """What one strategy, or several together, train, and the rates they go with.

    Args:
        logit_scale: whether it trains.
        settings: further keys, dotted, each with its value and why.
    """

    image: TowerShare = TowerShare()
    text: TowerShare = TowerShare()
    logit_scale: bool = False
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    def __or__(self, other: Share) -> Share:
        settings = {**other.settings, **self.settings}
        for key in self.settings.keys() & other.settings.keys():  # rates: the smaller does no harm
            settings[key] = min(self.settings[key], other.settings[key], key=_rate)
        return Share(self.image | other.image, self.text | other.text, self.logit_scale or other.logit_scale, settings)


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
        share = replace(share, settings={**share.settings, **_RATES["differential_lr"]})
    for tower, part in (("image", share.image), ("text", share.text)):
        if part.blocks == ALL and "lora" in part.new:
            raise ValueError(
                f"lora stands for weights that stand still, and another strategy trains the whole {tower} tower; write "
                f"{{name: lora, towers: [{'text' if tower == 'image' else 'image'}]}}"
            )
    return tuple(_keys(strategies, share))


def share_of(strategy: Strategy) -> Share:
    """What a strategy trains, and its rates."""
    whole = TowerShare(ALL, norm=True, projection=True)
    match strategy:
        case Full():
            return Share(whole, whole, logit_scale=True, settings=_RATES["full"])
        case LastLayers():
            return _last_layers(strategy)
        case Heads():
            head = TowerShare(projection=True)
            return Share(head, head, logit_scale=True, settings=_RATES["heads"] | _pull(strategy))
        case Lora() | Adapter() | Prompt():
            image, text = (
                TowerShare(new=(strategy.name,) if tower in strategy.towers else ()) for tower in ("image", "text")
            )
            return Share(image, text, settings=_RATES[strategy.name])
        case DifferentialLr():
            return Share(settings=_RATES["differential_lr"])
        case LogitScale():
            return Share(logit_scale=True)
        case LinearProbe():
            return Share(settings=_linear_probe(strategy))
        case _:
            trains = "text" if strategy.name == "freeze_image" else "image"
            return Share(**{trains: whole}, logit_scale=True, settings=_RATES["full"])


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


def _last_layers(strategy: LastLayers) -> Share:
    def share(blocks: int | None) -> TowerShare:
        if blocks is None:
            return TowerShare()
        return TowerShare(blocks, norm=strategy.norm, projection=strategy.projections)

    image, text = (strategy.n,) * 2 if isinstance(strategy.n, int) else (strategy.n.image, strategy.n.text)
    return Share(share(image), share(text), strategy.logit_scale, _RATES["last_layers"])


def _pull(strategy: Heads) -> dict[str, tuple[Any, str]]:
    if strategy.pull is None:
        return {}
    return {"train.regularize": ({"type": "l2sp", "weight": strategy.pull}, "ProLIP, section 3: near the start")}


def _linear_probe(strategy: LinearProbe) -> dict[str, tuple[Any, str]]:
    settings = {**_RATES["linear_probe"], "loss.type": ("classifier", "a linear head on labels")}
    if strategy.features == "pooled":
        settings["loss.features"] = ("pooled", "before the projection")
        settings["loss.init"] = ("random", "prompts have another width")
    return settings


_RATES: dict[str, dict[str, tuple[Any, str]]] = {
    "full": {"optim.lr": (1e-5, "FLYP; published rates are 1e-6 to 3e-5")},
    "last_layers": {
        "optim.lr": (2e-5, "Soups trains the last 3 blocks at 2e-5"),
        "optim.lr_heads": (1e-4, "ProLIP: projections bear 1e-5 to 1e-2"),
    },
    "heads": {"optim.lr_heads": (1e-4, "ProLIP: 1e-5 to 1e-2")},
    "prompt": {"optim.lr_new": (2e-3, "CoOp")},
    "lora": {"optim.lr_new": (2e-4, "CLIP-LoRA")},
    "adapter": {"optim.lr_new": (1e-3, "between Houlsby's 3e-4 and Soups' 2.5e-3")},
    "linear_probe": {"optim.lr_heads": (1e-3, "Cross-modal: 1e-4 to 1e-3")},
    "differential_lr": {
        "model.image.lr": ("x1", "EVA-CLIP: image to text 10 to 1"),
        "model.text.lr": ("x0.1", "EVA-CLIP"),
        "model.image.layer_decay": (0.75, "FT-CLIP 0.6 to 0.65, EVA-CLIP 0.85"),
        "model.text.layer_decay": (0.75, "EVA-CLIP"),
        "model.logit_scale.lr": ("x1", "as the towers"),
        "optim.lr_heads": ("x10", "heads know least"),
        "optim.lr_new": ("x10", "as the heads"),
    },
}


# --- to keys -------------------------------------------------------------------------------------


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


def _rate(setting: tuple[Any, str]) -> float:
    value = setting[0]
    return float(value) if isinstance(value, (int, float)) else 0.0  # a factor is differential_lr's, which wins anyway


def _settings(settings: Mapping[str, tuple[Any, str]]) -> Iterable[StrategyKey]:
    return (StrategyKey(tuple(key.split(".")), value, why) for key, (value, why) in settings.items())

"""What each strategy trains, and the rates it goes with.

Sources of the rates stand beside them; titles: FLYP (Finetune like you pretrain, CVPR 2023), CoOp (Learning to Prompt
for Vision-Language Models, IJCV 2022), CLIP-LoRA (Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPR
workshops 2024), ProLIP (CLIP's Visual Embedding Projector is a Few-shot Cornucopia, 2024), Houlsby (Parameter-Efficient
Transfer Learning for NLP, ICML 2019), Soups (Word and Descriptor Soups, CVPR 2024), FT-CLIP (CLIP Itself is a Strong
Fine-tuner, 2022), EVA-CLIP (Improved Training Techniques for CLIP at Scale, 2023), Cross-modal (Multimodality Helps
Unimodality, CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

RATES: dict[str, dict[str, tuple[Any, str]]] = {
    "full": {"optim.lr": (1e-5, "FLYP; published rates are 1e-6 to 3e-5")},
    "last_layers": {
        "optim.lr": (2e-5, "Soups trains the last 3 blocks at 2e-5"),
        "optim.lr_heads": (1e-4, "ProLIP: projections bear 1e-5 to 1e-2"),
    },
    "heads": {"optim.lr_heads": (1e-4, "ProLIP: 1e-5 to 1e-2")},
    "prompt": {"optim.lr_new": (2e-3, "CoOp under SGD; measured under AdamW: configs/README.md")},
    "lora": {"optim.lr_new": (2e-4, "CLIP-LoRA")},
    "adapter": {"optim.lr_new": (1e-3, "between Houlsby's 3e-4 and Soups' 2.5e-3")},
    "logit_scale": {"model.logit_scale.lr": (5e-4, "CLIP trained it at 5e-4 (table 20, ViT-B/32)")},
    "linear_probe": {"optim.lr_heads": (1e-2, "measured: configs/README.md (Cross-modal: 1e-3, 12,800 steps)")},
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


def share_of(strategy: Strategy) -> Share:
    """What a strategy trains, and its rates."""
    whole = TowerShare(ALL, norm=True, projection=True)
    match strategy:
        case Full():
            return Share(whole, whole, logit_scale=True, settings=RATES["full"])
        case LastLayers():
            return _last_layers(strategy)
        case Heads():
            head = TowerShare(projection=True)
            return Share(head, head, logit_scale=True, settings=RATES["heads"] | _pull(strategy))
        case Lora() | Adapter() | Prompt():
            image, text = (
                TowerShare(new=(strategy.name,) if tower in strategy.towers else ()) for tower in ("image", "text")
            )
            return Share(image, text, settings=RATES[strategy.name])
        case DifferentialLr():
            return Share(settings=RATES["differential_lr"])
        case LogitScale():
            return Share(logit_scale=True, settings=RATES["logit_scale"])
        case LinearProbe():
            return Share(settings=_linear_probe(strategy))
        case _:
            trains = "text" if strategy.name == "freeze_image" else "image"
            return Share(**{trains: whole}, logit_scale=True, settings=RATES["full"])


def _last_layers(strategy: LastLayers) -> Share:
    def share(blocks: int | None) -> TowerShare:
        if blocks is None:
            return TowerShare()
        return TowerShare(blocks, norm=strategy.norm, projection=strategy.projections)

    image, text = (strategy.n,) * 2 if isinstance(strategy.n, int) else (strategy.n.image, strategy.n.text)
    return Share(share(image), share(text), strategy.logit_scale, RATES["last_layers"])


def _pull(strategy: Heads) -> dict[str, tuple[Any, str]]:
    if strategy.pull is None:
        return {}
    return {
        "train.regularize": ({"type": "l2sp", "weight": strategy.pull}, "ProLIP, section 3: near the start"),
        "optim.weight_decay": (0.0, "ProLIP has none, which would pull to zero"),
    }


def _linear_probe(strategy: LinearProbe) -> dict[str, tuple[Any, str]]:
    settings = {**RATES["linear_probe"], "loss.type": ("classifier", "a linear head on labels")}
    if strategy.features == "pooled":
        settings["loss.features"] = ("pooled", "before the projection")
        settings["loss.init"] = ("random", "prompts have another width")
    return settings


def _rate(setting: tuple[Any, str]) -> float:
    value = setting[0]
    return float(value) if isinstance(value, (int, float)) else 0.0  # a factor is differential_lr's, which wins anyway

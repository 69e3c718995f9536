"""Each strategy on each family it claims: exactly what it names trains, all of that moves, and nothing else does."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from expected_names import expected, statistics, without_gradient
from tiny_families import FAMILIES
from train_runs import few_steps, tensors, view, write_base

from clipft.config.load import load_config
from clipft.config.schema import ModelConfig
from clipft.config.strategy_schema import STRATEGIES
from clipft.errors import InputError
from clipft.model.build import build_meta
from clipft.train.loop import Progress
from clipft.train.metrics_log import MetricsLog
from clipft.train.prepare import Prepared, prepare
from clipft.train.scale_search import search_scale
from clipft.train.start import start

KINDS = ("native, class token", "timm vit, class token", "modified resnet")
"""A native ViT and text, timm's ViT with a BERT, a network of convolutions."""
EACH = [family if family in KINDS else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]

CONVOLUTIONS = {
    *("modified resnet", "timm fastvit", "timm efficientnet, mlp", "timm efficientnet, no projection"),
    *("timm resnet", "timm convnext"),
}
NOT_IN_IMAGE = {  # what an image tower cannot have, and the key that the refusal names
    "lora": (CONVOLUTIONS, "model.image.lora.targets: "),
    "adapter": (CONVOLUTIONS, "model.image.adapter: "),
    "prompt": (CONVOLUTIONS | {"timm relpos", "timm relpos, shared", "timm swin"}, "model.image.prompt: "),
}
STEPS = 3  # LoRA's A and an adapter's way down have no gradient before their other half has moved


class Base(NamedTuple):
    """A family's tiny model with weights, and the names of its parameters."""

    folder: Path
    names: tuple[str, ...]


Ready = Callable[..., Prepared]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """The base of a family, written once."""

    @functools.cache
    def base(family: str) -> Base:
        folder = write_base(family, tmp_path_factory.mktemp("base") / "model", weights=True)
        model = build_meta(ModelConfig(name=f"local-dir:{folder}")).model
        return Base(folder, tuple(name for name, _ in model.named_parameters()))

    return base


@pytest.fixture
def ready(base: Callable[[str], Base], colour_folder: Callable[..., Path], tmp_path: Path) -> Ready:
    """Prepares a run of a family under a strategy, at rates at which three steps are seen."""
    folder = colour_folder(each=2)

    def ready(family: str, strategy: dict[str, Any], **model: Any) -> Prepared:
        if strategy["name"] == "prompt":
            model = {"text": {"prompt": {"length": 2}}, **model}
        config = {
            "strategy": strategy,
            "model": {"name": f"local-dir:{base(family).folder}", **model},
            "data": {"train": {"folder": str(folder)}, "val": None, "workers": 0},
            "optim": {"lr": 1e-3, "lr_heads": 1e-3, "lr_new": 1e-3, "weight_decay": 0.0, "eps": 1e-8},
            "train": {"precision": "fp32", "device": "cpu", "batch_size": 8},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return prepare(load_config(path).config)

    return ready


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", EACH)
def test_what_a_strategy_names_trains_and_moves(
    family: str, strategy: str, ready: Ready, base: Callable[[str], Base]
) -> None:
    """P15, P17, P49, P54: names by the libraries' own layout; where a tower can have nothing new, the other one has."""
    cannot, key = NOT_IN_IMAGE.get(strategy, ((), ""))
    towers: tuple[str, ...] = ("image", "text") if strategy in NOT_IN_IMAGE else ()
    if family in cannot:
        with pytest.raises(InputError) as refused:
            ready(family, {"name": strategy, "towers": ["image", "text"]})
        assert str(refused.value).startswith(key)
        towers = ("text",)
    options: dict[str, Any] = {"towers": list(towers)} if towers else {"n": 1} if strategy == "last_layers" else {}
    prepared = ready(family, {"name": strategy, **options})
    trained = expected(strategy, family, base(family).names, towers)
    assert {p.name for p in prepared.plan.trainable} == trained

    started = start(prepared)
    before = tensors(started)
    if prepared.searches:  # in place of steps
        search_scale(prepared, started, Progress(), None, view(), MetricsLog(None), save=lambda: None)
    else:
        few_steps(prepared, started, STEPS)
    after = tensors(started)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    buffers = [name for name, _ in started.clip.model.named_buffers()]
    assert moved | without_gradient(family, trained) == trained | statistics(trained, buffers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "targets"), [("timm convnext", ("fc", "proj")), ("timm fastvit", ("q", "k", "v", "o"))]
)
def test_lora_trains_where_its_refusal_says(
    family: str, targets: tuple[str, ...], ready: Ready, base: Callable[[str], Base]
) -> None:
    """P49: a network of convolutions has linear layers in some of its blocks."""
    written = f"write targets: [{', '.join(targets)}]"
    lora = {"name": "lora", "towers": ["image"]}
    with pytest.raises(InputError, match=re.escape(written)):
        ready(family, lora)
    prepared = ready(family, lora, image={"lora": {"targets": list(targets)}})
    trained = {p.name for p in prepared.plan.trainable}
    assert {name.split(".lora.")[1] for name in trained} == {
        f"{target}.{matrix}" for target in targets for matrix in "ab"
    }
    started = start(prepared)
    for group in started.stepper.optimizer.param_groups:
        group["eps"] = 1e-14  # FastViT's four places are nearly alike: next to no gradient for q and k
    before = tensors(started)
    few_steps(prepared, started, STEPS)
    assert {name for name, tensor in tensors(started).items() if not torch.equal(tensor, before[name])} == trained

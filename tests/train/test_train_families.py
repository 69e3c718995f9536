"""A tiny model of every family, trained for 20 steps with its first block frozen, and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import tiny_timm  # noqa: F401  # registers its models
import torch
import yaml
from tiny_families import FAMILIES
from train_runs import go, lines, write_base

from clipft.config.load import load_config
from clipft.export import export
from clipft.model.build import build
from clipft.model.saved import load_saved

SAMPLE = {"native, class token", "modified resnet", "siglip", "coca", "pe-core", "hf mt5, mlp", "hf m2m100"}
EACH = [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("family", EACH)
def test_twenty_steps_with_the_first_block_frozen(
    family: str, colour_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """P16, P45: the loss falls, what is frozen is bit-identical, and plain open_clip loads the same model."""
    config: dict[str, Any] = {
        "model": {
            # with weights, a checkpoint holds what trains alone and the rest comes from the base again
            "name": f"local-dir:{write_base(family, tmp_path / 'base', weights=True)}",
            "image": {"freeze_layers": 1},
            "text": {"freeze_layers": 1},
        },
        "data": {"train": {"folder": str(colour_folder())}, "val": None, "workers": 0, "augment": "none"},
        "optim": {"lr": 1e-3, "warmup": 0, "schedule": "constant"},
        "train": {"epochs": 5, "batch_size": 8, "precision": "fp32", "device": "cpu"},
        "run": {"dir": str(tmp_path / "run")},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    run = go(path).folder
    losses = [line["loss"] for line in lines(run, "step")]
    assert len(losses) == 20
    assert sum(losses[-4:]) / 4 < losses[0]
    check_frozen(path, run)
    check_export(run, tmp_path / "export")


def check_frozen(path: Path, run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    before = build(load_config(path).config.model, seed=0).model.state_dict()
    after = load_saved(run, "last").clip.model.state_dict()
    names: dict[bool, list[str]] = {True: [], False: []}
    for parameter in plan["parameters"]:
        names[parameter["trainable"]].append(parameter["name"])
    assert names[False]
    assert all(torch.equal(before[name], after[name]) for name in names[False])
    moved = [name for name in names[True] if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(names[True])  # some have a true gradient of zero, as a key bias has


def check_export(run: Path, out: Path) -> None:
    clip = load_saved(run, "last").clip
    export(str(run), str(out))
    again = open_clip.create_model(f"local-dir:{out}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    texts = ["a photo of a red cat", "two hands with blue dog"]
    assert torch.equal(tokenizer(texts), clip.tokenizer(texts))
    height, width = clip.image.describe().image_size
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(x), clip.model.encode_image(x), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            again.encode_text(tokenizer(texts)), clip.model.encode_text(clip.tokenizer(texts)), atol=1e-6, rtol=0
        )

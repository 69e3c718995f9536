"""What the tests of mixed weights share: three real runs of one base that tell colours apart, each in its own way."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from clipft.config.load import load_config
from clipft.report.train_view import TrainView
from clipft.train.run import train

COLOURS = {"red": (190, 70, 70), "green": (70, 190, 70), "blue": (70, 70, 190), "grey": (130, 130, 130)}

Train = Callable[..., Path]
"""Trains a base on the colours and returns the run; sections are merged over the config."""


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train` and `val`: a folder a colour, so noisy that a tiny model errs here and there."""
    folder = tmp_path_factory.mktemp("colours")
    noise = np.random.default_rng(0)
    for split, each in (("train", 8), ("val", 6)):
        for colour, value in COLOURS.items():
            (folder / split / colour).mkdir(parents=True)
            for number in range(each):
                pixels = np.clip(noise.normal(value, 90, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / colour / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def train_colours(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Train:
    def run(base: Path, **sections: dict[str, Any]) -> Path:
        values: dict[str, Any] = {
            "model": {"name": f"local-dir:{base}"},
            "data": {"train": {"folder": str(colours / "train")}, "val": {"folder": str(colours / "val")}},
            "optim": {"lr": 1e-3, "warmup": 1},
            "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "device": "cpu"},
            "run": {"dir": str(tmp_path_factory.mktemp("run") / "run")},
        }
        for section, keys in sections.items():
            values[section] = values.get(section, {}) | keys
        values["data"] |= {"workers": 0}
        path = tmp_path_factory.mktemp("config") / "colours.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return train(load_config(path, ()), "colours", TrainView(Console(file=io.StringIO(), width=100))).folder

    return run


@pytest.fixture(scope="session")
def three_runs(train_colours: Train, tiny_native: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Of one base, at three rates."""
    return tuple(
        train_colours(tiny_native, optim={"lr": lr, "warmup": 1}, run=_in(tmp_path_factory, seed))
        for seed, lr in enumerate((1e-3, 5e-4, 7e-4))
    )


def _in(factory: pytest.TempPathFactory, seed: int) -> dict[str, Any]:
    return {"dir": str(factory.mktemp("run") / "run"), "seed": seed}

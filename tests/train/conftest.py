"""What the tests of training share: an architecture without weights and pictures that are easily told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_files import write_colours, write_native
from train_runs import Begin

from clipft.config.schema import Config
from clipft.data.batches import Batch
from clipft.model.standstill import set_modes
from clipft.train.prepare import prepare
from clipft.train.start import Started, start


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., str]:
    """Writes an architecture without weights and returns its `model.name`; keys of model_cfg may be changed."""

    def write(**changes: Any) -> str:
        return f"local-dir:{write_native(tmp_path / 'tiny', weights=False, **changes)}"

    return write


@pytest.fixture
def colour_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder a class of a few one-coloured pictures."""

    def write(name: str = "colours", each: int = 8) -> Path:
        return write_colours(tmp_path / name, each)

    return write


@pytest.fixture
def write(tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a config of a four-colour run; sections are merged over it."""
    folder, val = colour_folder(), colour_folder("val", each=3)

    def write(name: str = "colours", cfg: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Path:
        config: dict[str, Any] = {
            "model": {"name": tiny_model(**(cfg or {}))},
            "data": {"train": {"folder": str(folder)}, "val": {"folder": str(val)}, "workers": 0},
            "optim": {"lr": 1e-3},
            "train": {"epochs": 4, "batch_size": 8, "precision": "fp32", "device": "cpu"},
            "run": {"dir": str(tmp_path / "runs" / name)},
        }
        for section, keys in sections.items():
            config.setdefault(section, {}).update(keys)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


@pytest.fixture
def begin(tiny_model: Callable[..., str], colour_folder: Callable[..., Path]) -> Begin:
    """Starts a four-colour run and makes it a batch of noise."""
    folder = colour_folder()

    def begin(
        *, rows: int = 8, model: dict[str, Any] | None = None, cfg: dict[str, Any] | None = None, **sections: Any
    ) -> tuple[Started, Batch]:
        config = Config.model_validate(
            {
                "model": {"name": tiny_model(**(cfg or {})), **(model or {})},
                "data": {"train": {"folder": str(folder)}, "val": None, "workers": 0},
                **sections,
                "train": {"precision": "fp32", "device": "cpu", "batch_size": rows, **sections.get("train", {})},
            }
        )
        prepared = prepare(config)
        started = start(prepared)
        set_modes(started.clip.model, prepared.plan, training=True)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(rows, 3, 32, 32, generator=generator)
        labels = torch.arange(rows) % 4
        captions = [f"a photo of a {prepared.classes[i]}." for i in labels.tolist()]
        return started, Batch(images, captions, labels, torch.arange(rows), torch.arange(rows), ())

    return begin

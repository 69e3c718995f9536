"""What the tests of whole runs share: starting one, stopping one as a killed process would, reading what it wrote."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from tiny_families import FAMILIES
from tiny_files import MEAN, STD, write_open_clip, write_word_tokenizer

from clipft.config.load import load_config
from clipft.config.schema import ModelConfig
from clipft.data.batches import Batch
from clipft.model.build import build
from clipft.model.saved import load_saved
from clipft.model.standstill import set_modes
from clipft.report.train_view import TrainView
from clipft.train.ending import Finished
from clipft.train.prepare import Prepared
from clipft.train.run import train
from clipft.train.start import Started

Write = Callable[..., Path]
"""Writes a config of a four-colour run; sections are merged over it."""

Begin = Callable[..., tuple[Started, Batch]]
"""Starts a four-colour run and makes it a batch of noise; sections are merged over its config."""


VOCABULARY = 49408  # of open_clip's own tokenizer


def write_base(family: str, folder: Path, *, weights: bool = False) -> Path:
    """A local-dir: of the family's architecture, with a tokenizer of its own where it needs one."""
    folder.mkdir()
    cfg = FAMILIES[family](folder)
    text = cfg["text_cfg"]
    if name := text.get("hf_model_name"):
        encoder = json.loads((Path(name) / "config.json").read_text())
        write_word_tokenizer(folder, encoder["pad_token_id"])
        text["context_length"] = 16
    else:
        text |= {"vocab_size": VOCABULARY} | ({"eos_id": VOCABULARY - 1} if text.get("pool_type") == "eos" else {})
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    write_open_clip(folder, cfg, preprocess)
    if weights:
        model = build(ModelConfig(name=f"local-dir:{folder}"), seed=5).model
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def view() -> TrainView:
    return TrainView(Console(file=io.StringIO(), width=100))


def said(shown: TrainView) -> str:
    assert isinstance(shown.console.file, io.StringIO)
    return shown.console.file.getvalue()


def go(path: Path, *overrides: str, shown: TrainView | None = None, resume: bool = False) -> Finished:
    return train(load_config(path, overrides), path.stem, shown or view(), resume=resume)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_saved(run, "last").clip.model.state_dict()


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def tensors(started: Started) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    model = started.clip.model
    return {n: t.detach().clone() for own in (model.named_parameters(), model.named_buffers()) for n, t in own}


def few_steps(prepared: Prepared, started: Started, count: int) -> None:
    """Optimiser steps at the peak rates, on pictures of noise and prompts of the classes."""
    set_modes(started.clip.model, prepared.plan, training=True)
    size = started.clip.preprocess_cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(8)
    labels = rows % len(prepared.classes)
    captions = [f"a photo of a {prepared.classes[i]}." for i in labels.tolist()]
    for _ in range(count):
        images = torch.randn(8, 3, height, width, generator=generator)
        started.stepper(Batch(images, captions, labels, rows, rows, ()))


def gradients(started: Started, batch: Batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    started.stepper.optimizer.zero_grad(set_to_none=True)
    started.stepper._backward(batch)
    return {n: p.grad.clone() for n, p in started.clip.model.named_parameters() if p.grad is not None}


def with_stages(path: Path, *stages: dict[str, object]) -> Path:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["train"].pop("epochs")
    path.write_text(yaml.safe_dump({**config, "stages": list(stages)}), encoding="utf-8")
    return path


def swapped(folder: Path) -> Path:
    """A copy of a folder a colour in which each class has another one's pictures: a run on it gets worse, soundly."""
    lies = folder.with_name(f"{folder.name}-swapped")
    for old, new in (("red", "blue"), ("blue", "red"), ("green", "white"), ("white", "green")):
        shutil.copytree(folder / old, lies / new)
    return lies


class StoppedError(Exception):
    """Raised to stop a run where a test wants."""


def stop_after(epochs: int, path: Path, monkeypatch: pytest.MonkeyPatch, shown: TrainView | None = None) -> None:
    """Run until `epochs` epochs are saved, then die as a killed process would: without a word."""
    from clipft.train.keeper import Keeper

    real = Keeper.save

    def save(self: Keeper, *, epoch_end: bool = True) -> None:
        real(self, epoch_end=epoch_end)
        if epoch_end and self.progress.epoch == epochs:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", save)
        with pytest.raises(StoppedError):
            go(path, shown=shown)


def stop_after_step(step: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until step `step` is saved as the best, then die."""
    from clipft.train.keeper import Keeper

    real = Keeper.save

    def save(self: Keeper, *, epoch_end: bool = True) -> None:
        real(self, epoch_end=epoch_end)
        if self.progress.step == step:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "save", save)
        with pytest.raises(StoppedError):
            go(path)

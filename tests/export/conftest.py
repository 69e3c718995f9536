"""What the tests of exporting share: real runs of one tiny pretrained model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from tiny_files import write_colours, write_native
from tuned_runs import TUNED, TunedRun

from clipft.config.load import load_config
from clipft.report.train_view import TrainView
from clipft.train.run import train


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> TunedRun:
    """Trains a tiny pretrained model on four colours for an epoch, once for each case of `TUNED`."""
    place = tmp_path_factory.mktemp("tuned")
    base = write_native(place / "base")
    data = {"train": {"folder": str(write_colours(place / "colours"))}, "workers": 0}
    data |= {"val": {"folder": str(write_colours(place / "val", each=3))}, "templates": ["a photo of a {}.", "{}"]}
    done: dict[str, Path] = {}

    def tune(case: str, **sections: Any) -> Path:
        name = f"{case} {sections}" if sections else case
        if name not in done:
            image, text = TUNED[case]
            config = {
                "model": {"name": f"local-dir:{base}", "image": image, "text": text} | sections.pop("model", {}),
                "data": data,
                "optim": {"name": "sgd", "lr": 0.05, "lr_new": 0.1},
                "train": {"epochs": 1, "batch_size": 8, "precision": "fp32", "device": "cpu"},
                "run": {"dir": str(place / "runs" / str(len(done)))},
                **sections,
            }
            path = place / f"{len(done)}.yaml"
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            view = TrainView(Console(file=io.StringIO(), width=100))
            done[name] = train(load_config(path), path.stem, view).folder
        return done[name]

    return tune

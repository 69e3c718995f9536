"""BatchNorm layers that train on a batch's own statistics are said before the first step."""

from __future__ import annotations

from train_runs import Write, said, view
from typer.testing import CliRunner

from clipft.cli import app
from clipft.config.load import load_config
from clipft.train.opening import show_stage
from clipft.train.prepare import prepare

VISION = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}


def test_batchnorms_that_train_are_said(write: Write) -> None:
    """P16: how many, and at which batch; nothing where all of them stand still."""
    path = write(cfg={"vision_cfg": VISION}, model={"image": {"freeze_layers": "depth - 1"}})
    shown = view()
    show_stage(prepare(load_config(path).config), shown)
    words = " ".join(said(shown).split())
    assert "BatchNorm layers train, by the statistics of each batch in place of the base's: at batch 8" in words
    told = CliRunner().invoke(app, ["freeze-report", str(path)]).output
    assert "BatchNorm layers train, by the statistics" in " ".join(told.split())
    lines = told.splitlines()
    note = next(number for number, line in enumerate(lines) if "layers train, by" in line)
    assert lines[note].startswith(" note     ")
    assert all(line.startswith(" " * 10) for line in lines[note + 1 : note + 3])
    frozen = ["--set", "model.image.freeze_backbone=true"]
    assert "layers train, by" not in CliRunner().invoke(app, ["freeze-report", str(path), *frozen]).output

"""Runs in which nothing but logit_scale trains: computed, measured, saved, and like any run afterwards."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import StoppedError, Write, go, lines, said, view, weights
from typer.testing import CliRunner

from clipft.cli import app
from clipft.config.load import load_config
from clipft.errors import InputError
from clipft.evaluate.compare import evaluate_target
from clipft.export import export
from clipft.model.build import build
from clipft.train.overfit import overfit
from clipft.train.rehearsal import dry_run

FROZEN = {"freeze_backbone": True, "projection": "freeze"}
ONLY_SCALE: dict[str, Any] = {"image": FROZEN, "text": FROZEN}


def test_the_search_finds_what_no_scale_beats_and_changes_no_answer(write: Write) -> None:
    shown = view()
    path = write(model=ONLY_SCALE, evaluate={"best": "nll"}, train={"batch_size": 64})  # more than the 32 rows
    run = go(path, shown=shown)
    (found,) = lines(run.folder, "search")
    assert found["train"]["before"]["right"] == found["train"]["after"]["right"]
    assert found["train"]["after"]["nll"] < found["train"]["before"]["nll"]
    assert {"ece", "rows"} <= found["val"]["after"].keys()
    assert run.base["zero_shot_top1"] == run.tuned["zero_shot_top1"]
    before, after = (e["loss"]["nll"] for e in lines(run.folder, "evaluation"))
    assert (before, after) == pytest.approx(tuple(found["val"][when]["nll"] for when in ("before", "after")), rel=1e-6)
    assert not lines(run.folder, "step")

    config, tuned = load_config(run.folder / "config.yaml").config, weights(run.folder)
    base = build(config.model, config.run.seed).model.state_dict()
    assert {name for name in base if not torch.equal(base[name], tuned[name])} == {"logit_scale"}
    assert float(tuned["logit_scale"]) == pytest.approx(math.log(found["logit_scale"]["after"]), abs=1e-6)
    text = " ".join(said(shown).split())
    after = found["train"]["after"]["nll"]
    assert "train NLL val NLL zero-shot top-1 base - " in text  # one measure, no epoch
    assert f"found {after:.3f} {run.tuned['nll']:.3f} {run.tuned['zero_shot_top1']:.3f} " in text
    assert "epoch " not in text.replace("first epoch", "")
    assert "optimiser" not in text.replace("without gradients or optimiser", "")
    assert "the best logit_scale between 1 and 100 for the prompts of all 4 classes" in text
    assert "right, as before" in text
    assert "warm-up" not in text


def test_captions_are_told_apart_in_the_batches_of_training(write: Write) -> None:
    """The loss that the search begins with is that of the first step of a run that trains by gradient."""
    path = write()
    table = ["image,caption"]
    for colour in ("red", "green", "blue", "white"):
        table += [f"colours/{colour}/colours-{i}.png,{colour} number {i}" for i in range(2)]
    (path.parent / "a.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    data = {"train": {"table": str(path.parent / "a.csv"), "caption": "caption"}, "val": None, "augment": "none"}
    shown = view()
    searched = go(write("searched", model=ONLY_SCALE, data=data), shown=shown)
    stepped = go(write("stepped", data=data, train={"epochs": 1}, optim={"warmup": 0}))
    (found,) = lines(searched.folder, "search")
    (step,) = lines(stepped.folder, "step")
    assert found["train"]["before"]["loss"] == pytest.approx(step["loss"], rel=1e-5)
    assert found["train"]["after"]["loss"] < found["train"]["before"]["loss"]
    assert "for the captions of fixed batches of 8" in " ".join(said(shown).split())


@pytest.mark.parametrize("labels", [True, False])
def test_under_siglip_the_bias_is_found_too(write: Write, labels: bool) -> None:
    cfg = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
    path = write("siglip", cfg, model=ONLY_SCALE)
    overrides = []
    if not labels:
        table = ["image,caption", *(f"colours/{c}/colours-{i}.png,{c} {i}" for c in ("red", "blue") for i in range(8))]
        (path.parent / "a.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
        overrides = [f"data={{train: {{table: {path.parent / 'a.csv'}, caption: caption}}, val: 0.25, workers: 0}}"]
    run = go(path, *overrides)
    (found,) = lines(run.folder, "search")
    assert found["logit_bias"]["before"] == -10
    assert found["train"]["after"]["loss"] < found["train"]["before"]["loss"]
    assert found["train"]["after"]["right"] == found["train"]["before"]["right"]
    assert float(weights(run.folder)["logit_bias"]) == pytest.approx(found["logit_bias"]["after"], rel=1e-6)


def test_a_bound_that_holds_the_scale_is_told(write: Write) -> None:
    shown = view()
    scale = {"logit_scale": {"min": 60.0, "max": 61.0, "init": 60.5}}
    run = go(write(model=ONLY_SCALE | scale), shown=shown)
    (found,) = lines(run.folder, "search")
    assert found["logit_scale"]["after"] == pytest.approx(60, rel=1e-6)
    assert "the scale is held at model.logit_scale.min: 60" in " ".join(said(shown).split())


def test_a_run_stopped_after_its_search_ends_without_searching_again(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = go(write("straight", model=ONLY_SCALE))
    path = write("stopped", model=ONLY_SCALE)
    with monkeypatch.context() as patch:
        patch.setattr("clipft.train.run._finish", _stop)
        with pytest.raises(StoppedError):
            go(path)
    resumed = go(path)
    assert resumed.folder.name == "stopped"
    assert (resumed.base, resumed.tuned) == (straight.base, straight.tuned)
    assert len(lines(resumed.folder, "search")) == 1
    assert torch.equal(weights(resumed.folder)["logit_scale"], weights(straight.folder)["logit_scale"])


def _stop(*_: object) -> None:
    raise StoppedError


def test_beside_anything_else_the_scale_trains_by_gradient(write: Write) -> None:
    run = go(write(model={"image": FROZEN, "text": {"freeze_backbone": True}}, train={"epochs": 1}))
    assert not lines(run.folder, "search")
    assert len(lines(run.folder, "step")) == 4


def test_in_stages_the_scale_trains_by_gradient(write: Write) -> None:
    frozen = {"image": {"projection": "freeze"}, "text": {"projection": "freeze"}}
    model = {"image": {"freeze_backbone": True}, "text": {"freeze_backbone": True}}
    run = go(
        write(model=model, train={"epochs": 2}), "stages=[{epochs: 1}, {epochs: 1, model: " + json.dumps(frozen) + "}]"
    )
    assert not lines(run.folder, "search")
    assert [line["stage"] for line in lines(run.folder, "step")] == [0] * 4 + [1] * 4


def test_the_strategy_by_its_name_on_the_command_line(write: Write) -> None:
    path = write()
    told = CliRunner().invoke(app, ["train", str(path), "--set", "strategy=logit_scale"])
    assert told.exit_code == 0
    (found,) = lines(path.parent / "runs" / "colours", "search")
    assert found["train"]["after"]["nll"] < found["train"]["before"]["nll"]
    assert "right, as before" in " ".join(told.output.split())


def test_what_was_found_is_evaluated_and_exported_as_any_run(write: Write, tmp_path: Path) -> None:
    run = go(write(model=ONLY_SCALE))
    found = evaluate_target(str(run.folder), None, device=torch.device("cpu"), workers=0)
    assert found.tuned is not None
    assert found.tuned.losses["nll"] == pytest.approx(run.tuned["nll"])
    export(str(run.folder), str(tmp_path / "out"))
    assert json.loads((run.folder / "result.json").read_text())["frozen_checked"] > 20


def test_a_rehearsal_writes_nothing(write: Write, tmp_path: Path) -> None:
    shown = view()
    path = write(model=ONLY_SCALE)
    dry_run(load_config(path), path.stem, shown)
    assert "the search for logit_scale is left out" in " ".join(said(shown).split())
    assert not (tmp_path / "runs").exists()


def test_too_many_unreadable_images_end_the_search(write: Write, tmp_path: Path) -> None:
    """P3."""
    image = tmp_path / "colours" / "red" / "colours-0.png"
    image.write_bytes(image.read_bytes()[:50])  # its header is sound
    with pytest.raises(InputError, match=r"1 of 32 images of folder .* data\.max_bad_fraction"):
        go(write(model=ONLY_SCALE))
    assert go(write("lenient", model=ONLY_SCALE, data={"max_bad_fraction": 0.1})).tuned


def test_an_image_that_is_searched_on_and_measured_on_is_named_once(write: Write, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "colours", tmp_path / "held-out")
    image = tmp_path / "held-out" / "red" / "colours-0.png"
    image.write_bytes(image.read_bytes()[:50])
    shown = view()
    data = {"val": {"folder": str(tmp_path / "held-out")}, "max_bad_fraction": 0.1}
    go(write(model=ONLY_SCALE, data=data), shown=shown)
    assert "".join(said(shown).split()).count("colours-0.png:") == 1


def test_what_the_search_does_not_do_is_refused(write: Write) -> None:
    path = write(loss={"type": "zero_shot", "label_smoothing": 0.1})
    with pytest.raises(InputError, match=r"loss.label_smoothing: where logit_scale alone trains, it is fitted"):
        go(path, "strategy=logit_scale")
    with pytest.raises(InputError, match="where logit_scale alone trains, no row can be learnt"):
        overfit(load_config(write(), ["strategy=logit_scale"]), view(), steps=2)


def test_novel_classes_have_no_say_in_the_search(write: Write) -> None:
    """P62: what is measured on them must not have been fitted to them."""
    shown = view()
    go(write(evaluate={"novel_classes": "half"}), "strategy=logit_scale", shown=shown)
    assert "all 2 classes" in " ".join(said(shown).split())


def test_a_search_has_no_rate_no_step_and_no_loss_among_classes(write: Write) -> None:
    path = write(model=ONLY_SCALE)
    told = CliRunner().invoke(app, ["freeze-report", str(path)]).output
    assert re.search(r"logit_scale +1 +1 +1 +- ", told)
    assert "optimiser 8 B" not in told
    assert "a step" not in told
    plan = json.loads(CliRunner().invoke(app, ["freeze-report", str(path), "--json"]).output)
    assert plan["cost"] is None
    assert {p["lr"] for p in plan["parameters"]} == {None}
    with pytest.raises(InputError, match=r"evaluate.best: 'loss' is not measured.*nll"):
        go(path, "evaluate.best=loss")

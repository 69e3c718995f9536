"""`train.ema`: an average that is measured and saved, beside weights that go on training."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train_runs import Begin, Write, go, lines, said, same, stop_after, view, weights, with_stages

from clipft.config.load import load_config
from clipft.data.sources import read_splits
from clipft.evaluate.measure import measure
from clipft.model.runfiles import OPTIMIZER
from clipft.model.saved import load_saved
from clipft.train.average import NO_AVERAGE, Average
from clipft.train.plan_report import report_plans


def test_it_is_a_plain_loops() -> None:
    """(1 + t) / (10 + t) while that is less than the decay, then the decay."""
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    average = Average({"a": parameter}, 0.6)
    plain = parameter.detach().double().clone()
    for step in range(30):
        with torch.no_grad():
            parameter += torch.randn(4, 3)
        average.update()
        decay = min(0.6, (1 + step) / (10 + step))
        plain = decay * plain + (1 - decay) * parameter.detach().double()
    now = parameter.detach().clone()
    with average.in_place():
        torch.testing.assert_close(parameter.detach().double(), plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(parameter, now)


def test_a_skipped_step_does_not_move_it(begin: Begin) -> None:
    """fp16 steps that overflow."""
    started, batch = begin(train={"ema": {}})
    stepper = started.stepper
    stepper.scaler = torch.amp.GradScaler("cpu", enabled=True)
    stepper(batch)
    name, parameter = "visual.proj", started.clip.model.visual.proj
    with stepper.average.in_place():
        before = parameter.detach().clone()
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    assert stepper(batch).skipped
    assert stepper.average.updates == 1
    with stepper.average.in_place():
        assert torch.equal(started.clip.model.get_parameter(name), before)


def test_training_never_sees_it(write: Write) -> None:
    """The losses and the weights kept for going on are those of a run without an average."""
    plain, averaged = (
        go(write(name, train={"epochs": 2, **ema}))
        for name, ema in (("plain", {}), ("averaged", {"ema": {"decay": 0.9}}))
    )
    ours, theirs = ([x["loss"] for x in lines(f.folder, "step")] for f in (averaged, plain))
    assert ours == theirs
    trained = load_file(next(averaged.folder.glob("checkpoints/step-*08")) / OPTIMIZER)
    assert all(torch.equal(tensor, trained[f"trained/{name}"]) for name, tensor in weights(plain.folder).items())
    assert not same(weights(plain.folder), weights(averaged.folder))


def test_what_is_measured_is_what_is_saved(write: Write) -> None:
    """The figures of the last evaluation come again from the saved model; frozen tensors are the base's."""
    path = write(train={"ema": {"decay": 0.9}, "epochs": 2}, model={"text": {"freeze_backbone": True}})
    shown = view()
    run = go(path, shown=shown).folder
    saved = load_saved(run, "last")
    assert saved.state["ema"] == {"updates": 8}
    rows = read_splits(saved.config.data, 0).val
    assert rows is not None
    found = measure(saved.clip, rows, templates=saved.templates, batch_size=8, workers=0, device=torch.device("cpu"))
    last = lines(run, "evaluation")[-1]
    assert last["weights"] == "ema"
    assert {name: last["metrics"][name] for name in found.metrics} == found.metrics
    assert "average of the weights" in said(shown)
    assert json.loads((run / "result.json").read_text())["frozen_checked"] > 0


def test_a_resumed_run_is_the_straight_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P35, P37: the average, the weights below it, and all that is measured."""
    settings: dict[str, Any] = {
        "model": {"image": {"dropout": 0.1}, "text": {"freeze_layers": 1}},
        "train": {"ema": {"decay": 0.9}, "epochs": 2},
        "evaluate": {"best": "loss"},
    }
    straight = go(write("straight", **settings))
    path = write("stopped", **settings)
    stop_after(1, path, monkeypatch)
    resumed = go(path, resume=True)
    assert same(weights(straight.folder), weights(resumed.folder))
    files = [load_file(next(f.folder.glob("checkpoints/step-*08")) / OPTIMIZER) for f in (straight, resumed)]
    assert same(*files)
    assert resumed.tuned == straight.tuned
    ours, theirs = ([x["metrics"] for x in lines(f.folder, "evaluation")] for f in (resumed, straight))
    assert ours == theirs


def test_statistics_that_move_are_taken_as_they_are(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm's running means: saved as training has them, and so after a resume."""
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    settings: dict[str, Any] = {"cfg": {"vision_cfg": vision}, "train": {"ema": {"decay": 0.9}, "epochs": 2}}
    plain = weights(go(write("plain", cfg=settings["cfg"], train={"epochs": 2})).folder)
    path = write("stopped", **settings)
    stop_after(1, path, monkeypatch)
    resumed = weights(go(path).folder)
    means = {name for name in plain if name.endswith("running_mean")}
    assert means
    assert all(torch.equal(plain[name], resumed[name]) for name in means)


def test_a_scale_that_is_computed_is_not_averaged(write: Write) -> None:
    """Where nothing but logit_scale trains, its optimum is saved as it was found, and that is said."""
    still = {tower: {"freeze_backbone": True, "projection": "freeze"} for tower in ("image", "text")}
    shown = {"plain": view(), "ema": view()}
    train: dict[str, dict[str, Any]] = {"plain": {}, "ema": {"ema": {}}}
    paths = {name: write(name, model=still, train=train[name]) for name in shown}
    plain, averaged = (go(paths[name], shown=shown[name]) for name in shown)
    assert [NO_AVERAGE in " ".join(said(one).split()) for one in shown.values()] == [False, True]
    reports = (report_plans(load_config(path).config)[0] for path in paths.values())
    assert [NO_AVERAGE in report.notes for report in reports] == [False, True]
    assert same(weights(plain.folder), weights(averaged.folder))
    assert load_saved(averaged.folder).state["ema"] is None


def test_without_it_nothing_of_it_is_written(write: Write) -> None:
    run = go(write(train={"epochs": 1})).folder
    assert load_saved(run).state["ema"] is None
    assert "weights" not in lines(run, "evaluation")[-1]
    assert not any(name.startswith("trained/") for name in load_file(next(run.glob("checkpoints/step-*")) / OPTIMIZER))


def test_a_stage_begins_with_the_average_of_the_one_before(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run from its checkpoint does; and when it was stopped between the two."""
    ema = {"ema": {"decay": 0.9}}
    heads = {"image": {"freeze_backbone": True}, "text": {"freeze_backbone": True}}
    stages = ({"epochs": 1}, {"epochs": 1, "model": heads, "reset_optimizer": True})
    both = go(with_stages(write("both", train=ema), *stages))
    first = go(write("first", train={**ema, "epochs": 1}))
    base = {"pretrained": str(first.folder), **heads}
    second = go(write("second", model=base, train={**ema, "epochs": 1, "first_epoch": 1}))
    a, b = weights(both.folder), weights(second.folder)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= 1e-6
    path = with_stages(write("stopped", train=ema), *stages)
    stop_after(1, path, monkeypatch)
    assert same(a, weights(go(path).folder))

"""Whole runs of a tiny real model on tiny real pictures."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from train_runs import Write, go, lines, said, same, view, weights

from clipft.config.load import load_config
from clipft.data.sources import read_splits
from clipft.errors import ConfigError, InputError
from clipft.evaluate.measure import measure
from clipft.model.build import build
from clipft.model.runfiles import open_checkpoint, verify
from clipft.model.saved import load_saved
from clipft.train.checkpoint import committed
from clipft.train.rehearsal import dry_run


def test_a_run_learns_and_records_itself(write: Write) -> None:
    path = write(evaluate={"best": "zero_shot_top1"}, train={"epochs": 8})
    shown = view()
    finished = go(path, shown=shown)
    assert finished.tuned["zero_shot_top1"] == 1.0
    assert {p.name for p in finished.folder.iterdir()} >= {
        "config.yaml", "plan.json", "environment.json", "metrics.jsonl", "log.txt", "checkpoints", "result.json",
    }  # fmt: skip
    assert len(lines(finished.folder, "step")) == 8 * 4
    evaluations = lines(finished.folder, "evaluation")
    assert [e["epoch"] for e in evaluations] == list(range(9))
    assert "loss" in evaluations[0]["loss"]
    text = said(shown)
    assert (finished.folder / "log.txt").read_text().splitlines()[-1].strip() in text
    for command in ("clipft evaluate", "clipft predict", "clipft export"):
        assert command in text


def test_the_first_batch_is_drawn(write: Write) -> None:
    """P11: what the model sees after crops, with the words beside it."""
    finished = go(write(train={"epochs": 1}))
    with Image.open(finished.folder / "first-batch.jpg") as sheet:
        assert sheet.size == (4 * 160, 2 * 200)  # 8 rows of the batch in four columns
        assert len(sheet.getcolors(1 << 20)) > 100


def test_pieces_change_neither_the_steps_nor_the_rates(write: Write) -> None:
    """P33: the schedule counts optimiser steps."""
    whole = go(write("whole", train={"epochs": 2}))
    pieces = go(write("pieces", train={"epochs": 2, "micro_batch_size": 3}))
    ours, theirs = (lines(f.folder, "step") for f in (pieces, whole))
    assert [(x["step"], x["lr"]) for x in ours] == [(x["step"], x["lr"]) for x in theirs]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-5)


def test_a_batch_in_pieces_is_said_to_be_one_batch(write: Write) -> None:
    """P22: with its negatives; a form that averages the pieces' gradients, and adds no negatives, is not offered."""
    path = write()
    for pieces, told in (
        ((), ""),
        (("train.micro_batch_size=3",), ", encoded 3 at a time with the gradient of the whole"),
    ):
        shown = view()
        dry_run(load_config(path, pieces), "x", shown)
        words = " ".join(said(shown).split())
        assert f"8 pairs x 1 process{told} · " in words
        assert "these are positives of each other, 5.4 negatives a row" in words  # of 8, whatever the pieces
    for key in ("accumulate_grad_batches", "gradient_accumulation_steps", "accum_freq"):
        with pytest.raises(ConfigError, match=rf"train\.{key}: unknown key"):
            load_config(path, [f"train.{key}=4"])


def test_the_untouched_model_is_scored_first(write: Write) -> None:
    """P29: epoch 0 is the base's own figure, and is never the best checkpoint."""
    finished = go(write(evaluate={"best": "zero_shot_top1"}, optim={"lr": 1e-12}))
    base = lines(finished.folder, "evaluation")[0]
    assert (base["epoch"], base["step"]) == (0, 0)
    config = load_config(finished.folder / "config.yaml").config
    clip, rows = build(config.model, config.run.seed), read_splits(config.data, 0).val
    assert rows is not None
    untouched = measure(
        clip, rows, templates=config.data.templates, batch_size=8, workers=0, device=torch.device("cpu")
    )
    assert base["metrics"] == untouched.metrics
    best = json.loads((finished.folder / "checkpoints" / "best.json").read_text())
    assert best["epoch"] == 1


def test_a_config_saved_beside_the_weights_runs_again(write: Write) -> None:
    """P69: the resolved config, bit for bit the same run."""
    path = write()
    first = go(path, "optim.lr=2e-3")
    again = go(first.folder / "config.yaml", f"run.dir={first.folder.parent / 'again'}")
    assert same(weights(first.folder), weights(again.folder))


def test_the_number_of_workers_changes_nothing(write: Write) -> None:
    """P9, P37."""
    none, two = (go(write(f"workers{n}", data={"workers": n}, train={"epochs": 1})) for n in (0, 2))
    assert same(weights(none.folder), weights(two.folder))


def test_frozen_tensors_are_bit_identical_under_weight_decay(write: Write) -> None:
    """P15: the whole state dict but what trains, `torch.equal` to the base."""
    path = write(
        model={"image": {"freeze_layers": 1}, "text": {"freeze_backbone": True, "projection": "freeze"}},
        optim={"weight_decay": 0.5, "lr": 1e-2},
    )
    finished = go(path)
    saved = load_saved(finished.folder, "last")
    from clipft.model.build import build

    base = build(saved.config.model, saved.config.run.seed).model.state_dict()
    tuned = saved.clip.model.state_dict()
    frozen = {
        p["name"] for p in json.loads((finished.folder / "plan.json").read_text())["parameters"] if not p["trainable"]
    }
    assert finished.frozen == len(frozen) > 20
    assert all(torch.equal(base[n], tuned[n]) for n in frozen)
    assert not any(torch.equal(base[n], tuned[n]) for n in base.keys() - frozen)


def test_a_checkpoint_holds_the_classifier_and_loads_strictly(write: Write) -> None:
    """P52, P60: head and class names come back; a tensor too few is an error."""
    finished = go(write(loss={"type": "classifier"}, evaluate={"best": "classifier_top1"}, train={"epochs": 6}))
    saved = load_saved(finished.folder)
    assert saved.classes == ("blue", "green", "red", "white")
    assert finished.tuned["classifier_top1"] == 1.0
    folder = committed(finished.folder)[-1].folder
    verify(folder)
    assert "classifier.weight" in load_file(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        open_checkpoint(folder)


def test_checkpoints_are_safetensors_and_json_and_pruned(write: Write) -> None:
    """P38, P39: nothing that could run code, no file an epoch for ever."""
    finished = go(write(checkpoint={"keep": {"last": 2, "best": 1}}, evaluate={"best": "loss"}))
    names = {p.name for p in (finished.folder / "checkpoints").rglob("*") if p.is_file()}
    assert names == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "COMMIT.json",
        "last.json",
        "best.json",
    }
    assert 2 <= len(committed(finished.folder)) <= 3


def test_early_stopping_by_a_named_metric(write: Write) -> None:
    """P34: said, and `best` is the epoch that was best."""
    shown = view()
    path = write(
        train={"epochs": 30, "early_stop": {"metric": "zero_shot_top1", "patience": 2}},
        evaluate={"best": "zero_shot_top1"},
    )
    finished = go(path, shown=shown)
    evaluations = lines(finished.folder, "evaluation")[1:]
    assert len(evaluations) < 30
    assert "has not improved for 2 evaluations" in said(shown)
    values = [e["metrics"]["zero_shot_top1"] for e in evaluations]
    best = json.loads((finished.folder / "checkpoints" / "best.json").read_text())
    assert best["epoch"] == 1 + values.index(max(values))


def test_evaluation_every_n_steps(write: Write) -> None:
    finished = go(write(evaluate={"every": 3, "best": "loss"}, train={"epochs": 2}))
    assert [e["step"] for e in lines(finished.folder, "evaluation")] == [0, 3, 6, 8]


def test_a_dry_run_writes_nothing(write: Write, tmp_path: Path) -> None:
    shown = view()
    path = write()
    dry_run(load_config(path), path.stem, shown)
    words = " ".join(said(shown).split())
    assert re.search(r"a step took \d+\.\d s \(the first \d+\.\d s, with what is loaded once\); 16 steps", words)
    assert not (tmp_path / "runs").exists()


def test_an_unreadable_picture_is_named_counted_and_replaced(write: Write, tmp_path: Path) -> None:
    """P3: under the limit the run goes on, above it ends with the reason."""
    (tmp_path / "colours" / "red" / "colours-0.png").write_bytes(b"not a picture")
    shown = view()
    finished = go(write(data={"max_bad_fraction": 0.1}, train={"epochs": 2}), shown=shown)
    assert said(shown).count("colours-0.png: ") == 1
    assert len(lines(finished.folder, "step")) == 8
    with pytest.raises(InputError, match=r"data\.max_bad_fraction"):
        go(write("strict"))


def test_starting_from_a_run_takes_its_weights_only(write: Write) -> None:
    """P41: said in one line."""
    first = go(write(train={"epochs": 1}))
    shown = view()
    second = go(write("second", model={"pretrained": str(first.folder)}, optim={"lr": 1e-12}), shown=shown)
    assert "weights only from" in said(shown)
    before, after = weights(first.folder), weights(second.folder)
    assert all(torch.allclose(before[n], after[n], atol=1e-6) for n in before)


def test_tensorboard_events(write: Write) -> None:
    finished = go(write(run={"tensorboard": True}, train={"epochs": 1}))
    assert list((finished.folder / "tensorboard").glob("events.*"))


def test_a_best_that_is_not_kept_is_not_pointed_to(write: Write) -> None:
    finished = go(write(evaluate={"best": "loss"}, checkpoint={"keep": {"last": 1, "best": 0}}))
    assert not (finished.folder / "checkpoints" / "best.json").exists()
    load_saved(finished.folder)
    last = lines(finished.folder, "evaluation")[-1]
    assert finished.tuned == last["metrics"] | last["loss"]
    assert json.loads((finished.folder / "result.json").read_text())["which"] == "last"


def test_the_log_has_the_freeze_report(write: Write) -> None:
    finished = go(write(train={"epochs": 1}))
    assert "backbone tensors train" in (finished.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (("strategy=logit_scale",), 1),  # a search writes one, whatever is to be kept
        (("train.epochs=1",), 1),
        (("train.epochs=3", "optim.lr=1e-12"), 3),  # nothing moves, so the first is the best
    ],
)
def test_the_disk_line_counts_the_checkpoints_that_are_written(
    write: Write, overrides: tuple[str, ...], count: int
) -> None:
    shown = view()
    run = go(write(evaluate={"best": "zero_shot_top1"}), *overrides, shown=shown).folder
    assert len(list((run / "checkpoints").glob("step-*"))) == count
    assert f"disk {count} checkpoint{'s' if count > 1 else ''} of " in " ".join(said(shown).split())

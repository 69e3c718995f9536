"""Whole runs of a tiny real model on tiny real pictures."""

import io
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.data.sources import read_splits
from clipft.errors import ClipftError, InputError
from clipft.evaluate.measure import measure
from clipft.model.build import build
from clipft.model.runfiles import open_checkpoint, verify
from clipft.model.saved import load_saved
from clipft.report.train_view import TrainView
from clipft.train.arithmetic import scale_in_words, warnings
from clipft.train.checkpoint import committed, write_checkpoint
from clipft.train.folder import resolved
from clipft.train.prepare import prepare
from clipft.train.run import Finished, dry_run, train

Write = Callable[..., Path]


@pytest.fixture
def write(tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path) -> Write:
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


def test_two_epochs_and_two_more_are_four(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P35, P37: weights, losses and figures of a run stopped at an epoch's end are those of one never stopped."""
    settings: dict[str, Any] = {
        "model": {"image": {"dropout": 0.1}, "text": {"freeze_layers": 1}},
        "evaluate": {"best": "loss"},
        "data": {"templates": ["a {}.", "the colour {}."]},
    }
    straight = go(write("straight", **settings))
    path = write("stopped", **settings)
    stop_after(2, path, monkeypatch)
    shown = view()
    resumed = go(path, shown=shown, resume=True)
    assert "learning rate" in said(shown)
    assert same(weights(straight.folder), weights(resumed.folder))
    ours, theirs = (lines(f.folder, "step") for f in (resumed, straight))
    assert [(x["step"], x["loss"], x["lr"]) for x in ours] == [(x["step"], x["loss"], x["lr"]) for x in theirs]
    assert [x["metrics"] for x in lines(resumed.folder, "evaluation")] == [
        x["metrics"] for x in lines(straight.folder, "evaluation")
    ]
    assert resumed.tuned == straight.tuned


def test_the_number_of_workers_changes_nothing(write: Write) -> None:
    """P9, P37."""
    none, two = (go(write(f"workers{n}", data={"workers": n}, train={"epochs": 1})) for n in (0, 2))
    assert same(weights(none.folder), weights(two.folder))


def test_another_config_does_not_take_up_an_unfinished_run(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P35, P36: the differing keys are named."""
    path = write()
    stop_after(1, path, monkeypatch)
    with pytest.raises(InputError, match=r"train\.epochs: 4 there, 6 here"):
        go(path, "train.epochs=6")


def test_a_finished_run_is_never_written_to(write: Write) -> None:
    path = write(train={"epochs": 1})
    first = go(path)
    before = {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file()}
    second = go(path)
    assert second.folder.name == f"{first.folder.name}-2"
    assert {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file()} == before


def test_resume_with_nothing_there_starts_afresh_and_says_so(write: Write) -> None:
    """P41."""
    shown = view()
    go(write(train={"epochs": 1}), resume=True, shown=shown)
    assert "starts afresh" in said(shown)


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


def test_a_metric_that_is_not_measured_is_refused_before_training(write: Write) -> None:
    """P59."""
    with pytest.raises(InputError, match=r"evaluate\.best: 'accuracy' is not measured.*zero_shot_top1"):
        go(write(evaluate={"best": "accuracy"}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"batch_size": 64}}, r"train\.batch_size: 64 is more than the 32 training rows"),
        ({"optim": {"warmup": 500}}, r"optim\.warmup: 500 steps, but the run has only 16"),
        ({"loss": {"type": "siglip"}}, r"loss\.type: siglip needs a model with a logit_bias"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(write: Write, sections: dict[str, Any], message: str) -> None:
    """P19, P23, P30."""
    with pytest.raises(InputError, match=message):
        go(write(**sections))


def test_contrastive_with_one_row_is_refused(write: Write) -> None:
    """P19: also where `auto` chose the loss."""
    with pytest.raises(InputError, match=r"train\.batch_size: .*at least 2"):
        go(write(train={"batch_size": 1}))


def test_more_than_one_process_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P33: until it is built, with a sentence."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE is 2"):
        go(write())


def test_a_rate_far_above_the_methods_is_warned_of(write: Write, tmp_path: Path) -> None:
    """P29: by number, where the weights are pretrained."""
    prepared = prepare(load_config(write(optim={"lr": 5e-3, "lr_heads": 0.1})).config)
    warned = warnings(prepared.config, prepared.plan, prepared.arithmetic, loss="contrastive", pretrained=True)
    assert any("image backbone trains at 0.005" in w for w in warned)
    assert any("heads train at 0.1" in w for w in warned)
    assert any("4 distinct captions in batches of 8" in w for w in warned)  # P21


def test_a_loss_at_chance_is_said(write: Write) -> None:
    """P18: with its causes."""
    shown = view()
    go(write(optim={"lr": 1e-12}, model={"logit_scale": {"init": 1.0}}, train={"epochs": 1}), shown=shown)
    assert "within 2 % of chance" in said(shown)


def test_a_dry_run_writes_nothing(write: Write, tmp_path: Path) -> None:
    shown = view()
    path = write()
    dry_run(load_config(path), path.stem, shown)
    assert "one step took" in said(shown)
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


def test_a_base_that_moved_away_is_said_not_replaced(write: Write, tmp_path: Path) -> None:
    """P41, P52: the frozen part of another base is not taken for the run's."""
    first = go(write("base", train={"epochs": 1}))
    tuned = go(
        write("tuned", model={"pretrained": str(first.folder), "text": {"freeze_backbone": True}}, train={"epochs": 1})
    )
    shutil.rmtree(first.folder)
    go(write("base", train={"epochs": 1}, optim={"lr": 5e-3}))
    with pytest.raises(InputError, match="not the one this run started from"):
        load_saved(tuned.folder)


def test_tensorboard_events(write: Write) -> None:
    finished = go(write(run={"tensorboard": True}, train={"epochs": 1}))
    assert list((finished.folder / "tensorboard").glob("events.*"))


def test_a_full_disk_ends_the_run_in_a_sentence(write: Write) -> None:
    """P38: nothing half-written stays under a checkpoint's name. A limit on files' sizes stands for the full disk."""
    path = write()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        with pytest.raises(ClipftError, match=r"could not be written.*File too large"):
            go(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run = Path(yaml.safe_load(path.read_text())["run"]["dir"])
    assert committed(run) == []
    assert not list((run / "checkpoints").glob("step-*"))


def test_a_best_inside_an_epoch_leaves_the_epochs_end_to_go_on_from(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P37, P38: with one checkpoint kept; the resumed run is the straight one to the bit."""
    settings: dict[str, Any] = {
        "evaluate": {"every": 3, "best": "loss"},
        "checkpoint": {"keep": {"last": 1, "best": 1}},
        "train": {"epochs": 3},
    }
    straight = go(write("straight", **settings))
    path = write("stopped", **settings)
    stop_after_step(6, path, monkeypatch)  # epochs end at 4, 8 and 12
    shown = view()
    resumed = go(path, shown=shown)
    assert "from step 4" in said(shown)
    assert same(weights(straight.folder), weights(resumed.folder))
    assert resumed.tuned == straight.tuned


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


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P38, P52: a flipped bit in the optimiser's file too."""
    straight = go(write("straight"))
    path = write("stopped")
    stop_after(3, path, monkeypatch)
    run = Path(yaml.safe_load(path.read_text())["run"]["dir"])
    file = committed(run)[-1].folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    shown = view()
    resumed = go(path, shown=shown)
    assert "optimizer.safetensors: is damaged" in "".join(said(shown).split("\n"))
    assert "from step 8" in said(shown)
    assert same(weights(straight.folder), weights(resumed.folder))


def test_a_damaged_checkpoint_is_set_aside_and_counts_no_more(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P38: the steps after it come again, and pruning keeps what they write."""
    path = write(evaluate={"best": "loss"}, checkpoint={"keep": {"last": 3}})
    stop_after(3, path, monkeypatch)
    run = Path(yaml.safe_load(path.read_text())["run"]["dir"])
    for kept in committed(run)[1:]:  # two of three
        (kept.folder / "state.json").write_text("{", encoding="utf-8")
    shown = view()
    stop_after(2, path, monkeypatch, shown)  # from epoch 1 on, up to the first step that was damaged
    assert "now called damaged-step-000012" in " ".join(said(shown).split())
    assert [k.step for k in committed(run)] == [4, 8]  # not 12, which would count as the newest
    assert (run / "checkpoints" / "damaged-step-000008").is_dir()
    for pointer in ("last", "best"):
        assert load_saved(run, pointer)  # neither names what was set aside


def test_a_run_that_keeps_no_best_goes_on_and_ends_with_its_last(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(evaluate={"best": "loss"}, checkpoint={"keep": {"last": 1, "best": 0}})
    stop_after(1, path, monkeypatch)
    finished = go(path)
    assert not (finished.folder / "checkpoints" / "best.json").exists()
    assert load_saved(finished.folder)


def test_a_run_without_a_whole_checkpoint_is_not_begun_anew(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P38: nothing is lost; what can be put back is named."""
    path = write()
    stop_after(2, path, monkeypatch)
    run = Path(yaml.safe_load(path.read_text())["run"]["dir"])
    before = (run / "metrics.jsonl").read_text()
    for kept in committed(run):
        (kept.folder / "optimizer.safetensors").unlink()
    with pytest.raises(InputError, match=r"without a whole checkpoint.*optimizer.safetensors: is missing"):
        go(path)
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("place", ["file.txt", "file.txt/run"])
def test_a_run_that_can_be_no_folder_is_refused_at_once(write: Write, tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=r"run.dir: .*file.txt is a file"):
        go(write(), f"run.dir={tmp_path / place}")


def test_a_tag_stays_a_tag_where_a_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    config = Config.model_validate(
        {"model": {"name": "ViT-B-32", "pretrained": "openai"}, "data": {"train": {"builtin": "hands"}}}
    )
    assert resolved(config).model.pretrained == "openai"


def test_a_tower_that_is_not_finite_is_named_before_anything_is_trained(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P27."""
    first = go(write("first", train={"epochs": 1}))
    weights_file = tmp_path / "damaged.safetensors"
    clip = load_saved(first.folder).clip
    state = {name: t.clone() for name, t in clip.model.state_dict().items()}
    state["visual.ln_post.bias"][0] = float("nan")
    save_file(state, weights_file)
    with pytest.raises(ClipftError, match=r"the image tower of .* not finite in fp32"):
        go(write("second", model={"pretrained": str(weights_file)}))


def test_a_checkpoint_of_the_same_step_is_replaced_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P38: a rename that fails leaves the old one."""
    state = {"epoch_end": True}
    folder = write_checkpoint(tmp_path, 4, weights={"a": torch.zeros(2)}, optimizer={}, state=state)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(ClipftError, match="Input/output error"):
            write_checkpoint(tmp_path, 4, weights={"a": torch.ones(2)}, optimizer={}, state=state)
    assert load_file(folder / "model.safetensors")["a"].tolist() == [0, 0]
    assert [k.folder for k in committed(tmp_path)] == [folder]


def test_a_best_that_is_not_kept_is_not_pointed_to(write: Write) -> None:
    finished = go(write(evaluate={"best": "loss"}, checkpoint={"keep": {"last": 1, "best": 0}}))
    assert not (finished.folder / "checkpoints" / "best.json").exists()
    load_saved(finished.folder)
    last = lines(finished.folder, "evaluation")[-1]
    assert finished.tuned == last["metrics"] | last["loss"]
    assert json.loads((finished.folder / "result.json").read_text())["which"] == "last"


def test_changed_data_does_not_go_on_silently(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P10: another picture would change what is held out."""
    path = write()
    stop_after(1, path, monkeypatch)
    shutil.copy(tmp_path / "colours" / "red" / "colours-0.png", tmp_path / "colours" / "red" / "new.png")
    with pytest.raises(InputError, match="the data has changed since"):
        go(path)


def test_steps_are_ordered_by_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        write_checkpoint(tmp_path, step, weights={}, optimizer={}, state={"epoch_end": True})
    assert [k.step for k in committed(tmp_path)] == [999_999, 1_000_000]


def test_the_log_has_the_freeze_report(write: Write) -> None:
    finished = go(write(train={"epochs": 1}))
    assert "backbone tensors train" in (finished.folder / "log.txt").read_text()


def test_the_scale_in_words() -> None:
    """P24: said when it leaves a sane range, not where a trained CLIP has been all along."""
    assert scale_in_words(100.0, 100.0, 1.0, 100.0) is None
    assert "rose from 14.3 to its cap" in (scale_in_words(100.0, 14.3, 1.0, 100.0) or "")
    assert "sunk to its floor" in (scale_in_words(1.0, 14.3, 1.0, 100.0) or "")
    assert "far below the usual" in (scale_in_words(3.0, 14.3, 1.0, 100.0) or "")
    assert scale_in_words(20.0, 14.3, 1.0, 100.0) is None


def test_unknown_class_weights_are_refused_before_any_weight(write: Write) -> None:
    with pytest.raises(InputError, match=r"loss\.class_weights: 'rde' is not a class"):
        prepare(load_config(write(loss={"type": "classifier", "class_weights": {"rde": 2.0}})).config)

"""Runs that were stopped, and what they go on from: nothing is lost, nothing half-written is taken."""

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from train_runs import Write, go, lines, said, same, stop_after, stop_after_step, view, weights

from clipft.errors import ClipftError, InputError
from clipft.model.saved import load_saved
from clipft.train.checkpoint import committed, write_checkpoint


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


def test_another_config_does_not_take_up_an_unfinished_run(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P35, P36: the differing keys are named, those of the freeze plan too, and what starts afresh."""
    path = write(model={"text": {"freeze_layers": 1}})
    stop_after(1, path, monkeypatch)
    for override, told in (
        ("train.epochs=6", r"train\.epochs: 4 there, 6 here"),
        ("model.text.freeze_layers=2", r"model\.text\.freeze_layers: 1 there, 2 here"),
        ("model.image.projection=freeze", r"model\.image\.projection: 'train' there, 'freeze' here"),
        ("model.image.lora={rank: 2}", r"model\.image\.lora\.rank: null there, 2 here.*another run\.dir"),
    ):
        with pytest.raises(InputError, match=told):
            go(path, override)


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

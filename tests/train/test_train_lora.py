"""A run with LoRA from its config to plain open_clip: what is saved, restored, merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from tiny_files import write_native
from train_runs import Write, go, lines, same, stop_after, weights

import clipft
from clipft.config.load import load_config
from clipft.errors import ClipftError
from clipft.evaluate.compare import evaluate_target
from clipft.evaluate.interpolate import interpolate, open_between
from clipft.evaluate.sweep import Compute
from clipft.export import export, merge
from clipft.model.build import build
from clipft.model.lora import has_lora
from clipft.model.saved import load_saved

LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.1}


def lora_run(write: Write, base: Path, name: str = "lora", **keys: Any) -> Path:
    model = {"name": f"local-dir:{base}", "image": {"lora": LORA | keys}, "text": {"lora": LORA | {"targets": ["v"]}}}
    return write(name, model=model, optim={"lr": 1e-3, "lr_new": 5e-3})


def features(model: Any, tokenizer: Any) -> torch.Tensor:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([model.encode_image(x), model.encode_text(tokenizer(["a red cat", "a blue dog"]))])


@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "dora"])
def test_a_run_with_lora(dora: bool, write: Write, tmp_path: Path) -> None:
    """P51: a checkpoint of what trains, the same figures read back, one merged model in plain open_clip."""
    base = write_native(tmp_path / "base")
    path = lora_run(write, base, dora=dora)
    finished = go(path)
    losses = [line["loss"] for line in lines(finished.folder, "step")]
    assert sum(losses[-4:]) < sum(losses[:4])
    folder = load_saved(finished.folder, "last").folder
    saved = set(load_file(folder / "model.safetensors"))
    assert {n for n in saved if ".lora." not in n} == {"logit_scale", "visual.proj", "text_projection"}
    matrices = ["a", "b", "magnitude"] if dora else ["a", "b"]
    of_text = {f"transformer.resblocks.{i}.attn.lora.v.{m}" for i in (0, 1) for m in "ab"}
    of_image = {
        f"visual.transformer.resblocks.{i}.{place}.{m}"
        for i in (0, 1)
        for place in (*(f"attn.lora.{t}" for t in "qkvo"), "mlp.c_fc.lora.fc", "mlp.c_proj.lora.proj")
        for m in matrices
    }
    assert {n for n in saved if ".lora." in n} == of_text | of_image

    plan = json.loads((finished.folder / "plan.json").read_text())["parameters"]
    rates = {p["name"]: p["lr"] for p in plan if p["trainable"]}
    assert {rates[n] for n in of_text | of_image} == {5e-3}
    before = build(load_config(path).config.model, seed=0).model.state_dict()
    after = weights(finished.folder)
    assert {n for n in after if not torch.equal(after[n], before[n])} == saved

    found = evaluate_target(str(finished.folder), None, device=torch.device("cpu"), workers=0, which="last")
    epochs = [line["metrics"] for line in lines(finished.folder, "evaluation")]
    assert found.base is not None
    assert found.tuned is not None
    assert (found.base.metrics, found.tuned.metrics) == (epochs[0], epochs[-1])
    compute = Compute(torch.device("cpu"), workers=0)
    between = open_between(str(finished.folder), "last", device=compute.device, autocast=compute.autocast)
    start = interpolate(between, [], [], compute=compute).points[0]
    assert start.measured[0].metrics == found.base.metrics  # to the bit: no base goes through LoRA's arithmetic

    written = export(str(finished.folder), tmp_path / "export")
    assert written.checked.startswith("LoRA merged into the weights: normalised features differ by at most ")
    assert "loaded by open_clip and compared" in written.checked
    again = open_clip.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    assert again.state_dict().keys() == open_clip.create_model(f"local-dir:{base}").state_dict().keys()
    ours, _, tokenizer = clipft.load(finished.folder)
    assert has_lora(ours)
    torch.testing.assert_close(features(again, tokenizer), features(ours, tokenizer), atol=1e-5, rtol=0)
    exported, _, _ = clipft.load(tmp_path / "export")
    assert torch.equal(features(exported, tokenizer), features(again, tokenizer))


def test_a_run_from_one_with_lora_takes_its_merged_weights(write: Write, tmp_path: Path) -> None:
    """And may have LoRA of its own over them, which starts from nothing again."""
    base = write_native(tmp_path / "base")
    first = go(lora_run(write, base)).folder
    export(str(first), tmp_path / "first.pt", to="pt")
    merged = torch.load(tmp_path / "first.pt", weights_only=True)
    path = lora_run(write, base, "second")
    config = load_config(path, [f"model.pretrained={first}"]).config
    clip = build(config.model, seed=0)
    assert any("its LoRA is merged into them" in note for note in clip.notes)
    state = clip.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in merged.items())
    assert not any(tensor.any() for name, tensor in state.items() if name.endswith("lora.v.b"))
    second = go(path, f"model.pretrained={first}").folder
    figures = lines(first, "evaluation")[-1]["metrics"]
    assert lines(second, "evaluation")[0]["metrics"] == pytest.approx(figures, abs=1e-5)
    again = load_saved(second, "last").clip.model  # the merged base is found again
    assert has_lora(again)


def test_an_export_that_answers_otherwise_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P51: nothing is written where merging is not exact."""
    run = go(lora_run(write, write_native(tmp_path / "base")), "train.epochs=1").folder
    with monkeypatch.context() as patch:
        patch.setattr(merge, "SAME", -1.0)
        with pytest.raises(ClipftError, match="the model with its LoRA merged gives features that differ from the run"):
            export(str(run), tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.slow
def test_going_on_with_a_run_gives_the_same(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_native(tmp_path / "base")
    whole = go(lora_run(write, base, "whole")).folder
    path = lora_run(write, base, "stopped")
    stop_after(2, path, monkeypatch)
    assert same(weights(go(path).folder), weights(whole))


@pytest.mark.slow
def test_in_pieces_and_under_autocast(write: Write, tmp_path: Path) -> None:
    """The steps of a micro-batch are those of the batch, dropout off; bfloat16 learns too."""
    base = write_native(tmp_path / "base")
    whole = go(lora_run(write, base, "whole", dropout=0.0), "model.text.lora.dropout=0").folder
    pieces = go(
        lora_run(write, base, "pieces", dropout=0.0), "model.text.lora.dropout=0", "train.micro_batch_size=3"
    ).folder
    for a, b in zip(lines(pieces, "step"), lines(whole, "step"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    low = go(lora_run(write, base, "low"), "train.precision=bf16").folder
    assert lines(low, "step")[-1]["loss"] < lines(low, "step")[0]["loss"]

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_files import commit, native_cfg, point, write_native, write_open_clip, write_run

from clipft.config.schema import Config, ModelConfig
from clipft.errors import InputError
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.hashes import tensor_sha256
from clipft.model.runfiles import open_checkpoint, verify
from clipft.model.saved import load_saved

HEADS = ["visual.proj", "text_projection", "logit_scale"]


def config_of(**model: Any) -> Config:
    return Config.model_validate({"model": model, "data": {"train": {"builtin": "hands"}}, "run": {"seed": 3}})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_native(tmp_path / "base")


def trained(config: Config, names: list[str] | None = None) -> tuple[ClipModel, list[str]]:
    """The config's model after a make-believe training of the named tensors, of all when None."""
    clip = build(config.model, config.run.seed)
    tensors = clip.model.state_dict()
    for name in names or tensors:
        tensors[name].add_(0.25)
    return clip, names or list(tensors)


def run_over(base: Path, run: Path, **rest: Any) -> ClipModel:
    config = config_of(name=f"local-dir:{base}")
    clip, names = trained(config, HEADS)
    write_run(run, clip, config, trained=names, **rest)
    return clip


def same(left: ClipModel, right: ClipModel) -> bool:
    a, b = left.model.state_dict(), right.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- a run comes back ----------------------------------------------------------------------------


def test_a_run_comes_back_from_its_base_and_its_saved_tensors(tmp_path: Path, base: Path) -> None:
    """P52: what trained is there again, and so is what did not."""
    clip = run_over(base, tmp_path / "run")
    for path in ("run", "run/checkpoints/step-000012", "run/checkpoints/step-000012/model.safetensors"):
        saved = load_saved(tmp_path / path)
        assert same(saved.clip, clip)
        assert json.dumps(saved.clip.preprocess_cfg) == json.dumps(clip.preprocess_cfg)
        assert (saved.classes, saved.templates, saved.step) == (("cat", "dog"), ("a {}.",), 12)
        assert saved.config.model.name == f"local-dir:{base}"
        assert saved.folder == tmp_path / "run/checkpoints/step-000012"
        assert saved.clip.base == f"local-dir:{base}"


def test_a_random_base_needs_its_seed_and_nothing_else(tmp_path: Path, base: Path) -> None:
    (base / "open_clip_model.safetensors").unlink()
    config = config_of(name=f"local-dir:{base}")
    clip, names = trained(config)
    write_run(tmp_path / "run", clip, config, trained=names)
    saved = load_saved(tmp_path / "run")
    assert same(saved.clip, clip)
    assert saved.clip.random


def test_a_run_saved_whole_needs_no_base(tmp_path: Path, base: Path) -> None:
    weights = (base / "open_clip_model.safetensors").rename(tmp_path / "base.safetensors")
    config = config_of(name=f"local-dir:{base}", pretrained=str(weights))
    clip, names = trained(config)
    write_run(tmp_path / "run", clip, config, trained=names)
    weights.unlink()
    assert same(load_saved(tmp_path / "run").clip, clip)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_classifier_comes_back(tmp_path: Path, base: Path, cosine: bool, bias: bool) -> None:
    """P52: the head that was trained is the head that answers."""
    config = config_of(name=f"local-dir:{base}")
    clip = build(config.model, 3)
    clip.model.classifier = Classifier(2, 32, cosine=cosine, bias=bias, scale=17.0)
    names = [name for name in clip.model.state_dict() if name.startswith("classifier.")]
    settings = {"num_classes": 2, "cosine": cosine, "bias": bias}
    write_run(tmp_path / "run", clip, config, trained=names, classifier=settings)
    head = load_saved(tmp_path / "run").clip.model.classifier
    x = torch.randn(4, 32)
    assert torch.equal(head(x), clip.model.classifier(x))
    assert not head.training


def test_preprocessing_is_the_runs_own(tmp_path: Path, base: Path) -> None:
    """P43: it is stored with the weights, whatever the base's folder says by then."""
    clip = run_over(base, tmp_path / "run")
    write_open_clip(base, native_cfg(), {"mean": [0, 0, 0], "std": [1, 1, 1]})
    restored = load_saved(tmp_path / "run").clip
    assert restored.preprocess_cfg["mean"] == clip.preprocess_cfg["mean"]


# --- another base --------------------------------------------------------------------------------


def test_another_base_is_refused(tmp_path: Path, base: Path) -> None:
    """P52, P41: a base that changed since is an error, not a model that answers otherwise."""
    run_over(base, tmp_path / "run")
    write_native(base, seed=8)
    with pytest.raises(
        InputError, match=r"run: the base \(local-dir:.*\) is not the one this run started from: \d+ frozen"
    ):
        load_saved(tmp_path / "run")


def test_one_changed_frozen_number_is_enough(tmp_path: Path, base: Path) -> None:
    """P52."""
    run_over(base, tmp_path / "run")
    tensors = load_file(base / "open_clip_model.safetensors")
    tensors["ln_final.weight"][3] += 1e-6
    save_file(tensors, base / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"1 frozen tensors differ \(ln_final.weight\)"):
        load_saved(tmp_path / "run")


def test_saved_tensors_are_exactly_those_listed(tmp_path: Path, base: Path) -> None:
    """P52: loaded strictly by the list."""
    run_over(base, tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-000012"
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != "visual.proj"}, folder / "model.safetensors")
    commit(folder)
    with pytest.raises(InputError, match=r"does not hold the tensors that state.json lists; these differ: visual.proj"):
        load_saved(tmp_path / "run")


def test_weights_of_another_checkpoint_are_refused(tmp_path: Path, base: Path) -> None:
    """P52: the tensors' own fingerprints are checked too."""
    run_over(base, tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-000012"
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / "model.safetensors")
    commit(folder)
    with pytest.raises(InputError, match="do not belong together"):
        load_saved(tmp_path / "run")


def test_another_tokenizer_is_refused(tmp_path: Path, base: Path) -> None:
    """P48: its identity is stored with the weights."""
    run_over(base, tmp_path / "run")
    cfg = native_cfg()
    cfg["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    write_open_clip(base, cfg, {})
    with pytest.raises(InputError, match="is not the one this run was trained with"):
        load_saved(tmp_path / "run")


# --- damaged, unfinished, chosen -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_file_is_named(tmp_path: Path, base: Path, name: str) -> None:
    run_over(base, tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-000012"
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: is damaged: its content"):
        verify(folder)
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"{name}: is damaged: \d+ bytes, \d+ were written"):
        load_saved(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: is missing"):
        load_saved(tmp_path / "run")


def test_a_checkpoint_that_was_not_finished_is_refused(tmp_path: Path, base: Path) -> None:
    run_over(base, tmp_path / "run")
    (tmp_path / "run/checkpoints/step-000012/COMMIT.json").unlink()
    with pytest.raises(InputError, match="was not written to the end"):
        load_saved(tmp_path / "run")


def test_best_is_taken_where_there_is_one(tmp_path: Path, base: Path) -> None:
    run = tmp_path / "run"
    run_over(base, run)
    with pytest.raises(InputError, match=r"has no best checkpoint, since evaluate.best was null"):
        open_checkpoint(run, "best")
    run_over_again = config_of(name=f"local-dir:{base}")
    clip, names = trained(run_over_again, HEADS)
    best = write_run(run, clip, run_over_again, trained=names, step=6)
    point(run, "best", best)
    point(run, "last", run / "checkpoints/step-000012")
    assert [open_checkpoint(run, which).step for which in (None, "best", "last")] == [6, 6, 12]


def test_the_newest_whole_checkpoint_is_last_where_no_pointer_was_written(tmp_path: Path, base: Path) -> None:
    run = tmp_path / "run"
    run_over(base, run)
    (run / "checkpoints/last.json").unlink()
    (run / "checkpoints/step-000024").mkdir()
    assert open_checkpoint(run).step == 12
    (run / "checkpoints/step-000012/COMMIT.json").unlink()
    with pytest.raises(InputError, match="has no checkpoint yet"):
        open_checkpoint(run)


def test_a_pointer_to_nowhere_and_a_newer_format_are_sentences(tmp_path: Path, base: Path) -> None:
    run = tmp_path / "run"
    run_over(base, run)
    state = run / "checkpoints/step-000012/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 9}))
    commit(state.parent)
    with pytest.raises(InputError, match="has format 9, and this clipft reads 1"):
        open_checkpoint(run)
    (run / "checkpoints/last.json").write_text('{"folder": "step-000099"}')
    with pytest.raises(InputError, match="names the checkpoint step-000099, which is not there"):
        open_checkpoint(run)
    with pytest.raises(InputError, match="there is no such run or checkpoint"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(InputError, match="is no run of clipft"):
        open_checkpoint(base)
    with pytest.raises(InputError, match="is a file, expected a run or a checkpoint"):
        open_checkpoint(base / "open_clip_config.json")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    with pytest.raises(InputError, match="this run has no checkpoint yet"):
        open_checkpoint(tmp_path / "begun")


# --- a run as the start of another ---------------------------------------------------------------


def test_a_run_gives_its_weights_and_nothing_else(tmp_path: Path, base: Path) -> None:
    """P41: one line says what was taken and what starts afresh."""
    run = tmp_path / "run"
    clip = run_over(base, run)
    next_one = build(ModelConfig(name=f"local-dir:{base}", pretrained=str(run)), seed=99)
    assert same(next_one, clip)
    assert next_one.base == f"{run} step 12"
    assert next_one.notes[0] == f"weights only from {run} step 12; optimiser, schedule and order start afresh"
    assert next_one.notes[1].startswith(f"preprocessing of {run}: ")


def test_a_run_over_a_run_comes_back(tmp_path: Path, base: Path) -> None:
    """P52."""
    run_over(base, tmp_path / "first")
    config = config_of(name=f"local-dir:{base}", pretrained=str(tmp_path / "first"))
    clip, names = trained(config, ["ln_final.weight"])
    write_run(tmp_path / "second", clip, config, trained=names)
    assert same(load_saved(tmp_path / "second").clip, clip)


def test_a_runs_classifier_stays_behind_and_that_is_said(tmp_path: Path, base: Path) -> None:
    """P41."""
    config = config_of(name=f"local-dir:{base}")
    clip = build(config.model, 3)
    clip.model.classifier = Classifier(2, 32, cosine=False, bias=True)
    names = [name for name in clip.model.state_dict() if name.startswith("classifier.")]
    settings = {"num_classes": 2, "cosine": False, "bias": True}
    write_run(tmp_path / "run", clip, config, trained=names, classifier=settings)
    next_one = build(ModelConfig(name=f"local-dir:{base}", pretrained=str(tmp_path / "run")), seed=0)
    assert next_one.notes[0].endswith("; optimiser, schedule, order and classifier start afresh")
    assert not hasattr(next_one.model, "classifier")


def test_a_run_of_another_architecture_or_activation_is_refused(tmp_path: Path, base: Path) -> None:
    """P44."""
    run_over(base, tmp_path / "run")
    wide = write_native(tmp_path / "wide", embed_dim=48)
    with pytest.raises(InputError, match=r"run step 12 does not fit local-dir:.*wide: 2 of another shape"):
        build(ModelConfig(name=f"local-dir:{wide}", pretrained=str(tmp_path / "run")), seed=0)
    narrowed = ModelConfig(name=f"local-dir:{wide}", pretrained=str(tmp_path / "run"), embed_dim=32)
    assert build(narrowed, seed=0).image.embed_dim == 32  # the run has the width that is asked for
    quick = write_native(tmp_path / "quick", quick_gelu=True)
    with pytest.raises(InputError, match="QuickGELU"):
        build(ModelConfig(name=f"local-dir:{quick}", pretrained=str(tmp_path / "run")), seed=0)


# --- fingerprints --------------------------------------------------------------------------------


def test_a_fingerprint_knows_values_shape_and_type() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    prints = {
        tensor_sha256(tensor),
        tensor_sha256(tensor.reshape(3, 2)),
        tensor_sha256(tensor.bfloat16()),
        tensor_sha256(tensor.long()),
        tensor_sha256(-tensor),
        tensor_sha256(torch.tensor(0.0)),
        tensor_sha256(torch.zeros(0)),
    }
    assert len(prints) == 7
    assert tensor_sha256(tensor) == tensor_sha256(tensor.t().contiguous().t())

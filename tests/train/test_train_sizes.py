"""A run at another image size and context length: saved with the weights, taken up by another run, exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from test_train_families import write_base
from train_runs import Write, go

from clipft.config.load import load_config
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.evaluate.target import open_target
from clipft.export import export, load
from clipft.model.build import build, build_meta
from clipft.model.families.timm_image import config_at_size
from clipft.model.saved import load_saved
from clipft.train.prepare import prepare


def one_epoch(model: dict[str, Any], photos: Path, run: Path) -> dict[str, Any]:
    return {
        "model": model,
        "data": {"train": {"folder": str(photos)}, "val": None, "workers": 0},
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32", "device": "cpu"},
        "run": {"dir": str(run)},
    }


@pytest.mark.parametrize("family", ["native, class token", "siglip", "timm convnext"])
def test_sizes_go_with_the_weights(family: str, colour_folder: Callable[..., Path], tmp_path: Path) -> None:
    """P47: the new size is in the run, in the run that starts from it, and in what plain open_clip loads."""
    base = write_base(family, tmp_path / "base", weights=True)
    own = json.loads((base / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["image_size"]
    size = 2 * own if own < 100 else 64
    model = {"name": f"local-dir:{base}", "image_size": size, "image": {"freeze_layers": 1}}
    config = one_epoch(model, colour_folder(), tmp_path / "run")
    path = tmp_path / "first.yaml"
    path.write_text(yaml.safe_dump(config))
    run = go(path).folder
    saved = load_saved(run, "last").clip
    held = json.loads((run / "checkpoints" / "step-000004" / "state.json").read_text())["saved"]
    frozen = set(frozen_names(run))
    assert set(held).isdisjoint(frozen - POSITIONS)
    assert POSITIONS & frozen <= set(held)  # frozen, but another processor would resample them to other bits
    assert saved.image.describe().image_size == (size, size)

    export(str(run), str(tmp_path / "out"))
    again = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(x), saved.model.encode_image(x), atol=1e-6, rtol=0)
    assert again.visual.preprocess_cfg["size"] in ((size, size), [size, size])

    shutil.move(tmp_path / "out", tmp_path / "moved")
    model, *_ = load(tmp_path / "moved")
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(x), saved.model.encode_image(x), atol=1e-6, rtol=0)

    config["model"] |= {"image_size": None, "pretrained": str(run)}
    path.write_text(yaml.safe_dump(config | {"run": {"dir": str(tmp_path / "second")}}))
    second = load_config(path).config.model
    assert build_meta(second).image.describe().image_size == (size, size)
    after = build(second, seed=0).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in saved.model.state_dict().items())


POSITIONS = {"visual.positional_embedding", "visual.trunk.pos_embed"}


def frozen_names(run: Path) -> list[str]:
    plan = json.loads((run / "plan.json").read_text())
    return [p["name"] for p in plan["parameters"] if not p["trainable"]]


def test_two_encoders_at_another_size(tiny_bert: Path, colour_folder: Callable[..., Path], tmp_path: Path) -> None:
    encoders = {"image": {"encoder": "timm:test_vit", "random": True}, "text": {"encoder": f"hf:{tiny_bert}"}}
    config = one_epoch({"name": None, "embed_dim": 32, "image_size": 64, **encoders}, colour_folder(), tmp_path / "run")
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(config))
    run = go(path).folder
    saved = load_saved(run, "last").clip
    assert saved.image.describe().image_size == (64, 64)
    export(str(run), str(tmp_path / "out"))
    again = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(x), saved.model.encode_image(x), atol=1e-6, rtol=0)


def test_weights_that_have_the_size_already(write: Write, tmp_path: Path) -> None:
    """P44, P47: an export of a resized run is a base for its architecture, at the size that is written."""
    path = write(train={"epochs": 1})
    run = go(path, "model.image_size=64").folder
    export(str(run), str(tmp_path / "out"))
    name = load_config(path).config.model.name
    fits = ModelConfig(name=name, pretrained=str(tmp_path / "out"), image_size=64)
    positions = build(fits, seed=0).model.visual.positional_embedding
    assert torch.equal(positions, load_saved(run, "last").clip.model.visual.positional_embedding)
    with pytest.raises(InputError, match=r"Only positions differ: write the size .* in model.image_size"):
        build(ModelConfig(name=name, pretrained=str(tmp_path / "out")), seed=0)


@pytest.mark.parametrize("scale", [[], [1]])
def test_each_size_is_looked_at_by_itself(scale: list[int], write: Write, tmp_path: Path) -> None:
    """A file at the image size asked for, and at the architecture's own context; its scale as a number or a list."""
    path = write(train={"epochs": 1})
    run = go(path, "model.image_size=64").folder
    tensors = dict(load_saved(run, "last").clip.model.state_dict())
    tensors["logit_scale"] = tensors["logit_scale"].reshape(scale)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "w.safetensors")
    name = load_config(path).config.model.name
    of_file = {"name": name, "pretrained": str(tmp_path / "w.safetensors"), "image_size": 64}
    clip = build(ModelConfig(**of_file, context_length=12), seed=0)
    assert torch.equal(clip.model.visual.positional_embedding, tensors["visual.positional_embedding"])
    assert torch.equal(clip.model.positional_embedding, tensors["positional_embedding"][:12])


@pytest.mark.parametrize("scale", [[], [1]])
def test_weights_of_the_architectures_size_are_resized_after_loading(
    scale: list[int], write: Write, tmp_path: Path
) -> None:
    """A scale of another shape says nothing of an image size."""
    path = write(train={"epochs": 1})
    tensors = dict(load_saved(go(path).folder, "last").clip.model.state_dict())
    tensors["logit_scale"] = tensors["logit_scale"].reshape(scale)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "w.safetensors")
    name = load_config(path).config.model.name
    clip = build(ModelConfig(name=name, pretrained=str(tmp_path / "w.safetensors"), image_size=64), seed=0)
    assert clip.model.visual.positional_embedding.shape[0] == 17


def test_a_timm_config_keeps_its_other_settings(tmp_path: Path) -> None:
    """What is exported is the trunk that was trained, not the one that its architecture's name stands for."""
    folder = tmp_path / "timm"
    folder.mkdir()
    cfg = timm.create_model("test_vit").pretrained_cfg
    content = {"architecture": "test_vit", "pretrained_cfg": cfg, "model_args": {"depth": 3, "img_size": [32, 32]}}
    (folder / "config.json").write_text(json.dumps(content))
    vision = {"timm_model_name": f"local-dir:{folder}", "timm_pool": "token", "timm_proj": "linear", "image_size": 32}
    visual = open_clip.CLIP(24, vision, {"width": 32, "heads": 2, "layers": 1}).visual
    visual.set_input_size(64)
    config = config_at_size(visual, vision["timm_model_name"])
    assert config is not None
    assert config["model_args"] == {"depth": 3, "img_size": [64, 64]}


def test_a_run_with_fewer_words(write: Write) -> None:
    path = write(train={"epochs": 1})
    finished = go(path, "model.context_length=8")
    clip = open_target(str(finished.folder)).clip
    assert clip.tokenizer(["a dog"]).shape == (1, 8)
    assert clip.model.positional_embedding.shape[0] == 8


def test_what_cannot_be_resized_is_refused_before_any_weight(write: Write) -> None:
    with pytest.raises(InputError, match=r"model.image_size: 40 does not divide .* write 32"):
        prepare(load_config(write(), ("model.image_size=40",)).config)


def test_a_model_without_pooling_is_refused(write: Write) -> None:
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "pool_type": "none"}
    with pytest.raises(InputError, match=r"its image tower has no pooling \(pool_type: none\)"):
        prepare(load_config(write(cfg={"vision_cfg": vision})).config)


def test_a_captioning_loss_is_refused(write: Write) -> None:
    """P26: a run for captions would be a contrastive one in disguise."""
    with pytest.raises(InputError, match=r"loss.type: caption: a captioning loss is not built; CoCa trains"):
        load_config(write(), ("loss.type=caption",))

"""Tiny real things that several rooms' tests share: open_clip models, photos, runs as training leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from clipft.config.dump import dump_config
from clipft.config.schema import Config
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.hashes import file_sha256, weights_sha256
from clipft.model.runfiles import CHECKPOINTS, COMMIT, CONFIG, FORMAT, OPTIMIZER, STATE, WEIGHTS

os.environ["HF_HUB_OFFLINE"] = "1"

NATIVE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PREPROCESS = asdict(PreprocessCfg(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash"))
CLASSES = ("blue", "green", "red")


def write_open_clip(folder: Path, model_cfg: dict[str, Any], model: nn.Module) -> Path:
    """A folder as open_clip writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native ViT + native text, as a local-dir."""
    torch.manual_seed(0)
    return write_open_clip(tmp_path_factory.mktemp("native"), NATIVE, open_clip.CLIP(**NATIVE))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face BERT of two layers with a tokenizer of single letters."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1) if not chr(c).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer({token: number for number, token in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_timm_bert(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A timm EfficientNet of a few thousand parameters + that BERT, as a local-dir with all its files inside."""
    folder = tmp_path_factory.mktemp("timm-bert")
    for file in tiny_bert.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    cfg = {
        "embed_dim": 32,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 32,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"],
            "hf_tokenizer_name": str(folder),
            "hf_model_name": str(folder),
            "hf_model_pretrained": False,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
        },
        "custom_text": True,
    }
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    return write_open_clip(folder, cfg, model)


@pytest.fixture(scope="session")
def tiny_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class: four noisy pictures each of red, green and blue."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    for channel, name in ((0, "red"), (1, "green"), (2, "blue")):
        (folder / name).mkdir()
        for number in range(4):
            pixels = noise.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., channel] = 220
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory, tiny_photos: Path) -> MakeRun:
    """Writes a run as training leaves it: every weight moved a little from its base."""

    def make(base: Path | str, *, loss: str = "contrastive", features: str = "projected", **sections: Any) -> Path:
        name = f"local-dir:{base}" if isinstance(base, Path) else base
        loss_section = (
            {"type": loss, "features": features, "init": "random"} if loss == "classifier" else {"type": loss}
        )
        values = {
            "model": {"name": name},
            "data": {"train": {"folder": str(tiny_photos)}, "val": 0.25, "templates": ["a {} square.", "{}"]},
            "loss": loss_section,
        }
        config = Config.model_validate(values | sections)
        clip = build(config.model, config.run.seed)
        generator = torch.Generator().manual_seed(7)
        head = None
        if loss == "classifier":
            width = clip.image.pooled_width if features == "pooled" else clip.image.embed_dim
            clip.model.classifier = Classifier(len(CLASSES), width, cosine=False, bias=True)
            head = {"num_classes": len(CLASSES), "cosine": False, "bias": True}
        with torch.no_grad():
            for parameter in clip.model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        run = tmp_path_factory.mktemp("run")
        (run / CONFIG).write_text(dump_config(config), encoding="utf-8")
        weights = {name: tensor.contiguous() for name, tensor in clip.model.state_dict().items()}
        state = {
            "format": FORMAT,
            "step": 12,
            "epoch": 3,
            "classes": list(CLASSES),
            "templates": list(config.data.templates),
            "loss": loss,
            "features": features,
            "classifier": head,
            "metrics": {"zero_shot_top1": 0.5},
            "model": {"name": clip.name, "model_cfg": clip.model_cfg, "preprocess_cfg": clip.preprocess_cfg},
            "base": clip.base,
            "saved": list(weights),
            "weights_sha256": weights_sha256(clip.model),
        }
        folder = run / CHECKPOINTS / "step-000012"
        folder.mkdir(parents=True)
        save_file(weights, folder / WEIGHTS)
        save_file({"rng/cpu": torch.get_rng_state()}, folder / OPTIMIZER)
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
            for name in (WEIGHTS, OPTIMIZER, STATE)
        }
        (folder / COMMIT).write_text(json.dumps({"files": files}), encoding="utf-8")
        (run / CHECKPOINTS / "last.json").write_text(json.dumps({"folder": folder.name, "step": 12}), encoding="utf-8")
        return run

    return make

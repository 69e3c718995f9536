"""Small models of every supported family, and a MiniLM text tower of full size without values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.towers import towers_of

VIT: dict[str, Any] = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 3}
BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
MINILM = BERT | {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}


def native(
    seed: int = 0, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any
) -> nn.Module:
    torch.manual_seed(seed)
    return open_clip.CLIP(24, VIT | (vision or {}), TEXT | (text or {}), **more).eval()


def hugging_face_text(
    folder: Path, config: dict[str, Any] = BERT, pooler: str = "mean_pooler", **more: Any
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    name = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    return name | {"hf_model_pretrained": False, "hf_pooler_type": pooler, "hf_proj_type": "linear"} | more


def timm_image(name: str, **more: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": "avg", "timm_proj": "linear", "image_size": 160} | more


def custom(vision: dict[str, Any], text: dict[str, Any], embed_dim: int = 24, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return open_clip.CustomTextCLIP(embed_dim, vision, text).eval()


def minilm(folder: Path, **more: Any) -> nn.Module:
    """A small ViT beside the text encoder of all-MiniLM-L6-v2, on the meta device."""
    with torch.device("meta"):
        return custom(VIT, hugging_face_text(folder, MINILM, **more), embed_dim=384)


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return open_clip.create_model(name, device="meta")


def plan_of(model: nn.Module, *, loss: str = "contrastive", features: str = "projected", **config: Any) -> Plan:
    """The plan of a model under keys of the `model` and `optim` sections."""
    image, text = towers_of(model)
    optim = OptimConfig(**config.pop("optim", {}))
    section = ModelConfig(name="a-model", pretrained="a-tag", **config)
    return make_plan(model, image, text, name="a-model", config=section, loss=loss, features=features, optim=optim)


def frozen_names(plan: Plan) -> set[str]:
    return {p.name for p in plan.frozen}

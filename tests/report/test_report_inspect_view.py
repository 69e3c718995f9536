"""What inspect prints: two towers side by side in 80 columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import open_clip
import pytest
import torch
from rich.console import Console
from torch import nn

from clipft.model.describe import describe
from clipft.model.towers import towers_of
from clipft.report.inspect_view import print_inspection


def inspected(model: nn.Module, name: str) -> str:
    file = io.StringIO()
    print_inspection(describe(model, *towers_of(model), name=name), Console(file=file, width=80, highlight=False))
    return file.getvalue()


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return open_clip.create_model(name, device="meta")


@pytest.mark.parametrize(
    "name", ["ViT-bigG-14", "convnext_xxlarge", "ViT-H-14-CLIPA-336", "vit_medium_patch16_gap_256"]
)
def test_it_fits(name: str) -> None:
    assert max(map(len, inspected(on_meta(name), name).splitlines())) <= 80


def test_staged_network_and_bert_without_projection(tmp_path: Path) -> None:
    bert = {
        "model_type": "bert",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 99,
    }
    (tmp_path / "config.json").write_text(json.dumps(bert))
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "none", "image_size": 160}
    text = {"hf_model_name": str(tmp_path), "hf_model_pretrained": False, "hf_proj_type": None}
    model = open_clip.CustomTextCLIP(256, vision, text, init_logit_bias=-10.0)
    lines = [" ".join(line.split()) for line in inspected(model, "x").splitlines()]
    assert "depth 5 stages of 1 1 1 1 1 2 blocks" in lines
    assert "family timm EfficientNet Hugging Face bert" in lines
    assert "projection none none" in lines
    assert "attention - both ways" in lines
    assert "logit_bias -10" in lines
    assert "exports open_clip, pt" in lines
    assert not any("initial" in line for line in lines)

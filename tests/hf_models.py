"""Tiny random models of transformers, and the open_clip models of the same form, for the tests of both layouts."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import open_clip
import tiny_timm  # noqa: F401  # registers tiny_siglip
import torch
from tiny_files import WORDS
from torch import nn


def clip_cfg(activation: str = "quick_gelu") -> dict[str, Any]:
    """open_clip's config of what `hf_clip` makes."""
    return {
        "embed_dim": 24,
        "quick_gelu": activation == "quick_gelu",
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 4,
            "layers": 2,
            "mlp_ratio": 2.0,
        },
    }


def siglip_cfg(activation: str = "gelu") -> dict[str, Any]:
    """open_clip's config of what `hf_siglip` makes."""
    return {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": "tiny_siglip", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 200,
            "width": 48,
            "heads": 3,
            "layers": 2,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"} if activation == "gelu_pytorch_tanh" else None,
        },
    }


def hf_clip(activation: str = "quick_gelu", *, seed: int = 0, **vision: Any) -> Any:
    """A CLIPModel."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    image = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3}
    common = {"hidden_act": activation, "projection_dim": 24}
    config = CLIPConfig(
        text_config={**text, **common, "max_position_embeddings": 16},
        vision_config={**image, **common, "image_size": 32, "patch_size": 8, **vision},
        projection_dim=24,
    )
    return randomise(CLIPModel(config), seed)


def hf_siglip(activation: str = "gelu", *, seed: int = 0) -> Any:
    """A SiglipModel with that activation in its text tower, and the approximate GELU in its image tower."""
    from transformers import SiglipConfig, SiglipModel

    text = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
    image = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    special = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 1}
    sizes = {"max_position_embeddings": 16, "vocab_size": 200, "projection_size": 32}
    config = SiglipConfig(
        text_config={**text, **special, **sizes, "hidden_act": activation},
        vision_config={**image, "image_size": 32, "patch_size": 8},
    )
    return randomise(SiglipModel(config), seed)


def write_siglip_tokenizer(folder: Path) -> Path:
    """A T5 tokenizer such as SigLIP's: case matters to it, it pads with its end token, and marks are words."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS if word.isalpha()]
    pieces += [(character, -5.0) for character in string.ascii_letters + string.digits + string.punctuation]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, pad_token="</s>", model_max_length=64)
    tokenizer.save_pretrained(folder)
    return folder


def open_clip_model(cfg: dict[str, Any], *, seed: int = 1) -> Any:
    """The open_clip model of a config, random in every tensor."""
    cfg = dict(cfg)
    kind = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
    return randomise(kind(**cfg), seed)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter drawn anew: what starts as zero or one would hide a tensor in the wrong place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_hf(folder: Path, model: Any, **processor: Any) -> Path:
    """The model as transformers saves it, with an image processor where its settings are given."""
    model.save_pretrained(folder)
    if processor:
        from transformers import CLIPImageProcessor, SiglipImageProcessor

        kind = CLIPImageProcessor if type(model).__name__ == "CLIPModel" else SiglipImageProcessor
        kind(**processor).save_pretrained(folder)
    return folder


def inputs(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures and two rows of tokens, the end token being the highest number as in CLIP."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(1, vocabulary - 1, (2, 16), generator=generator)
    tokens[0, 9], tokens[1, 15] = vocabulary - 1, vocabulary - 1
    tokens[0, 10:] = 0
    return torch.randn(2, 3, 32, 32, generator=generator), tokens


@torch.no_grad()
def features_of(model: Any, pictures: torch.Tensor, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Normalised features of pictures and tokens, of an open_clip model or of transformers'."""
    if hasattr(model, "encode_image"):
        return [model.encode_image(pictures, normalize=True), model.encode_text(tokens, normalize=True)]
    read = model(pixel_values=pictures, input_ids=tokens)
    return [read.image_embeds, read.text_embeds]

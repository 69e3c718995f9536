"""A tiny model of every family, as the model half of an open_clip_config.json."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import tiny_timm  # noqa: F401  # registers its models
import torch
from freeze_models import BERT, TEXT, VIT, hugging_face_text, timm_image
from torch import nn

Config = dict[str, Any]
ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
MT5 = {
    "model_type": "mt5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_decoder_layers": 1,
    "num_heads": 4,
    "vocab_size": 100,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "is_encoder_decoder": True,
}
M2M100 = {
    "model_type": "m2m_100",
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_layerdrop": 0.5,
    "vocab_size": 100,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "is_encoder_decoder": True,
}
COCA_TEXT = TEXT | {"embed_cls": True, "output_tokens": True}
COCA_VIT = VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
SIGLIP_TEXT = TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
RESNET = {"layers": [1, 2, 1, 1], "width": 8, "head_width": 32, "image_size": 64, "patch_size": None}


def native(vision: Config | None = None, text: Config | None = None, **more: Any) -> Config:
    return {"embed_dim": 24, "vision_cfg": VIT | (vision or {}), "text_cfg": TEXT | (text or {}), **more}


def custom(vision: Config, text: Config, embed_dim: int = 24, **more: Any) -> Config:
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "custom_text": True, **more}


def tiny(name: str, size: int = 32, pool: str = "", **more: Any) -> Config:
    """An image tower that ends in the trunk's own classifier, as most of open_clip's timm models."""
    return timm_image(name, timm_pool=pool, timm_proj=None, image_size=size) | more


def coca(vision: Config, text: Config = COCA_TEXT, embed_dim: int = 32) -> Config:
    decoder = {"context_length": 17, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    return custom(vision, text, embed_dim, multimodal_cfg=decoder)


def siglip(text: Config) -> Config:
    return custom(tiny("tiny_siglip", pool="map", timm_proj="none"), text, 32, init_logit_bias=-10.0)


FAMILIES: dict[str, Callable[[Path], Config]] = {
    "native, class token": lambda _: native(),
    "native, mean of patches": lambda _: native({"pool_type": "avg", "no_ln_pre": True}),
    "native, norm after pooling, both ways, last token": lambda _: native(
        {"final_ln_after_pool": True, "pos_embed_type": "sin_cos_2d"}, {"no_causal_mask": True, "pool_type": "last"}
    ),
    "native, linear text projection": lambda _: native(text={"proj_bias": True, "pool_type": "eos", "eos_id": 99}),
    "native, no text projection": lambda _: native(text={"proj_type": "none", "width": 24}),
    "native, quick gelu and custom blocks": lambda _: native({"qk_norm": True, "ls_init_value": 0.1}, quick_gelu=True),
    "native image, hf bert": lambda folder: custom(VIT, hugging_face_text(folder)),
    "native image, own text": lambda _: custom(VIT, TEXT),
    "modified resnet": lambda _: native() | {"vision_cfg": RESNET},
    "coca": lambda _: coca(COCA_VIT),
    "coca, class token": lambda _: coca(VIT | {"output_tokens": True}),
    "coca, pools in parallel": lambda _: coca(COCA_VIT | {"attentional_pool": "parallel"}),
    "coca, pools in a cascade": lambda _: coca(COCA_VIT | {"attentional_pool": "cascade"}),
    "coca, hf roberta": lambda folder: coca(COCA_VIT, hugging_face_text(folder, ROBERTA, output_tokens=True)),
    "timm vit, class token": lambda folder: custom(
        timm_image("test_vit", timm_pool="token"), hugging_face_text(folder)
    ),
    "timm vit, own head as projection": lambda folder: custom(
        tiny("test_vit", 160, "token"), hugging_face_text(folder)
    ),
    "timm vit, native text": lambda _: native() | {"vision_cfg": timm_image("test_vit2")},
    "timm vit, registers": lambda _: custom(tiny("tiny_registers", pool="token"), TEXT),
    "timm vit behind a convolutional stem": lambda _: custom(tiny("tiny_mci", pool="token"), TEXT),
    "siglip": lambda _: siglip(SIGLIP_TEXT),
    "siglip, no projection at all": lambda _: siglip(SIGLIP_TEXT | {"proj_type": "none"}),
    "vitamin": lambda _: custom(tiny("tiny_vitamin", timm_proj="linear"), TEXT),
    "timm relpos": lambda _: native() | {"vision_cfg": tiny("tiny_relpos", timm_proj="linear")},
    "timm relpos, shared": lambda _: native() | {"vision_cfg": tiny("tiny_shared_relpos", timm_proj="linear")},
    "timm swin": lambda _: native() | {"vision_cfg": tiny("tiny_swin", 64, timm_proj="linear")},
    "timm eva01": lambda _: custom(tiny("tiny_eva01", pool="token"), TEXT),
    "timm eva02": lambda _: custom(tiny("tiny_eva02", pool="token"), TEXT),
    "timm eva, mixed rope": lambda _: custom(tiny("tiny_mixed_rope", pool="avg"), TEXT),
    "pe-core": lambda _: custom(tiny("tiny_pe_core", pool="map"), TEXT),
    "timm fastvit": lambda _: custom(tiny("tiny_fastvit", 64, "avg"), TEXT | {"no_causal_mask": True}),
    "timm efficientnet, mlp": lambda folder: custom(
        timm_image("test_efficientnet", timm_proj="mlp"), hugging_face_text(folder)
    ),
    "timm efficientnet, no projection": lambda folder: custom(
        timm_image("test_efficientnet", timm_proj="none"), hugging_face_text(folder), 256
    ),
    "timm resnet": lambda folder: custom(timm_image("test_resnet", timm_proj_bias=True), hugging_face_text(folder)),
    "timm convnext": lambda folder: custom(timm_image("test_convnext"), hugging_face_text(folder)),
    "hf pooler": lambda folder: custom(VIT, hugging_face_text(folder, pooler="cls_pooler")),
    "hf first token, no projection": lambda folder: custom(
        VIT, hugging_face_text(folder, pooler="cls_last_hidden_state_pooler", hf_proj_type=None), 32
    ),
    "hf roberta, mlp": lambda folder: custom(VIT, hugging_face_text(folder, ROBERTA, hf_proj_type="mlp")),
    "hf xlm-roberta": lambda folder: custom(VIT, hugging_face_text(folder, ROBERTA | {"model_type": "xlm-roberta"})),
    "hf mt5, mlp": lambda folder: custom(VIT, hugging_face_text(folder, MT5, hf_proj_type="mlp")),
    "hf m2m100": lambda folder: custom(VIT, hugging_face_text(folder, M2M100, pooler="cls_pooler")),
}


def build(family: str, folder: Path, seed: int = 0) -> nn.Module:
    return construct(FAMILIES[family](folder), seed)


def construct(config: Config, seed: int = 0) -> nn.Module:
    cfg = deepcopy(config)
    kind = open_clip.CoCa if "multimodal_cfg" in cfg else open_clip.CustomTextCLIP
    torch.manual_seed(seed)
    model: nn.Module = kind(**cfg) if cfg.pop("custom_text", False) else open_clip.CLIP(**cfg)
    return model.eval()


def images(model: nn.Module, count: int = 2) -> torch.Tensor:
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def tokens() -> torch.Tensor:
    """Three texts; the token 99 is the end, for those that look for it, and the second is padded (as BERT pads)."""
    ids = torch.randint(2, 98, (3, 16), generator=torch.Generator().manual_seed(2))
    ids[:, 9] = 99
    ids[1, 10:] = 0
    return ids

"""Tiny models of timm's classes that have no small one of their own, registered under names of ours.

Importing this file registers them; open_clip can build a model by a name alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import (
    eva,
    fastvit,
    register_model,
    swin_transformer,
    vision_transformer,
    vision_transformer_hybrid,
    vision_transformer_relpos,
)
from timm.models.vitamin import GeGluMlp, VitCfg, VitConvCfg, _create_vitamin
from torch import nn

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
_ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}


@register_model
def tiny_siglip(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """No class token, an attention pool."""
    own = {"class_token": False, "act_layer": "gelu_tanh", "global_pool": "map"}
    return vision_transformer._create_vision_transformer("vit_base_patch16_siglip_224", **(_VIT | own | kwargs))


@register_model
def tiny_registers(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Class token and registers, positions for the patches alone, layer scale."""
    own = {"reg_tokens": 2, "no_embed_class": True, "init_values": 0.1}
    return vision_transformer._create_vision_transformer("vit_base_patch14_reg4_dinov2", **(_VIT | own | kwargs))


@register_model
def tiny_mci(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileCLIP-B's: a convolutional stem in front of a ViT with a class token."""
    stem = vision_transformer_hybrid.ConvStem(
        channels=(8, 8, 32), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
    )
    own = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "no_embed_class": True}
    return vision_transformer_hybrid._create_vision_transformer_hybrid(
        "vit_base_mci_224", backbone=stem, embed_args={"proj": False}, **(own | kwargs)
    )


@register_model
def tiny_vitamin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    stem = VitCfg(
        embed_dim=(8, 16, 32),
        depths=(1, 1, 1),
        stem_width=8,
        conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
        head_type="1d",
    )
    own = {"embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_layer": GeGluMlp, "mlp_ratio": 2.0, "img_size": 32}
    return _create_vitamin(
        "vitamin_small_224", **(own | {"class_token": False, "global_pool": "avg", "embed_cfg": stem} | kwargs)
    )


@register_model
def tiny_relpos(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Each block has relative positions of its own."""
    own = {"qkv_bias": False, "fc_norm": False, "rel_pos_dim": 16, "class_token": True, "global_pool": "token"}
    return vision_transformer_relpos._create_vision_transformer_relpos(
        "vit_relpos_medium_patch16_cls_224", **(_VIT | own | kwargs)
    )


@register_model
def tiny_shared_relpos(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The blocks share their relative positions."""
    return vision_transformer_relpos._create_vision_transformer_relpos(
        "vit_relpos_base_patch16_224", **(_VIT | {"rel_pos_type": "bias", "shared_rel_pos": True} | kwargs)
    )


@register_model
def tiny_eva01(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return eva._create_eva("eva_giant_patch14_224", **(_VIT | {"global_pool": "token"} | kwargs))


@register_model
def tiny_eva02(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    own = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "mlp_ratio": 8 / 3}
    return eva._create_eva("eva02_base_patch16_clip_224", **(_VIT | _ROTARY | own | {"global_pool": "token"} | kwargs))


@register_model
def tiny_mixed_rope(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Rotary positions that are learnt, other ones for each block."""
    own = {"rope_type": "mixed", "attn_type": "rope", "use_abs_pos_emb": False}
    return eva._create_eva("vit_small_patch16_rope_mixed_224", **(_VIT | _ROTARY | own | kwargs))


@register_model
def tiny_pe_core(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    own = {
        "global_pool": "map",
        "attn_type": "rope",
        "use_pre_transformer_norm": True,
        "rope_grid_offset": 1.0,
        "rope_grid_indexing": "xy",
        "attn_pool_num_heads": 2,
        "norm_layer": partial(nn.LayerNorm, eps=1e-5),
    }
    return eva._create_eva("vit_pe_core_base_patch16_224", **(_VIT | _ROTARY | own | kwargs))


@register_model
def tiny_swin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    own = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 2, 1, 1)}
    return swin_transformer._create_swin_transformer(
        "swin_base_patch4_window7_224", **(own | {"num_heads": (1, 2, 2, 4)} | kwargs)
    )


@register_model
def tiny_fastvit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    own = {
        "layers": (1, 2, 1, 1),
        "embed_dims": (8, 16, 32, 64),
        "mlp_ratios": (2, 2, 2, 2),
        "se_downsamples": (False, False, True, True),
        "pos_embs": (None, None, None, partial(fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))),
        "token_mixers": ("repmixer", "repmixer", "repmixer", "attention"),
        "lkc_use_act": True,
    }
    return fastvit._create_fastvit("fastvit_mci0", **(own | kwargs))

"""Whether transformers has a model of the same form as an open_clip model, and the config that describes it there.

transformers' CLIPModel is open_clip's own ViT and text transformer as OpenAI built them; its SiglipModel is timm's ViT
with an attention pool and a text transformer that sees all tokens and pools the last. Read from the built model, since
an architecture's name tells little (a timm ViT may be built in many ways) and a config may be another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
from open_clip import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import AttentionPoolLatent
from torch import nn

from clipft.model.hf_names import Family, misfit
from clipft.words import some

CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
"""The class in transformers of each family."""

_CLIP_VOCABULARY = 49408  # of open_clip's own tokenizer: the one that a CLIPTokenizer is made from
_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class Form:
    """A model as transformers builds it.

    Args:
        family: which of the two models.
        vision: the values of its vision_config.
        text: the values of its text_config, but for the tokenizer's own numbers.
        embed_dim: width of the shared space.
    """

    family: Family
    vision: dict[str, Any]
    text: dict[str, Any]
    embed_dim: int


@dataclass(frozen=True)
class Misfit:
    """Why transformers has no such model, in a few words."""

    reason: str


def form_of(model: nn.Module, model_cfg: Mapping[str, Any] | None = None) -> Form | Misfit:
    """How transformers builds an open_clip model, or the first thing in it that it cannot build.

    Args:
        model: with or without values.
        model_cfg: the model half of its open_clip_config.json, which names its tokenizer.
    """
    visual: Any = model.visual
    text: Any = getattr(model, "text", model)  # the CLIP class has the text tower's parts at its root
    # a classifier is left out of an export, and LoRA is merged into it
    names = [name for name in model.state_dict() if not name.startswith("classifier.") and ".lora." not in name]
    if isinstance(text, HFTextEncoder):
        return Misfit("its text tower is a Hugging Face encoder, and CLIPModel and SiglipModel have one of their own")
    if isinstance(model, CoCa):
        return Misfit("it has a caption decoder (CoCa)")
    if isinstance(visual, VisionTransformer):
        family: Family = "clip"
    elif isinstance(visual, TimmModel) and _has_attention_pool(visual.trunk):
        family = "siglip"
    else:
        kind = f"timm's {type(visual.trunk).__name__}" if isinstance(visual, TimmModel) else type(visual).__name__
        return Misfit(f"its image tower is {kind}, and transformers has open_clip's own ViT and SigLIP's")
    if reason := next(_of_names(names, family), None):
        return Misfit(reason)
    vision = _native_vision(visual) if family == "clip" else _timm_vision(visual.trunk)
    embed_dim = visual.output_dim if family == "clip" else visual.trunk.embed_dim
    form = Form(family, vision, _text(text), embed_dim)
    own = _of_clip(visual, text) if family == "clip" else _of_siglip(visual.trunk, text)
    tokenizer = _of_tokenizer(model_cfg["text_cfg"], family) if model_cfg else ()
    reason = next((reason for reasons in (_of_values(form), own, tokenizer) for reason in reasons), None)
    return Misfit(reason) if reason else form


def blocks_of(model: nn.Module, tower: str) -> dict[str, Any]:
    """What cannot be seen in the shapes of a tower's blocks, by transformers' names; empty for other kinds of blocks.

    Args:
        model: an open_clip model.
        tower: `vision` or `text`, as transformers has it.
    """
    root: Any = getattr(model, "visual" if tower == "vision" else "text", model)
    if blocks := getattr(getattr(root, "transformer", None), "resblocks", None):
        return _native_block(blocks[0])
    blocks = getattr(getattr(root, "trunk", None), "blocks", None)
    return _timm_block(blocks[0]) if blocks and hasattr(blocks[0], "norm1") else {}


def _has_attention_pool(trunk: nn.Module) -> bool:
    return isinstance(trunk, timm.models.VisionTransformer) and isinstance(trunk.attn_pool, AttentionPoolLatent)


def _of_names(names: list[str], family: Family) -> Iterator[str]:
    missing, extra = misfit(names, family)
    if missing or extra:
        parts = [f"has no place for {some(extra, 3)}"] if extra else []
        parts += [f"needs {some(missing, 3)}"] if missing else []
        yield f"{CLASSES[family]} {' and '.join(parts)}"


def _of_values(form: Form) -> Iterator[str]:
    for value, what in ((form.vision["image_size"], "image"), (form.vision["patch_size"], "patch")):
        if value[0] != value[1]:
            yield f"its {what} of {value[0]} x {value[1]} pixels is not square"
    for tower, config in (("image", form.vision), ("text", form.text)):
        if config["hidden_act"] not in _ACTIVATIONS.values():
            yield f"the activation {config['hidden_act']} of its {tower} blocks is not one of transformers' here"


def _of_clip(visual: Any, text: Any) -> Iterator[str]:
    if visual.pool_type != "tok":
        yield f"its image tower pools by {visual.pool_type}, and CLIPModel takes the class token"
    yield from _of_text(text, "argmax", causal=True, family="clip")
    if text.vocab_size != _CLIP_VOCABULARY:
        yield f"it has {text.vocab_size} different tokens, and CLIPTokenizer {_CLIP_VOCABULARY}"


def _of_siglip(trunk: Any, text: Any) -> Iterator[str]:
    pool = trunk.attn_pool
    pooling = {**_timm_mlp(pool.mlp, pool.norm), "num_attention_heads": pool.num_heads}
    if pooling != _timm_block(trunk.blocks[0]):
        yield "its attention pool has other heads, width or activation than its blocks, and SiglipModel's has the same"
    if pool.pool != "token" or pool.latent_len != 1:
        yield "its attention pool has more than one query, and SiglipModel's has one"
    yield from _of_text(text, "last", causal=False, family="siglip")


def _of_text(text: Any, pooling: str, *, causal: bool, family: Family) -> Iterator[str]:
    pools_by = getattr(text, "text_pool_type", None) or text.pool_type
    if pools_by != pooling:
        yield f"its text tower pools by {pools_by}, and {CLASSES[family]} by {pooling}"
    if (text.attn_mask is not None) != causal:
        sees = "all tokens" if causal else "only the tokens before"
        yield f"a token of its text tower sees {sees}, and one of {CLASSES[family]} does not"


def _of_tokenizer(text_cfg: Mapping[str, Any], family: Family) -> Iterator[str]:
    settings = set(text_cfg.get("tokenizer_kwargs") or {}) | ({"mode"} if text_cfg.get("tokenizer_mode") else set())
    if family == "clip" and (settings or text_cfg.get("hf_tokenizer_name")):
        yield "its tokenizer is not CLIP's own"
    if family == "siglip" and not text_cfg.get("hf_tokenizer_name"):
        yield "its tokenizer is CLIP's own, and SigLIP's pads otherwise"
    if family == "siglip" and (odd := sorted(settings - {"clean"})):
        yield f"its tokenizer has {', '.join(odd)}, and those of transformers do not"


def _native_vision(visual: Any) -> dict[str, Any]:
    return {
        "hidden_size": visual.conv1.out_channels,
        "num_hidden_layers": len(visual.transformer.resblocks),
        "image_size": tuple(visual.image_size),
        "patch_size": tuple(visual.patch_size),
        **_native_block(visual.transformer.resblocks[0]),
    }


def _timm_vision(trunk: Any) -> dict[str, Any]:
    return {
        "hidden_size": trunk.embed_dim,
        "num_hidden_layers": len(trunk.blocks),
        "image_size": tuple(trunk.patch_embed.img_size),
        "patch_size": tuple(trunk.patch_embed.patch_size),
        **_timm_block(trunk.blocks[0]),
    }


def _text(text: Any) -> dict[str, Any]:
    return {
        "hidden_size": text.ln_final.normalized_shape[0],
        "num_hidden_layers": len(text.transformer.resblocks),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        **_native_block(text.transformer.resblocks[0]),
    }


def _native_block(block: Any) -> dict[str, Any]:
    return {
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "hidden_act": _activation(block.mlp.gelu),
        "layer_norm_eps": block.ln_1.eps,
    }


def _timm_block(block: Any) -> dict[str, Any]:
    return {"num_attention_heads": block.attn.num_heads, **_timm_mlp(block.mlp, block.norm1)}


def _timm_mlp(mlp: Any, norm: Any) -> dict[str, Any]:
    return {
        "intermediate_size": mlp.fc1.out_features,
        "hidden_act": _activation(mlp.act),
        "layer_norm_eps": norm.eps,
    }


def _activation(module: nn.Module) -> str:
    """Its name in transformers; its own where there is none."""
    name = type(module).__name__
    if getattr(module, "approximate", "none") == "tanh":
        name = "GELUTanh"
    return _ACTIVATIONS.get(name, name)

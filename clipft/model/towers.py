"""Which families of models there are: an open_clip model as two towers, each in parts.

The only file that knows families. Freezing, rates, inspection and the steps of training all ask a `Tower`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import open_clip
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer, text_global_pool
from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model.facts import TowerFacts
from clipft.model.tower import FIXED, NOT_IN_LOSS, Layout, Part, Tower, owners

__all__ = ["Part", "Tower", "towers_of"]

HUGGING_FACE_TYPES = ("bert", "roberta", "xlm-roberta")
KNOWN = (
    "image towers of open_clip's own VisionTransformer and of timm's VisionTransformer, EfficientNet, ResNet and "
    f"ConvNeXt, text towers of open_clip's CLIP class and of Hugging Face's {', '.join(HUGGING_FACE_TYPES)}"
)


class NativeImage(Tower):
    """open_clip's own VisionTransformer."""

    def __init__(self, model: nn.Module, visual: Any, dropout: float) -> None:
        if visual.attn_pool is not None:
            raise not_yet("image", "a VisionTransformer with an attention pool (CoCa)")
        if visual.pool_type not in _POOLED:
            raise not_yet("image", f"a VisionTransformer whose pool_type is {visual.pool_type}")
        self.visual = visual
        layout = Layout(
            "visual.",
            tuple(f"visual.{name}" for name in ("class_embedding", "positional_embedding", "conv1", "ln_pre")),
            _numbered("visual.transformer.resblocks", visual.transformer.resblocks),
            norm=("visual.ln_post",),
            projection=("visual.proj",),
        )
        # CLIPA's sine and cosine positions are a parameter that open_clip itself never trains
        fixed = {} if visual.positional_embedding.requires_grad else {"visual.positional_embedding": FIXED}
        width = visual.conv1.out_channels
        facts = TowerFacts(
            "native ViT",
            width=width,
            tokens=visual.positional_embedding.shape[0],
            image_size=tuple(visual.image_size),
            patch=tuple(visual.patch_size),
            pooling=_POOLED[visual.pool_type],
            **_native_blocks(visual.transformer),
            **_projection_facts(width, visual.proj),
        )
        super().__init__("image", model, layout, facts, dropout=dropout, untrained=fixed)

    def pool(self, inputs: Tensor) -> Tensor:
        tokens = self.visual.transformer(self.visual._embeds(inputs))  # (B, L, W)
        pooled: Tensor = self.visual._pool(tokens)[0]
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        return pooled if self.visual.proj is None else pooled @ self.visual.proj  # (B, W) @ (W, D)


class TimmImage(Tower):
    """A timm network: a ViT, or a staged network whose blocks are its stages."""

    def __init__(self, model: nn.Module, visual: Any, dropout: float) -> None:
        self.visual, trunk = visual, visual.trunk
        kind = type(trunk).__name__
        if kind not in _TIMM or not type(trunk).__module__.startswith("timm."):
            raise not_yet("image", f"timm's {kind}")
        pool = _timm_pool(trunk)
        if "pool" in visual.head._modules or pool not in _POOLED:
            raise not_yet("image", f"timm's {kind} with an attention pool ({pool or 'in its head'})")
        known = _TIMM[kind]
        blocks = known.blocks
        if len(blocks) == 1:
            blocks = _numbered(blocks[0], getattr(trunk, blocks[0]))
        layout = Layout(
            "visual.trunk.",
            _below("visual.trunk", known.embeddings),
            _below("visual.trunk", blocks),
            norm=_below("visual.trunk", known.norm),
            projection=("visual.head", *_below("visual.trunk", known.classifier)),
        )
        width = trunk.head_hidden_size
        facts = TowerFacts(
            f"timm {kind}" if kind != "VisionTransformer" else "timm ViT",
            width=width,
            image_size=tuple(visual.image_size),
            pooling=_POOLED[pool],
            **(_timm_vit(trunk) if kind == "VisionTransformer" else _timm_stages(trunk, blocks)),
            **_projection_facts(width, trunk.get_classifier(), visual.head),
        )
        super().__init__("image", model, layout, facts, dropout=dropout)

    def pool(self, inputs: Tensor) -> Tensor:
        trunk = self.visual.trunk
        pooled: Tensor = trunk.forward_head(trunk.forward_features(inputs), pre_logits=True)
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        # open_clip projects in the trunk's own classifier or in a head of its own; the other one is the identity
        projected: Tensor = self.visual.head(self.visual.trunk.get_classifier()(pooled))
        return projected


class NativeText(Tower):
    """open_clip's own text transformer, whose parts lie at the root of the CLIP class."""

    def __init__(self, model: Any, dropout: float) -> None:
        if model.text_pool_type not in _TEXT_POOLED:
            raise not_yet("text", f"a text transformer whose pool_type is {model.text_pool_type}")
        self.model = model
        layout = Layout(
            "",
            ("token_embedding", "positional_embedding"),
            _numbered("transformer.resblocks", model.transformer.resblocks),
            norm=("ln_final",),
            projection=("text_projection",),
        )
        width = model.token_embedding.embedding_dim
        facts = TowerFacts(
            "native text",
            width=width,
            tokens=model.context_length,
            context_length=model.context_length,
            vocabulary=model.vocab_size,
            causal=model.attn_mask is not None,
            pooling=_TEXT_POOLED[model.text_pool_type],
            **_native_blocks(model.transformer),
            **_projection_facts(width, model.text_projection),
        )
        super().__init__("text", model, layout, facts, dropout=dropout)

    def pool(self, inputs: Tensor) -> Tensor:
        model = self.model
        dtype = model.transformer.get_cast_dtype()
        x = model.token_embedding(inputs).to(dtype) + model.positional_embedding.to(dtype)  # (B, L, W)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        pooled: Tensor = text_global_pool(x, inputs, model.text_pool_type, eos_token_id=model.text_eos_id)
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        projection = self.model.text_projection
        if projection is None:
            return pooled
        projected: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return projected


class HuggingFaceText(Tower):
    """A Hugging Face encoder of BERT's layout."""

    def __init__(self, model: nn.Module, text: Any, dropout: float) -> None:
        config, encoder = text.config, text.transformer
        if config.model_type not in HUGGING_FACE_TYPES:
            raise not_yet("text", f"Hugging Face's {config.model_type}")
        if not isinstance(text.pooler, (MeanPooler, ClsPooler, ClsLastHiddenStatePooler)):
            raise not_yet("text", f"a Hugging Face encoder under open_clip's {type(text.pooler).__name__}")
        self.text = text
        layout = Layout(
            "text.transformer.",
            ("text.transformer.embeddings",),
            _numbered("text.transformer.encoder.layer", encoder.encoder.layer),
            pooling=("text.transformer.pooler",),
            projection=("text.proj",),
        )
        own_pooler = getattr(encoder, "pooler", None)
        asks_pooler = own_pooler is not None and isinstance(text.pooler, ClsPooler) and text.pooler.use_pooler_output
        idle = {} if own_pooler is None or asks_pooler else dict(own_pooler.named_parameters())
        mean = isinstance(text.pooler, MeanPooler)
        facts = TowerFacts(
            f"Hugging Face {config.model_type}",
            depth=len(encoder.encoder.layer),
            width=config.hidden_size,
            heads=config.num_attention_heads,
            head_width=config.hidden_size // config.num_attention_heads,
            mlp_width=config.intermediate_size,
            activation=str(config.hidden_act).upper(),
            context_length=config.max_position_embeddings,
            vocabulary=config.vocab_size,
            causal=False,
            pooling="mean of tokens" if mean else "first token, pooler" if asks_pooler else "first token",
            **_projection_facts(config.hidden_size, text.proj),
        )
        untrained = {f"text.transformer.pooler.{name}": NOT_IN_LOSS for name in idle}
        super().__init__("text", model, layout, facts, dropout=dropout, untrained=untrained)

    def pool(self, inputs: Tensor) -> Tensor:
        mask = (inputs != self.text.config.pad_token_id).long()  # (B, L)
        pooled: Tensor = self.text.pooler(self.text.transformer(input_ids=inputs, attention_mask=mask), mask)
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        projected: Tensor = self.text.proj(pooled)
        return projected


def towers_of(model: nn.Module, *, image_dropout: float = 0.0, text_dropout: float = 0.0) -> tuple[Tower, Tower]:
    """The image and the text tower of an open_clip model that was just built, on any device.

    Args:
        image_dropout: `model.image.dropout`.
        text_dropout: `model.text.dropout`.

    Raises:
        InputError: a family that is not supported yet, or a parameter that belongs to no part (P12).
    """
    if type(model) not in (open_clip.CLIP, open_clip.CustomTextCLIP):
        raise InputError(f"model: {type(model).__name__} is not supported yet; open_clip's CLIP and CustomTextCLIP are")
    image = _image_tower(model, model.visual, image_dropout)
    text = _text_tower(model, text_dropout)
    owners(model, image, text)
    return image, text


def not_yet(tower: str, family: str) -> InputError:
    """The refusal of a family that comes later."""
    return InputError(f"model: the {tower} tower is {family}, which is not supported yet; supported are {KNOWN}")


def _image_tower(model: nn.Module, visual: Any, dropout: float) -> Tower:
    if isinstance(visual, VisionTransformer):
        return NativeImage(model, visual, dropout)
    if isinstance(visual, TimmModel):
        return TimmImage(model, visual, dropout)
    raise not_yet("image", f"a {type(visual).__name__}")


def _text_tower(model: Any, dropout: float) -> Tower:
    if type(model) is open_clip.CLIP:
        return NativeText(model, dropout)
    if isinstance(model.text, HFTextEncoder):
        return HuggingFaceText(model, model.text, dropout)
    raise not_yet("text", f"a {type(model.text).__name__} of its own")


# --- families ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Timm:
    """Paths inside a timm trunk; a single path in `blocks` is a list of blocks."""

    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    norm: tuple[str, ...]
    classifier: tuple[str, ...]


_TIMM = {
    "VisionTransformer": _Timm(
        ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre"), ("blocks",), ("norm", "fc_norm"), ("head",)
    ),
    "EfficientNet": _Timm(("conv_stem", "bn1"), ("blocks",), ("conv_head", "bn2"), ("classifier",)),
    "ResNet": _Timm(("conv1", "bn1"), ("layer1", "layer2", "layer3", "layer4"), (), ("fc",)),
    "ConvNeXt": _Timm(("stem",), ("stages",), ("norm_pre", "head.norm", "head.pre_logits"), ("head.fc",)),
}
_POOLED = {
    "tok": "class token",
    "token": "class token",
    "avg": "mean",
    "max": "maximum",
    "avgmax": "mean and maximum",
    "catavgmax": "mean beside maximum",
}
_TEXT_POOLED = {
    "argmax": "end-of-text token",
    "eos": "end-of-text token",
    "first": "first token",
    "last": "last token",
}


def _timm_pool(trunk: Any) -> str:
    """How the trunk pools: a word in a ViT, a layer of a staged network or of its head."""
    pool: Any = trunk.global_pool if hasattr(trunk, "global_pool") else trunk.head.global_pool
    return pool if isinstance(pool, str) else str(pool.pool_type)


def _timm_vit(trunk: Any) -> dict[str, Any]:
    block = trunk.blocks[0]
    patches = trunk.patch_embed
    facts = {
        "depth": len(trunk.blocks),
        "activation": _activation(trunk),
        "patch": tuple(patches.patch_size),
        "tokens": patches.num_patches + trunk.num_prefix_tokens,
    }
    if hasattr(block, "attn") and hasattr(block, "mlp"):
        heads = block.attn.num_heads
        facts |= {"heads": heads, "head_width": block.attn.head_dim, "mlp_width": block.mlp.fc1.out_features}
    return facts


def _timm_stages(trunk: nn.Module, blocks: tuple[str, ...]) -> dict[str, Any]:
    stages: list[Any] = [trunk.get_submodule(path) for path in blocks]
    units = tuple(len(getattr(stage, "blocks", stage)) for stage in stages)
    return {"depth": len(blocks), "stages": units, "activation": _activation(trunk)}


def _native_blocks(transformer: Any) -> dict[str, Any]:
    block = transformer.resblocks[0]
    return {
        "depth": len(transformer.resblocks),
        "heads": block.attn.num_heads,
        "head_width": transformer.width // block.attn.num_heads,
        "mlp_width": block.mlp.c_fc.out_features,
        "activation": _activation(block),
    }


def _projection_facts(width: int, *pieces: nn.Parameter | nn.Module | None) -> dict[str, Any]:
    """(in, out) of each matrix on the way from the pooled feature, and the width it ends in."""
    shapes, bias = [], False
    for piece in pieces:
        if isinstance(piece, nn.Parameter):
            shapes.append(tuple(piece.shape))  # applied as x @ piece
        elif isinstance(piece, nn.Module):
            linears = [m for m in piece.modules() if isinstance(m, nn.Linear)]
            shapes += [(m.in_features, m.out_features) for m in linears]
            bias = bias or any(m.bias is not None for m in linears)
    return {
        "projection": tuple(shapes),
        "projection_bias": bias,
        "embed_dim": shapes[-1][1] if shapes else width,
    }


def _activation(module: nn.Module) -> str:
    """The name of the first non-linearity inside."""
    for child in module.modules():
        kind = type(child)
        where = kind.__module__
        if kind.__name__ == "QuickGELU" or where.startswith("timm.layers.activations"):
            return kind.__name__
        if where == "torch.nn.modules.activation" and kind is not nn.MultiheadAttention:
            return kind.__name__
    return "none"


def _numbered(path: str, blocks: nn.Module) -> tuple[str, ...]:
    return tuple(f"{path}.{child}" for child in blocks._modules)


def _below(path: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)

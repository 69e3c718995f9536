"""What families have in common: facts read off modules, and the refusal of a variant that is none of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from clipft.errors import InputError
from clipft.model.families import timm_kinds
from clipft.model.tower_parts import Branch, Matrix

HUGGING_FACE_TYPES = ("bert", "roberta", "xlm-roberta", "mt5", "m2m_100")

POOLED = {
    "tok": "class token",
    "token": "class token",
    "avg": "mean",
    "max": "maximum",
    "avgmax": "mean and maximum",
    "catavgmax": "mean beside maximum",
    "map": "attention",
    "none": "none",
}
TEXT_POOLED = {
    "argmax": "end-of-text token",
    "eos": "end-of-text token",
    "first": "first token",
    "last": "last token",
    "none": "none",
}


def unsupported(tower: str, family: str) -> InputError:
    """The refusal of a tower that belongs to no family here."""
    return InputError(
        f"model: the {tower} tower is {family}, which is not supported; supported are image towers of open_clip's "
        f"VisionTransformer and ModifiedResNet and of timm's {', '.join(timm_kinds.KINDS)}, and text towers of "
        f"open_clip's CLIP, CustomTextCLIP and CoCa classes and of Hugging Face's {', '.join(HUGGING_FACE_TYPES)}"
    )


def native_blocks(transformer: Any) -> dict[str, Any]:
    """The facts of an open_clip Transformer: depth, heads, MLP, activation."""
    block = transformer.resblocks[0]
    return {
        "depth": len(transformer.resblocks),
        "heads": block.attn.num_heads,
        "head_width": transformer.width // block.attn.num_heads,
        "mlp_width": block.mlp.c_fc.out_features,
        "activation": activation(block),
    }


def native_matrices(block: str) -> tuple[Matrix, ...]:
    """Those of an open_clip block: its attention holds q, k, v and o itself."""
    attention = (Matrix(target, f"{block}.attn") for target in ("q", "k", "v", "o"))
    return (*attention, Matrix("fc", f"{block}.mlp.c_fc"), Matrix("proj", f"{block}.mlp.c_proj"))


def native_branches(block: str) -> tuple[Branch, ...]:
    """Those of an open_clip block."""
    return Branch("attn", f"{block}.attn"), Branch("mlp", f"{block}.mlp")


def projection_facts(width: int, *pieces: nn.Parameter | nn.Module | None) -> dict[str, Any]:
    """(in, out) of each matrix on the way from the pooled feature of that width, and the width it ends in."""
    shapes, bias = [], False
    for piece in pieces:
        if isinstance(piece, nn.Parameter):
            shapes.append(tuple(piece.shape))  # applied as x @ piece
        elif isinstance(piece, nn.Module):
            linears = [m for m in piece.modules() if isinstance(m, nn.Linear)]
            shapes += [(m.in_features, m.out_features) for m in linears]
            bias = bias or any(m.bias is not None for m in linears)
    return {
        "pooled_width": width,
        "projection": tuple(shapes),
        "projection_bias": bias,
        "embed_dim": shapes[-1][1] if shapes else width,
    }


def activation(module: nn.Module) -> str:
    """The name of the first non-linearity inside."""
    for child in module.modules():
        kind = type(child)
        where = kind.__module__
        if kind.__name__ == "QuickGELU" or where.startswith("timm.layers.activations"):
            return kind.__name__
        if where == "torch.nn.modules.activation" and kind not in (nn.MultiheadAttention, nn.Softmax):
            return f"{kind.__name__} (tanh)" if getattr(child, "approximate", "") == "tanh" else kind.__name__
    return "none"


def numbered(path: str, blocks: nn.Module) -> tuple[str, ...]:
    """The path of each child: `visual.trunk.blocks.0` and so on."""
    return tuple(f"{path}.{child}" for child in blocks._modules)


def below(path: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Each name as a path under `path`."""
    return tuple(f"{path}.{name}" for name in names)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, from open_clip's number or pair."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])

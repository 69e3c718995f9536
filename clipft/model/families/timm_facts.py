"""What a timm network says of its sizes, its positions and its pooling."""

from __future__ import annotations

from typing import Any

from torch import nn

from clipft.model.facts import Landmark
from clipft.model.families.common import activation
from clipft.model.families.timm_kinds import Kind


def pool_type(trunk: Any) -> str:
    """How the trunk pools: a word in a ViT, a layer of a staged network or of its head."""
    pool: Any = trunk.global_pool if hasattr(trunk, "global_pool") else trunk.head.global_pool
    return pool if isinstance(pool, str) else str(pool.pool_type)


def vit_facts(trunk: Any) -> dict[str, Any]:
    """The facts of transformer blocks on a row of patches, by their names in `TowerFacts`."""
    block, patches = trunk.blocks[0], trunk.patch_embed
    height, width = (size // count for size, count in zip(patches.img_size, patches.grid_size, strict=True))
    extra = {0: "", 1: ", and a class token"}.get(trunk.num_prefix_tokens, ", a class token and registers")
    facts = {
        "patch": (height, width),
        "tokens": patches.num_patches + trunk.num_prefix_tokens,
        "token": f"a patch of {height} x {width} pixels{extra}",
        "positions": _positions(trunk),
        "activation": activation(getattr(block, "mlp", block)),  # relative positions have an MLP of their own
    }
    if hasattr(block, "attn") and hasattr(block, "mlp"):
        last = [m for m in block.mlp.modules() if isinstance(m, nn.Linear)][-1]
        heads = {"heads": block.attn.num_heads, "head_width": trunk.embed_dim // block.attn.num_heads}
        facts |= heads | {"mlp_width": last.in_features}
    return facts


def _positions(trunk: Any) -> str:
    said = ["learnt"] if getattr(trunk, "pos_embed", None) is not None else []
    said += ["rotary"] if getattr(trunk, "rope", None) is not None else []
    said += ["relative, in the attention"] if type(trunk).__name__ == "VisionTransformerRelPos" else []
    return " and ".join(said) or "none"


def stage_facts(trunk: Any, blocks: list[nn.Module]) -> dict[str, Any]:
    """The facts of a staged network, by their names in `TowerFacts`."""
    units = tuple(len(getattr(stage, "blocks", stage)) for stage in blocks)  # type: ignore[arg-type]
    widths = tuple(info["num_chs"] for info in trunk.feature_info)
    windows = type(trunk).__name__ == "SwinTransformer"
    return {
        "stages": units,
        "activation": activation(trunk),
        "stage_widths": widths if len(widths) == len(blocks) else None,
        "positions": "relative, within a window" if windows else "none",
    }


def landmarks(trunk: Any, kind: Kind) -> tuple[Landmark, ...]:
    """The modules on the way to block 0 whose output is worth a look."""
    paths = {name.split(".")[0] for name, _ in trunk.named_children()}
    if not kind.is_vit:
        first = next(name for name in ("stem", "patch_embed", "bn1") if name in paths)
        return (Landmark("stem", f"visual.trunk.{first}", "the first convolutions make small maps of the picture"),)
    patch = trunk.patch_embed
    if hasattr(patch, "backbone"):
        why = "a small convolutional network looks first, and its last maps are the tokens"
        return Landmark("stem", "visual.trunk.patch_embed.backbone", why), _tokens(trunk)
    why = "one convolution looks at each patch once and makes a vector of it"
    return Landmark("patches", "visual.trunk.patch_embed.proj", why), _tokens(trunk)


def _tokens(trunk: Any) -> Landmark:
    return Landmark("tokens", "visual.trunk.patch_embed", "the maps' places in a row: one token each")

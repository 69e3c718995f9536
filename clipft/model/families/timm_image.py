"""A timm network behind open_clip's TimmModel: a ViT of one kind or another, or a staged network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn

from clipft.model.facts import Landmark, TowerFacts
from clipft.model.families.common import POOLED, activation, below, numbered, pair, projection_facts, unsupported
from clipft.model.families.positions import grid_of, refused, resized_note
from clipft.model.tower import Tower
from clipft.model.tower_parts import Branch, Hidden, Layout, Matrix


class TimmImage(Tower):
    """A timm network; in a staged one the blocks are its stages."""

    def __init__(self, model: nn.Module, visual: Any, dropout: float) -> None:
        self.visual, trunk = visual, visual.trunk
        kind = type(trunk).__name__
        if kind not in _KINDS or not type(trunk).__module__.startswith("timm."):
            raise unsupported("image", f"timm's {kind}")
        pool = _pool_type(trunk)
        if "pool" in visual.head._modules or pool not in POOLED:
            raise unsupported("image", f"timm's {kind} pooled by open_clip's own attention ({pool or 'in its head'})")
        self._kind = known = _KINDS[kind]
        self.prefix_tokens = trunk.num_prefix_tokens if known.is_vit and not known.fixed_size else None
        blocks = known.blocks
        if len(blocks) == 1:
            blocks = numbered(blocks[0], getattr(trunk, blocks[0]))
        self._blocks: list[nn.Module] = [trunk.get_submodule(path) for path in blocks]
        layout = Layout(
            "visual.trunk.",
            below("visual.trunk", known.embeddings),
            below("visual.trunk", blocks),
            norm=below("visual.trunk", known.norm),
            pooling=("visual.trunk.attn_pool",),
            projection=("visual.head", *below("visual.trunk", known.classifier)),
        )
        facts = TowerFacts(
            "timm ViT" if kind == "VisionTransformer" else f"timm {kind}",
            depth=len(blocks),
            width=trunk.num_features,
            image_size=pair(visual.image_size),
            pooling=POOLED[pool],
            **(_vit(trunk) if known.is_vit else _stages(trunk, self._blocks)),
            landmarks=_landmarks(trunk, known),
            **projection_facts(trunk.head_hidden_size, trunk.get_classifier(), visual.head),
        )
        super().__init__("image", model, layout, facts, dropout=dropout)

    def resize(self, size: int | tuple[int, int]) -> str:
        visual, new_size = self.visual, pair(size)
        old_size, trunk = visual.image_size, visual.trunk
        if self._kind.fixed_size:
            raise refused(self.family, "model.image_size", "its attention has learnt relative positions for this one")
        if not self._kind.is_vit:
            grid_of(new_size, (self._stride, self._stride), self.family)
            visual.image_size = new_size
            return resized_note(old_size, new_size, None)
        old = trunk.patch_embed.grid_size
        assert self._facts.patch is not None
        grid_of(new_size, self._facts.patch, self.family)
        visual.set_input_size(new_size)  # timm resamples learnt positions and makes rotary ones anew
        learnt = (old, trunk.patch_embed.grid_size) if getattr(trunk, "pos_embed", None) is not None else None
        return resized_note(old_size, new_size, learnt)

    def new_projection(self, width: int) -> None:
        visual, old = self.visual, self.visual.trunk.get_classifier()
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, width, bias=old.bias is not None)
            nn.init.trunc_normal_(new.weight, std=0.02)  # as timm's networks draw their classifiers
            if new.bias is not None:
                nn.init.zeros_(new.bias)
            path = next(name for name, module in visual.trunk.named_modules() if module is old)
            visual.trunk.set_submodule(path, new)
            visual.trunk.num_classes = width
        elif "mlp" in visual.head._modules:
            old = visual.head.mlp
            bias = (True, old.fc2.bias is not None)
            visual.head.mlp = Mlp(old.fc1.in_features, 2 * width, width, drop=(old.drop1.p, old.drop2.p), bias=bias)
        else:
            old = visual.head.proj
            visual.head.proj = nn.Linear(old.in_features, width, bias=old.bias is not None)

    def matrices(self, block: int) -> Sequence[Matrix]:
        path = self.block_paths[block]
        linears = {n: m for n, m in self._blocks[block].named_modules() if isinstance(m, nn.Linear)}
        return [found for name, linear in linears.items() for found in _matrices(f"{path}.{name}", linear)]

    def branches(self, block: int) -> Sequence[Branch]:
        if not (self._kind.is_vit or self._kind.fixed_size):
            return ()
        kinds = ((name.rpartition(".")[2], name) for name, _ in self._blocks[block].named_modules())
        path = self.block_paths[block]
        return [Branch(kind, f"{path}.{n}") for kind, n in kinds if kind in ("attn", "mlp") and "rel_pos" not in n]

    @property
    def _stride(self) -> int:
        """Pixels across that one place of the last maps stands for."""
        return int(self.visual.trunk.feature_info[-1]["reduction"])

    def _embed(self, inputs: Tensor) -> Hidden:
        return self._kind.embed(self.visual.trunk, inputs)

    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        return replace(hidden, x=self._kind.block(self.visual.trunk, self._blocks[number], hidden, number))

    def _finish(self, hidden: Hidden) -> Tensor:
        trunk, x = self.visual.trunk, hidden.x
        for name in self._kind.after:
            x = trunk.get_submodule(name)(x)
        pooled: Tensor = trunk.forward_head(x, pre_logits=True)
        return pooled

    def project(self, pooled: Tensor) -> Tensor:
        # open_clip projects in the trunk's own classifier or in a head of its own; the other one is the identity
        projected: Tensor = self.visual.head(self.visual.trunk.get_classifier()(pooled))
        return projected


def config_at_size(visual: Any, name: str) -> dict[str, Any] | None:
    """A timm config.json by which timm builds the trunk at the size it has; None where its name says that already.

    open_clip passes no image size on to timm, but timm takes `local-dir:FOLDER` for a name.

    Args:
        visual: open_clip's TimmModel.
        name: its `timm_model_name`.
    """
    size = getattr(getattr(visual.trunk, "patch_embed", None), "img_size", None)
    if size is None:
        return None
    if name.startswith(_LOCAL_DIR):
        folder = Path(name.removeprefix(_LOCAL_DIR))
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config | {"model_args": {**config.get("model_args", {}), "img_size": list(size)}}
    with torch.device("meta"):
        by_name = timm.create_model(name, num_classes=0)
    if tuple(by_name.patch_embed.img_size) == tuple(size):
        return None
    known = {key: value for key, value in by_name.pretrained_cfg.items() if key not in ("file", "source", "state_dict")}
    architecture = name.partition(".")[0]
    return {"architecture": architecture, "pretrained_cfg": known, "model_args": {"img_size": list(size)}}


_LOCAL_DIR = "local-dir:"

# --- kinds ---------------------------------------------------------------------------------------


def _modules_in_a_row(*names: str) -> Callable[[Any, Tensor], Hidden]:
    def embed(trunk: Any, images: Tensor) -> Hidden:
        x = images
        for name in names:
            x = trunk.get_submodule(name)(x)
        return Hidden(x)

    return embed


def _embed_vit(trunk: Any, images: Tensor) -> Hidden:
    return Hidden(trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images)))))


def _embed_relpos(trunk: Any, images: Tensor) -> Hidden:
    x = trunk.patch_embed(images)  # (B, L, W)
    if trunk.cls_token is not None:
        x = torch.cat((trunk.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
    return Hidden(x, positions=None if trunk.shared_rel_pos is None else trunk.shared_rel_pos.get_bias())


def _embed_eva(trunk: Any, images: Tensor) -> Hidden:
    x, rotary = trunk._pos_embed(trunk.patch_embed(images))
    return Hidden(trunk.norm_pre(x), positions=rotary)


def _plain_block(trunk: Any, block: nn.Module, hidden: Hidden, number: int) -> Tensor:
    x: Tensor = block(hidden.x)
    return x


def _relpos_block(trunk: Any, block: nn.Module, hidden: Hidden, number: int) -> Tensor:
    x: Tensor = block(hidden.x, shared_rel_pos=hidden.positions)
    return x


def _eva_block(trunk: Any, block: nn.Module, hidden: Hidden, number: int) -> Tensor:
    rotary = hidden.positions
    if rotary is not None and trunk.rope_mixed:  # then each block has its own
        rotary = rotary[number]
    x: Tensor = block(hidden.x, rope=rotary)
    return x


@dataclass(frozen=True)
class _Kind:
    """Paths inside a timm trunk, and its way from images to the last block.

    Args:
        embeddings: all before block 0.
        blocks: one path a block, or the path of a list of blocks.
        norm: between the last block and the classifier.
        classifier: which open_clip may use as the projection.
        after: the modules between the last block and the trunk's own head.
        embed: images to what block 0 takes.
        block: runs one.
        is_vit: whether its blocks are transformer blocks on a row of patches.
        fixed_size: whether it takes images of one size alone.
    """

    embeddings: tuple[str, ...]
    blocks: tuple[str, ...]
    norm: tuple[str, ...]
    classifier: tuple[str, ...]
    after: tuple[str, ...]
    embed: Callable[[Any, Tensor], Hidden]
    block: Callable[[Any, nn.Module, Hidden, int], Tensor] = _plain_block
    is_vit: bool = False
    fixed_size: bool = False


_VIT_EMBEDDINGS = ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre")
_VIT_NORM = ("norm", "fc_norm")
_KINDS = {
    "VisionTransformer": _Kind(_VIT_EMBEDDINGS, ("blocks",), _VIT_NORM, ("head",), ("norm",), _embed_vit, is_vit=True),
    "VisionTransformerRelPos": _Kind(
        ("cls_token", "patch_embed", "shared_rel_pos"),
        ("blocks",),
        _VIT_NORM,
        ("head",),
        ("norm",),
        _embed_relpos,
        _relpos_block,
        is_vit=True,
        fixed_size=True,
    ),
    "Eva": _Kind(
        (*_VIT_EMBEDDINGS, "rope"), ("blocks",), _VIT_NORM, ("head",), ("norm",), _embed_eva, _eva_block, is_vit=True
    ),
    "SwinTransformer": _Kind(
        ("patch_embed",),
        ("layers",),
        ("norm",),
        ("head.fc",),
        ("norm",),
        _modules_in_a_row("patch_embed"),
        fixed_size=True,
    ),
    "ConvNeXt": _Kind(
        ("stem",),
        ("stages",),
        ("norm_pre", "head.norm", "head.pre_logits"),
        ("head.fc",),
        ("norm_pre",),
        _modules_in_a_row("stem"),
    ),
    "FastVit": _Kind(("stem",), ("stages",), ("final_conv",), ("head.fc",), ("final_conv",), _modules_in_a_row("stem")),
    "EfficientNet": _Kind(
        ("conv_stem", "bn1"),
        ("blocks",),
        ("conv_head", "bn2"),
        ("classifier",),
        ("conv_head", "bn2"),
        _modules_in_a_row("conv_stem", "bn1"),
    ),
    "ResNet": _Kind(
        ("conv1", "bn1"),
        ("layer1", "layer2", "layer3", "layer4"),
        (),
        ("fc",),
        (),
        _modules_in_a_row("conv1", "bn1", "act1", "maxpool"),
    ),
}


# --- what LoRA may join --------------------------------------------------------------------------

_TARGETS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "attn.proj": "o",
    "token_mixer.proj": "o",
    "mlp.fc1": "fc",
    "mlp.fc1_g": "fc",  # EVA-02's and ViTamin's MLPs have a gate beside the first matrix
    "mlp.fc1_x": "fc",
    "mlp.w0": "fc",
    "mlp.w1": "fc",
    "mlp.fc2": "proj",
    "mlp.w2": "proj",
}


def _matrices(path: str, linear: nn.Linear) -> list[Matrix]:
    if ".rel_pos." in path:
        return []
    if path.endswith(".qkv"):
        third = linear.out_features // 3
        return [Matrix(target, path, (i * third, (i + 1) * third)) for i, target in enumerate("qkv")]
    return [Matrix(target, path) for end, target in _TARGETS.items() if path.endswith(f".{end}")]


# --- facts ---------------------------------------------------------------------------------------


def _pool_type(trunk: Any) -> str:
    """How the trunk pools: a word in a ViT, a layer of a staged network or of its head."""
    pool: Any = trunk.global_pool if hasattr(trunk, "global_pool") else trunk.head.global_pool
    return pool if isinstance(pool, str) else str(pool.pool_type)


def _vit(trunk: Any) -> dict[str, Any]:
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


def _stages(trunk: Any, blocks: list[nn.Module]) -> dict[str, Any]:
    units = tuple(len(getattr(stage, "blocks", stage)) for stage in blocks)  # type: ignore[arg-type]
    widths = tuple(info["num_chs"] for info in trunk.feature_info)
    windows = type(trunk).__name__ == "SwinTransformer"
    return {
        "stages": units,
        "activation": activation(trunk),
        "stage_widths": widths if len(widths) == len(blocks) else None,
        "positions": "relative, within a window" if windows else "none",
    }


def _landmarks(trunk: Any, kind: _Kind) -> tuple[Landmark, ...]:
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

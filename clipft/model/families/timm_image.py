"""A timm network behind open_clip's TimmModel: a ViT of one kind or another, or a staged network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn

from clipft.model.config_files import HUGGING_FACE_CONFIG, LOCAL_DIR
from clipft.model.facts import TowerFacts
from clipft.model.families.common import POOLED, below, numbered, pair, projection_facts, unsupported
from clipft.model.families.positions import grid_of, refused, resized_note
from clipft.model.families.timm_facts import landmarks, pool_type, stage_facts, vit_facts
from clipft.model.families.timm_kinds import KINDS
from clipft.model.tower import Tower
from clipft.model.tower_parts import Branch, Hidden, Layout, Matrix


class TimmImage(Tower):
    """A timm network; in a staged one the blocks are its stages."""

    def __init__(self, model: nn.Module, visual: Any, dropout: float) -> None:
        self.visual, trunk = visual, visual.trunk
        kind = type(trunk).__name__
        if kind not in KINDS or not type(trunk).__module__.startswith("timm."):
            raise unsupported("image", f"timm's {kind}")
        pool = pool_type(trunk)
        if "pool" in visual.head._modules or pool not in POOLED:
            raise unsupported("image", f"timm's {kind} pooled by open_clip's own attention ({pool or 'in its head'})")
        self._kind = known = KINDS[kind]
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
            **(vit_facts(trunk) if known.is_vit else stage_facts(trunk, self._blocks)),
            landmarks=landmarks(trunk, known),
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
    if name.startswith(LOCAL_DIR):
        folder = Path(name.removeprefix(LOCAL_DIR))
        config: dict[str, Any] = json.loads((folder / HUGGING_FACE_CONFIG).read_text(encoding="utf-8"))
        return config | {"model_args": {**config.get("model_args", {}), "img_size": list(size)}}
    with torch.device("meta"):
        by_name = timm.create_model(name, num_classes=0)
    if tuple(by_name.patch_embed.img_size) == tuple(size):
        return None
    known = {key: value for key, value in by_name.pretrained_cfg.items() if key not in ("file", "source", "state_dict")}
    architecture = name.partition(".")[0]
    return {"architecture": architecture, "pretrained_cfg": known, "model_args": {"img_size": list(size)}}


_TARGETS = {  # what LoRA may join, by the end of its path
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

"""All of open_clip's architectures on the meta device, against a table of module names that is written down here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
from torch import nn

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.tower import Tower, owners
from profile_models import ENCODERS, meta_model

# --- the table: for each family the paths below which its parts lie; {} is a block's number --------

Table = dict[str, list[str]]
NATIVE_VIT: Table = {
    "embeddings": ["visual.class_embedding", "visual.positional_embedding", "visual.conv1", "visual.ln_pre"],
    "block": ["visual.transformer.resblocks.{}"],
    "norm": ["visual.ln_post"],
    "pooling": ["visual.attn_pool"],
    "projection": ["visual.proj"],
}
RESNET: Table = {
    "embeddings": [f"visual.{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3)],
    "block": ["visual.layer{}"],
    "pooling": [f"visual.attnpool.{name}" for name in ("positional_embedding", "q_proj", "k_proj", "v_proj")],
    "projection": ["visual.attnpool.c_proj"],
}
TIMM_VIT: Table = {
    "embeddings": [f"visual.trunk.{name}" for name in ("cls_token", "pos_embed", "patch_embed", "norm_pre")],
    "block": ["visual.trunk.blocks.{}"],
    "norm": ["visual.trunk.norm", "visual.trunk.fc_norm"],
    "pooling": ["visual.trunk.attn_pool"],
    "projection": ["visual.trunk.head", "visual.head"],
}
CONVNEXT: Table = {
    "embeddings": ["visual.trunk.stem"],
    "block": ["visual.trunk.stages.{}"],
    "norm": ["visual.trunk.head.norm"],
    "projection": ["visual.head.proj", "visual.head.mlp.fc1", "visual.head.mlp.fc2"],
}
FASTVIT: Table = {
    "embeddings": ["visual.trunk.stem"],
    "block": ["visual.trunk.stages.{}"],
    "norm": ["visual.trunk.final_conv"],
    "projection": ["visual.trunk.head.fc"],
}
SWIN: Table = {
    "embeddings": ["visual.trunk.patch_embed"],
    "block": ["visual.trunk.layers.{}"],
    "norm": ["visual.trunk.norm"],
    "projection": ["visual.head.proj"],
}
ROOT_TEXT: Table = {
    "embeddings": ["token_embedding", "positional_embedding"],
    "block": ["transformer.resblocks.{}"],
    "norm": ["ln_final"],
    "projection": ["text_projection"],
}
OWN_TEXT: Table = {
    "embeddings": ["text.token_embedding", "text.positional_embedding", "text.cls_emb"],
    "block": ["text.transformer.resblocks.{}"],
    "norm": ["text.ln_final"],
    "projection": ["text.text_projection"],
}
BERT: Table = {
    "embeddings": ["text.transformer.embeddings"],
    "block": ["text.transformer.encoder.layer.{}"],
    "pooling": ["text.transformer.pooler"],
    "projection": ["text.proj"],
}
MT5: Table = {
    "embeddings": ["text.transformer.embed_tokens"],
    "block": ["text.transformer.block.{}"],
    "norm": ["text.transformer.final_layer_norm"],
    "projection": ["text.proj"],
}
M2M100: Table = {
    "embeddings": ["text.transformer.embed_tokens"],
    "block": ["text.transformer.layers.{}"],
    "norm": ["text.transformer.layer_norm"],
    "projection": ["text.proj"],
}
OTHERS = ("logit_scale", "logit_bias", "text_decoder")
TIMM = {"convnext": CONVNEXT, "fastvit": FASTVIT, "swin": SWIN}

# --- which are looked at when ---------------------------------------------------------------------

SAMPLE = {
    "ViT-B-32",
    "RN50",
    "convnext_large_d",
    "vit_medium_patch16_gap_256",
    "vit_relpos_medium_patch16_cls_224",
    "swin_base_patch4_window7_224",
    "ViT-B-16-SigLIP2",
    "ViT-SO400M-16-SigLIP-i18n-256",
    "ViTamin-S",
    "MobileCLIP-B",
    "MobileCLIP2-S0",
    "EVA02-B-16",
    "PE-Core-B-16",
    "ViT-L-14-CLIPA",
    "coca_ViT-B-32",
    "coca_roberta-ViT-B-32",
    "mt5-base-ViT-B-32",
    "nllb-clip-base",
}
NAMES = [
    name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in sorted(open_clip.list_models())
]


def tables_of(cfg: dict[str, Any]) -> tuple[Table, Table]:
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    if "timm_model_name" in vision:
        image = next((t for key, t in TIMM.items() if vision["timm_model_name"].startswith(key)), TIMM_VIT)
    else:
        image = RESNET if isinstance(vision["layers"], list) else NATIVE_VIT
    if name := text.get("hf_model_name"):
        kind = json.loads((Path(name) / "config.json").read_text())["model_type"]
        return image, {"mt5": MT5, "m2m_100": M2M100}.get(kind, BERT)
    return image, OWN_TEXT if cfg.get("custom_text") or "multimodal_cfg" in cfg else ROOT_TEXT


def group_in(table: Table, name: str) -> str | None:
    """The part of the table that a parameter lies in; a ResNet's first stage is called layer1."""
    first = 1 if table is RESNET else 0
    for part, paths in table.items():
        for path in paths:
            found = re.match(path.replace(".", r"\.").replace("{}", r"(\d+)") + r"(\.|$)", name)
            if found:
                return f"block {int(found[1]) - first}" if part == "block" else part
    return None


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_two_towers_that_freeze_as_said(name: str, tmp_path: Path) -> None:
    """P12, P13: every parameter has one owner; freeze_layers takes the embeddings and N blocks, and nothing else."""
    meta = meta_model(name, tmp_path)
    shapes = {parameter: tensor.numel() for parameter, tensor in meta.model.named_parameters()}
    assert all(tensor.is_meta for tensor in meta.model.parameters())
    expected = expected_groups(meta, list(shapes))
    check_owners(meta, expected, shapes)
    for tower in (meta.image, meta.text):
        groups = {n: group for n, (where, group) in expected.items() if where == tower.name}
        depth = len({group for group in groups.values() if group.startswith("block")})
        assert tower.depth == depth
        for layers in (0, 1, depth, -1):
            assert frozen_by(meta, tower, layers) == taken_by(groups, layers), layers
        with pytest.raises(InputError, match=rf"{tower.name}.freeze_layers: {depth + 1} .* has {depth} blocks"):
            frozen_by(meta, tower, depth + 1)


def expected_groups(meta: MetaModel, names: list[str]) -> dict[str, tuple[str, str]]:
    """The tower and group of each parameter as the table has it: exactly one."""
    image, text = tables_of(meta.model_cfg)
    found = {}
    for name in names:
        places = [(where, group_in(table, name)) for where, table in (("image", image), ("text", text))]
        claims = [(where, group) for where, group in places if group]
        if name.split(".")[0] in OTHERS:
            claims += [("decoder", "decoder") if name.startswith("text_decoder") else ("heads", name)]
        assert len(claims) == 1, f"{name}: {claims}"
        found[name] = claims[0]
    return found


def check_owners(meta: MetaModel, expected: dict[str, tuple[str, str]], sizes: dict[str, int]) -> None:
    found = owners(meta.model, meta.image, meta.text)
    assert found == expected
    counts = {where: sum(sizes[n] for n, (w, _) in found.items() if w == where) for where in TOWERS}
    assert sum(counts.values()) == count(meta.model)
    assert counts["image"] == count(meta.model.get_submodule("visual"))


TOWERS = ("image", "text", "heads", "decoder")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def frozen_by(meta: MetaModel, tower: Tower, layers: int) -> set[str]:
    plan = plan_of(meta, {tower.name: {"freeze_layers": layers}})
    return {p.name for p in plan.frozen if p.tower == tower.name and p.rule == f"freeze_layers: {layers}"}


def plan_of(meta: MetaModel, config: dict[str, Any]) -> Plan:
    section = ModelConfig(name="a-model", **config)
    loss = "siglip" if meta.model.logit_bias is not None else "contrastive"
    return make_plan(
        meta.model,
        meta.image,
        meta.text,
        name="a-model",
        config=section,
        loss=loss,
        features="projected",
        optim=OptimConfig(),
    )


def taken_by(groups: dict[str, str], layers: int) -> set[str]:
    backbone = {name for name, group in groups.items() if group != "projection"}
    if layers == -1:
        return backbone
    parts = {"embeddings", *(f"block {i}" for i in range(layers))} if layers else set()
    return {name for name in backbone if groups[name] in parts}


def test_every_architecture_is_looked_at() -> None:
    assert len(NAMES) == 144
    named = [open_clip.get_model_config(name)["text_cfg"].get("hf_model_name") for name in open_clip.list_models()]
    assert {name for name in named if name} == set(ENCODERS)


def test_the_known_counts() -> None:
    meta = build_meta(ModelConfig(name="ViT-B-32"))
    sizes = {n: p.numel() for n, p in meta.model.named_parameters()}
    places = owners(meta.model, meta.image, meta.text)
    image = sum(sizes[n] for n, (tower, _) in places.items() if tower == "image")
    blocks = sum(sizes[n] for n, (tower, group) in places.items() if tower == "text" and group.startswith("block"))
    assert (sum(sizes.values()), image, blocks) == (151_277_313, 87_849_216, 37_828_608)
    assert count(build_meta(ModelConfig(name="ViT-bigG-14")).model) == 2_539_567_105

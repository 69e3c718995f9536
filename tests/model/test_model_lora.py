"""LoRA as a config asks for it: which parameters come into a model, and that they train."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from freeze_models import on_meta
from lora_kinds import ALL, FEW, KINDS, Towers, encoded, joined, objective, rest_slow, stir, through
from tiny_families import FAMILIES, build, images, tokens
from torch import nn

from clipft.config.additions_schema import LoraConfig
from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ImageTowerConfig, ModelConfig, TextTowerConfig
from clipft.errors import InputError
from clipft.model.additions import add_new
from clipft.model.freeze import make_plan
from clipft.model.lora import add_lora, has_lora
from clipft.model.low_rank import LowRank
from clipft.model.plan import Plan
from clipft.model.standstill import apply_plan, set_modes
from clipft.model.towers import towers_of

TYPICAL = {
    "native, class token", "native, quick gelu and custom blocks", "siglip", "vitamin", "timm relpos", "timm swin",
    "timm eva01", "timm eva02", "pe-core", "timm fastvit", "timm convnext", "modified resnet", "coca",
    "hf roberta, mlp", "hf mt5, mlp", "hf m2m100",
}  # fmt: skip


@pytest.mark.parametrize("family", rest_slow(FAMILIES, TYPICAL))
def test_every_parameter_gets_a_gradient(family: str, tmp_path: Path) -> None:
    """P49: in every family and every place, B at the first step and A from the next."""
    model = build(family, tmp_path)
    towers = towers_of(model)
    for tower in towers:
        there = {m.target: None for block in range(tower.depth) for m in tower.matrices(block)}
        if there:
            blocks = [block for block in range(tower.depth) if len(tower.matrices(block))]
            add_lora(model, tower, LoraConfig(rank=2, targets=tuple(there), layers=tuple(blocks)))
        assert set(tower.added) == {n for n in tower.names() if ".lora." in n}
        for name, new in tower.added.items():
            assert new.group == "lora"
            assert name.startswith(tower.block_paths[new.place])
    names = [name for tower in towers for name in tower.added]
    assert names
    assert {name for name, _ in model.named_parameters() if ".lora." in name} == set(names)
    x, ids = images(model), tokens()
    for ending in (".b", ".a"):
        objective(through(towers, x, ids)).backward()
        for name in names:
            if name.endswith(ending):
                parameter = model.get_parameter(name)
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
        stir(model)
        model.zero_grad()


@pytest.mark.parametrize("kind", rest_slow(KINDS, FEW[::2]))
def test_fifty_steps_move_all_of_it_and_nothing_else(kind: str, tmp_path: Path) -> None:
    model = KINDS[kind](tmp_path)
    towers = joined(model, dropout=0.1, dora=True)
    plan = planned(model, towers)
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    before = copy.deepcopy(model.state_dict())
    trainable = {name: p for name, p in model.named_parameters() if ".lora." in name}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3)
    x, ids = images(model), tokens()
    for _ in range(50):
        optimizer.zero_grad()
        objective(through(towers, x, ids)).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in trainable), name


def planned(model: nn.Module, towers: Towers) -> Plan:
    config = ModelConfig(name="a-model", pretrained="a-tag")
    return make_plan(
        model, *towers, name="a-model", config=config, loss="contrastive", features="projected", optim=OptimConfig()
    )


def test_the_plan_freezes_the_backbone_and_moves_the_dropout(tmp_path: Path) -> None:
    """LoRA's own dropout is on while the frozen attention around it stays in evaluation mode."""
    model = build("hf pooler", tmp_path)
    towers = joined(model, dropout=0.5)
    plan = planned(model, towers)
    groups = {p.group for p in plan.parameters if p.trainable}
    assert groups == {"lora", "projection", "logit_scale"}
    set_modes(model, plan, training=True)
    new = {id(m) for part in model.modules() if isinstance(part, LowRank) for m in part.modules()}
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p]
    assert len([m for m in dropouts if m.training]) == len([m for m in dropouts if id(m) in new]) > 0
    assert all(m.training == (id(m) in new) for m in dropouts)
    assert not any(m.training for m in model.modules() if isinstance(m, nn.MultiheadAttention))


def test_meta_and_devices_give_the_same_parameters(tmp_path: Path) -> None:
    """The plan is made on the meta device, the weights come later."""
    config = ModelConfig(
        name="a-model",
        pretrained="a-tag",
        image=ImageTowerConfig(lora=LoraConfig(rank=3, dora=True)),
        text=TextTowerConfig(lora=LoraConfig(targets=("v", "o"), layers=(1,))),
    )
    shapes = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = build("native, class token", tmp_path)
            towers = towers_of(model)
            assert add_new(model, *towers, config, seed=1) == ()
            assert {p.device.type for p in model.parameters()} == {device}
            shapes.append({name: tuple(p.shape) for name, p in model.named_parameters()})
            features = encoded(model, images(model).to(device), tokens().to(device))
            assert features[0].shape == (2, 24)
    assert shapes[0] == shapes[1]
    assert {n for n in shapes[0] if n.startswith("transformer") and ".lora." in n} == {
        f"transformer.resblocks.1.attn.lora.{target}.{matrix}" for target in "vo" for matrix in "ab"
    }


def test_chance_follows_from_the_seed_alone(tmp_path: Path) -> None:
    config = ModelConfig(name="a-model", pretrained="a-tag", text=TextTowerConfig(lora=LoraConfig()))
    drawn = []
    for seed, before in ((1, 0), (1, 5), (2, 0)):
        model = build("native, class token", tmp_path)
        towers = towers_of(model)
        torch.manual_seed(before)
        state = torch.get_rng_state()
        add_new(model, *towers, config, seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(model.get_parameter("transformer.resblocks.0.attn.lora.q.a"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("rank", "count"), [(2, 184_320), (4, 368_640)])
def test_clip_lora_counts(rank: int, count: int) -> None:
    """CLIP-LoRA, its own figures: q, k and v of every block of both ViT-B/16 towers."""
    model = on_meta("ViT-B-16")
    towers = joined(model, rank=rank, targets=("q", "k", "v"))
    assert sum(model.get_parameter(name).numel() for tower in towers for name in tower.added) == count


@pytest.mark.parametrize(
    ("layers", "blocks"), [("all", {0, 1, 2}), ({"last": 2}, {1, 2}), ([0, 2], {0, 2}), ([1, 1], {1})]
)
def test_layers(layers: Any, blocks: set[int], tmp_path: Path) -> None:
    model = build("native, class token", tmp_path)
    tower = towers_of(model)[1]
    add_lora(model, tower, LoraConfig(layers=layers))
    assert {new.place for new in tower.added.values()} == blocks


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        (
            "native, class token",
            {"layers": [0, 3]},
            "model.image.lora.layers: 3 is out of range: this native ViT tower has 3 blocks; write numbers from 0 to 2",
        ),
        (
            "native, class token",
            {"layers": {"last": 4}},
            "model.image.lora.layers.last: 4 is out of range: this native ViT tower has 3 blocks; write 1 to 3",
        ),
        (
            "timm convnext",
            {},
            "model.image.lora.targets: q matches nothing in this timm ConvNeXt tower's blocks 0 to 3, which have fc, "
            "proj; write targets: [fc, proj]",
        ),
        (
            "timm fastvit",
            {"targets": ["q", "v"], "layers": [0, 2]},
            "model.image.lora.targets: q matches nothing: this timm FastVit tower has no such matrices in blocks 0 and "
            "2; block 3 has q, k, v, o: write layers: [3]",
        ),
        (
            "timm efficientnet, mlp",
            {"targets": ["v"]},
            "model.image.lora.targets: v matches nothing: a timm EfficientNet tower is made of convolutions and has no "
            "matrix that LoRA can join; write strategy: {name: lora, towers: [text]}, or model.image.lora: null; "
            "freeze_layers, the projection and feature_adapter work on it",
        ),
    ],
)
def test_what_matches_nothing_is_refused(family: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    with pytest.raises(InputError) as refusal:
        add_lora(model, towers_of(model)[0], LoraConfig(**keys))
    assert str(refusal.value) == said
    assert not has_lora(model)


def test_an_unusual_attention_is_refused(tmp_path: Path) -> None:
    model = build("native, class token", tmp_path)
    model.visual.transformer.resblocks[1].attn = nn.MultiheadAttention(32, 2, add_bias_kv=True, batch_first=True)
    tower = towers_of(build("native, class token", tmp_path))[0]
    with pytest.raises(InputError, match="keys and values of another width or added ones"):
        add_lora(model, tower, LoraConfig(targets=ALL))

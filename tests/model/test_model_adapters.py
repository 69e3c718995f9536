"""Adapters end the branches of every transformer's blocks, start as the identity, and alone train."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from freeze_models import native, plan_of
from tiny_families import FAMILIES, build, images, tokens
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.adapters import Adapter, add_adapters
from clipft.model.additions import add_new
from clipft.model.freeze import make_plan
from clipft.model.hashes import tensor_sha256
from clipft.model.plan import Plan
from clipft.model.standstill import apply_plan, set_modes
from clipft.model.tower import Tower
from clipft.model.towers import towers_of

CONVOLUTIONS = (
    "modified resnet",
    "timm fastvit",
    "timm efficientnet, mlp",
    "timm efficientnet, no projection",
    "timm resnet",
    "timm convnext",
)
SAMPLE = {"native, class token", "siglip", "hf mt5, mlp", "hf m2m100", "timm swin"}
EACH = [
    name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
    if name not in CONVOLUTIONS
]
SECTION: dict[str, Any] = {"bottleneck": 4, "scale": 0.5}
Towers = tuple[Tower, Tower]


def adapted(model: nn.Module, seed: int = 0, image: bool = True, text: bool = True, **section: Any) -> Towers:
    """The towers of a model that got adapters."""
    section = SECTION | section
    config = ModelConfig(
        name="a-model", image={"adapter": section if image else None}, text={"adapter": section if text else None}
    )
    towers = towers_of(model)
    add_new(model, *towers, config, seed)
    return towers


def stirred(model: nn.Module) -> nn.Module:
    """The model with adapters that are no longer the identity."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Adapter):
                for parameter in module.parameters():
                    parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def plan_with(model: nn.Module, towers: Towers, loss: str = "contrastive", **config: Any) -> Plan:
    section = ModelConfig(name="a-model", pretrained="a-tag", **config)
    return make_plan(
        model, *towers, name="a-model", config=section, loss=loss, features="projected", optim=OptimConfig()
    )


def features(towers: Towers, model: nn.Module) -> tuple[Tensor, Tensor]:
    return towers[0].encode(images(model)), towers[1].encode(tokens())


def has_branches(family: str) -> bool:
    return family not in CONVOLUTIONS


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_start_as_the_identity(family: str, tmp_path: Path) -> None:
    """P50: the base to the bit in evaluation mode, and to float precision in training mode."""
    model = build(family, tmp_path)
    with torch.no_grad():
        base = features(towers_of(model), model)
    towers = adapted(model, image=has_branches(family))
    plan = plan_with(model, towers)
    set_modes(model, plan, training=False)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(features(towers, model), base, strict=True))
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    # nn.MultiheadAttention computes otherwise where something below it has a gradient
    for found, expected, tower in zip(features(towers, model), base, towers, strict=True):
        if tower.added:  # else the image backbone trains, and its BatchNorm with it
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", EACH)
def test_adapters_alone_move(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    before = {name: tensor_sha256(tensor) for name, tensor in model.state_dict().items()}
    towers = adapted(model)
    plan = plan_with(model, towers, image={"projection": "freeze"}, text={"projection": "freeze"})
    trains = {p.name for p in plan.trainable} - {"logit_scale", "logit_bias"}
    adapters = [path for path, module in model.named_modules() if isinstance(module, Adapter)]
    assert trains == {f"{a}.{i}.{leaf}" for a in adapters for i in ("down", "up") for leaf in ("weight", "bias")}
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    optimizer = torch.optim.Adam([model.get_parameter(name) for name in trains], lr=0.01)
    start = {name: model.get_parameter(name).detach().clone() for name in trains}
    for _ in range(2):  # up is zero, so that down moves from the second step on
        optimizer.zero_grad()
        loss = torch.stack([(f * torch.linspace(-1, 1, f.shape[-1])).sum() for f in features(towers, model)]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert [name for name in trains if torch.equal(model.get_parameter(name), start[name])] == []
    after = model.state_dict()
    assert {name: tensor_sha256(after[name]) for name in before} == before  # and the base keeps its names


def test_a_block_by_hand() -> None:
    """Plainly x + attn' and x + mlp' with y' = y + 0.5 up(relu(down y)), as Houlsby's figure 2 has it."""
    model = native()
    towers = adapted(model, activation="relu")
    stirred(model)
    block: Any = model.visual.transformer.resblocks[1]
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4))

    def bottleneck(adapter: Any, y: Tensor) -> Tensor:
        inner = (y @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
        return y + 0.5 * (inner @ adapter.up.weight.T + adapter.up.bias)

    with torch.no_grad():
        normed = block.ln_1(x)
        attn, _ = nn.MultiheadAttention.forward(block.attn, normed, normed, normed, need_weights=False)
        middle = x + bottleneck(block.adapter_attn, attn)
        mlp = block.mlp.c_proj(torch.nn.functional.gelu(block.mlp.c_fc(block.ln_2(middle))))
        expected = middle + bottleneck(block.adapter_mlp, mlp)
        found = block(x)
    assert (found - x).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert towers[0].added["visual.transformer.resblocks.1.adapter_mlp.up.bias"].place == 1


def test_where_a_stage_has_several_units_each_has_its_adapters(tmp_path: Path) -> None:
    model = build("timm swin", tmp_path)
    towers = adapted(model, placement=["mlp"])
    owners = {name.partition(".adapter")[0] for name in towers[0].added}
    assert owners == {f"visual.trunk.{path}" for path, _ in model.visual.trunk.named_modules() if _is_unit(path)}
    widths = {model.get_parameter(n).shape[1] for n in towers[0].added if n.endswith("down.weight")}
    assert widths == set(towers[0].describe().stage_widths or ())


def _is_unit(path: str) -> bool:
    return path.split(".")[-2:-1] == ["blocks"]


@pytest.mark.parametrize("family", ["native, class token", "hf bert", "timm swin", "siglip"])
def test_a_copied_model_has_adapters_of_its_own(family: str, tmp_path: Path) -> None:
    family = "native image, hf bert" if family == "hf bert" else family
    model = build(family, tmp_path)
    towers = adapted(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        base = features(towers, model)
        stirred(twin)
        assert all(torch.equal(a, b) for a, b in zip(features(towers, model), base, strict=True))
        copied = towers_of(twin)
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(features(copied, twin), base, strict=True))
        stirred(model)  # alike, so that both are the same again
        assert all(torch.equal(a, b) for a, b in zip(features(towers, model), features(copied, twin), strict=True))


@pytest.mark.parametrize("family", ["native, class token", "native image, hf bert", "hf mt5, mlp", "timm eva02"])
def test_with_and_without_gradient_in_both_modes_an_adapter_counts(family: str, tmp_path: Path) -> None:
    """P50: nn.MultiheadAttention's fused path without gradient must not pass by the adapter."""
    model = build(family, tmp_path)
    towers = adapted(model)
    with torch.no_grad():
        base = features(towers, model)
    stirred(model)
    with torch.no_grad():
        fused = features(towers, model)
    graded = features(towers, model)
    for plain, one, other in zip(base, fused, graded, strict=True):
        assert (one - plain).norm() > 0.01 * plain.norm()
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = features(towers, model)
    for one, other in zip(halved, graded, strict=True):
        assert torch.nn.functional.cosine_similarity(one.float(), other, dim=-1).min() > 0.99


def test_under_gradient_checkpointing_gradients_are_the_same() -> None:
    model = native()
    towers = adapted(model)
    stirred(model)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4))
    block = model.get_submodule("visual.transformer.resblocks.0")
    names = [name for name in towers[0].added if ".0." in name]
    grads = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=False)):
        model.zero_grad()
        run(x).square().sum().backward()
        grads.append([model.get_parameter(name).grad for name in names])
    assert len(names) == 8
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert all(a.abs().max() > 0 for a in grads[0])


def test_a_module_that_was_replaced_before_is_ended_all_the_same(tmp_path: Path) -> None:
    """LoRA comes first: a subclass that adopts the parameters stands under the old name."""

    class Replaced(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    model = build("native image, hf bert", tmp_path)
    path = "text.transformer.encoder.layer.0.output.dense"
    old: Any = model.get_submodule(path)
    new = Replaced(old.in_features, old.out_features)
    new.weight, new.bias = old.weight, old.bias
    model.get_submodule(path.rpartition(".")[0]).dense = new
    adapted(model, image=False)
    stirred(model)
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(4))
    adapter: Any = model.get_submodule("text.transformer.encoder.layer.0.adapter_mlp")
    with torch.no_grad():
        assert torch.equal(new(x), adapter(torch.nn.functional.linear(x, old.weight, old.bias) * 2))


def test_on_meta_and_from_the_seed() -> None:
    with torch.device("meta"):
        model = native()
    image, text = adapted(model)
    assert all(model.get_parameter(name).is_meta for name in (*image.added, *text.added))
    assert image.encode(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 24)

    drawn = []
    for seed in (1, 1, 2):
        model = native()
        adapted(model, seed)
        drawn.append(model.get_parameter("visual.transformer.resblocks.0.adapter_attn.down.weight"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    # Kaiming-uniform with a = sqrt 5: up to 1 / sqrt(fan in)
    assert 0.9 < drawn[0].abs().max().item() * 32**0.5 <= 1


def test_counts_are_those_of_the_formula() -> None:
    """Two a block of 2 W b + b + W (Houlsby, section 2.1), on both towers of a tiny ViT of three blocks."""
    model = native()
    towers = adapted(model)
    plan = plan_with(model, towers)
    assert sum(p.numel for p in plan.trainable if p.group == "adapter") == 2 * 2 * 3 * (2 * 32 * 4 + 4 + 32)
    assert plan.lines["image"].startswith("froze all backbone parameters")
    assert {p.rule for p in plan.frozen} == {"adapter set, no freeze key"}
    # with a freeze key that alone rules
    plan = plan_with(model, towers, image={"freeze_layers": 1}, text={"freeze_backbone": False})
    assert plan.lines["image"].startswith("froze embeddings + first 1/3 blocks")
    assert plan.lines["text"].startswith("all")
    assert sum(p.trainable for p in plan.parameters if p.group == "adapter") == 2 * 2 * 3 * 4


@pytest.mark.parametrize("family", CONVOLUTIONS)
def test_convolutions_are_refused(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    image, _ = towers_of(model)
    with pytest.raises(InputError) as told:
        adapted(model, text=False)
    assert str(told.value) == (
        f"model.image.adapter: a {image.family} tower has no attention and MLP branches for adapters to end; write "
        "strategy: {name: adapter, towers: [text]}, or model.image.adapter: null; feature_adapter, train_only: [norms] "
        "and the freeze keys work on it"
    )


def test_what_is_said() -> None:
    model = native()
    image, _ = towers_of(model)
    config = ModelConfig(name="a", image={"adapter": SECTION}).image.adapter
    assert config is not None
    said = add_adapters(model, image, config)
    assert said == "image: 6 adapters of width 4 end attn and mlp; they start as the identity"
    assert "visual.transformer.resblocks.0.adapter_attn.down.weight" in image.names()


def test_under_a_classifier_the_text_towers_adapters_stand_still() -> None:
    model = native()
    towers = adapted(model)
    plan = plan_with(model, towers, loss="classifier")
    rules = {p.name: p.rule for p in plan.parameters if p.group == "adapter"}
    assert {rule for name, rule in rules.items() if name in towers[1].added} == {"not in the loss"}
    assert {rule for name, rule in rules.items() if name in towers[0].added} == {""}
    assert plan_of(native()).groups().keys() < plan.groups().keys()

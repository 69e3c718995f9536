"""Each family on a tiny instance: features are open_clip's, the tower can be cut anywhere, parts come in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from freeze_models import TEXT, VIT, hugging_face_text, native, plan_of
from tiny_families import FAMILIES, M2M100, build, construct, custom, images, tokens
from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model.families import common
from clipft.model.families.hugging_face_text import FAMILIES as HUGGING_FACE_FAMILIES
from clipft.model.families.timm_kinds import KINDS
from clipft.model.plan import block_number
from clipft.model.standstill import apply_plan, set_modes
from clipft.model.tower import Tower, owners
from clipft.model.towers import towers_of

TO_FLOAT_PRECISION = {"modified resnet"}  # open_clip pools and projects in one call there


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_open_clip_to_the_bit(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    image, text = towers_of(model)
    x, ids = images(model), tokens()
    with torch.no_grad():
        expected = model.encode_image(x, normalize=False)
        found = image.encode(x)
        assert found.shape == (2, image.embed_dim)
        assert image.pool(x).shape == (2, image.pooled_width)
        if family in TO_FLOAT_PRECISION:
            torch.testing.assert_close(F.normalize(found, dim=-1), F.normalize(expected, dim=-1), atol=1e-6, rtol=0)
        else:
            assert torch.equal(found, expected.reshape(found.shape))  # CoCa's contrastive pool leaves (2, 1, D)
        assert torch.equal(text.encode(ids), model.encode_text(ids, normalize=False))
        assert text.pool(ids).shape == (3, text.pooled_width)
        assert text.encode(ids).shape == (3, text.embed_dim)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_then_suffix_is_the_tower_for_every_cut(family: str, tmp_path: Path) -> None:
    """mT5's relative positions, from block 0, are carried along."""
    model = build(family, tmp_path)
    image, text = towers_of(model)
    with torch.no_grad():
        for tower, inputs in ((image, images(model)), (text, tokens())):
            whole = F.normalize(tower.encode(inputs), dim=-1)
            for cut in range(tower.depth + 1):
                hidden = tower.prefix(inputs, cut)
                for _ in range(2):  # a suffix does not spoil what it is given: a cache is read again and again
                    again = F.normalize(tower.suffix(hidden, cut), dim=-1)
                    torch.testing.assert_close(again, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_come_in_the_order_that_data_meets_them(family: str, tmp_path: Path) -> None:
    """P13: block indices go up along the data's way; embeddings lie before block 0, the rest after the last block."""
    model = build(family, tmp_path)
    for tower, run in zip(towers_of(model), (run_images, run_texts), strict=True):
        met = parts_met(model, tower, run)
        places = list(dict.fromkeys(place(group) for group in met))
        assert places == sorted(places)
        assert {group for group in met if block_number(group) is not None} == {f"block {i}" for i in range(tower.depth)}


def parts_met(model: nn.Module, tower: Tower, run: Callable[[Any], Tensor]) -> list[str]:
    """The groups of the modules that open_clip's own forward pass calls, in its order."""
    met: list[str] = []
    hooks = []
    for path, module in model.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        groups = {tower.group_of(name) for name in names if name in tower.names()}
        if len(groups) == 1 and not isinstance(module, nn.ParameterList):
            group = groups.pop()
            hooks.append(module.register_forward_pre_hook(lambda *_, group=group: met.append(group)))
    with torch.no_grad():
        run(model)
    for hook in hooks:
        hook.remove()
    return met


def place(group: str) -> int:
    number = block_number(group)
    if number is not None:
        return number
    return {"embeddings": -1, "norm": 1000, "pooling": 1000, "projection": 2000}[group]


def run_images(model: Any) -> Tensor:
    encoded: Tensor = model.encode_image(images(model))
    return encoded


def run_texts(model: Any) -> Tensor:
    encoded: Tensor = model.encode_text(tokens())
    return encoded


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_belongs_to_exactly_one_part(family: str, tmp_path: Path) -> None:
    """P12: parts at the root, of timm, of Hugging Face, of a decoder: each parameter has one owner."""
    model = build(family, tmp_path)
    image, text = towers_of(model)
    names = [name for name, _ in model.named_parameters()]
    of_parts = Counter(name for tower in (image, text) for part in tower.parts for name in part.names)
    assert set(of_parts.values()) == {1}
    found = owners(model, image, text)
    assert list(found) == names
    rest = {name for name, (tower, _) in found.items() if tower in ("heads", "decoder")}
    assert set(of_parts) | rest == set(names)
    assert rest == {n for n in names if n in ("logit_scale", "logit_bias") or n.startswith("text_decoder.")}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_can_train_gets_a_gradient(family: str, tmp_path: Path) -> None:
    """P17: with nothing frozen no trainable parameter is left without gradient; M2M100's LayerDrop is off."""
    model = build(family, tmp_path)
    image, text = towers_of(model)
    plan = plan_of(model, loss="siglip" if model.logit_bias is not None else "contrastive")
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    (image.encode(images(model, 4)).square().mean() + text.encode(tokens()).square().mean()).backward()
    without = {p.name for p in plan.trainable if model.get_parameter(p.name).grad is None}
    assert without == {"logit_scale", "logit_bias"} & {p.name for p in plan.trainable}


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_buffers_stand_still_and_moving_ones_move(family: str, tmp_path: Path) -> None:
    """P16: under freeze_layers 1 the first block's BatchNorm keeps its statistics while the model trains."""
    model = build(family, tmp_path)
    image, _ = towers_of(model)
    plan = plan_of(model, image={"freeze_layers": 1}, loss="siglip" if model.logit_bias is not None else "contrastive")
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("running_mean")}
    image.encode(images(model, 4))
    moved = {name for name, old in before.items() if not torch.equal(model.get_buffer(name), old)}
    frozen = {p.name.rpartition(".")[0] for p in plan.frozen}
    assert moved == {name for name in before if name.rpartition(".")[0] not in frozen and not is_decoder(name)}


def is_decoder(name: str) -> bool:
    return name.startswith("text_decoder.")


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_dropped_below_the_first_block_that_trains(family: str, tmp_path: Path) -> None:
    """P16: with every dropout and stochastic depth at a half, a frozen prefix gives the same bits in training."""
    model = build(family, tmp_path)
    for module in model.modules():
        for name in ("p", "drop_prob"):
            if isinstance(getattr(module, name, None), float) and not list(module.parameters()):
                setattr(module, name, 0.5)
    loss = "siglip" if model.logit_bias is not None else "contrastive"
    towers = towers_of(model)
    for cut in range(1, 1 + max(tower.depth for tower in towers)):
        keys = {tower.name: {"freeze_layers": min(cut, tower.depth)} for tower in towers}
        plan = plan_of(model, loss=loss, **keys)
        for tower, inputs in zip(towers, (images(model), tokens()), strict=True):
            here = min(cut, tower.depth)
            with torch.no_grad():
                set_modes(model, plan, training=False)
                still = tower.prefix(inputs, here).x
                set_modes(model, plan, training=True)
                assert torch.equal(tower.prefix(inputs, here).x, still)


def test_the_refusal_names_every_kind_there_is() -> None:
    refusal = str(common.unsupported("image", "a new one"))
    assert f"of timm's {', '.join(KINDS)}, and text" in refusal
    assert set(common.HUGGING_FACE_TYPES) == set(HUGGING_FACE_FAMILIES)


def test_a_vit_without_pooling_is_a_tower_that_gives_a_feature_a_token() -> None:
    model = native(vision={"pool_type": "none"})
    image, _ = towers_of(model)
    x = images(model)
    with torch.no_grad():
        assert torch.equal(image.encode(x), model.encode_image(x))
        assert image.encode(x).shape == (2, 5, 24)
        assert torch.equal(image.suffix(image.prefix(x, 1), 1), image.encode(x))
    assert image.describe().pooling == "none"


def test_layers_of_m2m100_are_never_dropped(tmp_path: Path) -> None:
    """Its LayerDrop of 0.5 would skip one of three blocks in seven of eight passes."""
    without_dropout = M2M100 | {"dropout": 0.0, "attention_dropout": 0.0}
    model = construct(custom(VIT, hugging_face_text(tmp_path, without_dropout, pooler="cls_pooler")))
    _, text = towers_of(model)
    with torch.no_grad():
        still = text.encode(tokens())
        model.train()
        assert torch.equal(text.encode(tokens()), still)


def test_frozen_ends_of_mt5_do_not_drop(tmp_path: Path) -> None:
    """P16: its one dropout module serves both ends; each follows whether its own neighbour trains."""
    model = build("hf mt5, mlp", tmp_path)
    _, text = towers_of(model)
    frozen = plan_of(model, text={"freeze_layers": 2})
    set_modes(model, frozen, training=True)
    with torch.no_grad():
        assert torch.equal(text.embed(tokens()).x, text.embed(tokens()).x)
        assert not torch.equal(text.pool(tokens()), text.pool(tokens()))


def test_a_decoder_is_frozen_and_it_is_said_which_loss_is_on() -> None:
    """P26: CoCa trains contrastively; its captions are not in the loss."""
    plan = plan_of(build("coca", Path()))
    decoder = [p for p in plan.parameters if p.tower == "decoder"]
    assert {(p.group, p.rule, p.trainable) for p in decoder} == {("decoder", "not in the loss", False)}
    assert any(note.startswith("the decoder is frozen") and "captioning one is off" in note for note in plan.notes)
    assert plan.groups()["decoder", "decoder"] == tuple(decoder)


def test_a_pool_for_captions_alone_is_not_in_the_loss() -> None:
    plan = plan_of(build("coca, pools in parallel", Path()))
    idle = {p.name for p in plan.frozen if p.tower == "image"}
    assert idle == {p.name for p in plan.parameters if p.name.startswith("visual.attn_pool.")}
    plan = plan_of(build("coca, pools in a cascade", Path()))
    assert not [p for p in plan.frozen if p.tower == "image"]


def test_tables_and_scales_are_not_pulled_to_zero(tmp_path: Path) -> None:
    """P31: not only biases and norms, but whatever is looked up, added or multiplied as it stands."""
    spared = {
        "modified resnet": {"visual.attnpool.positional_embedding"},
        "coca": {"visual.attn_pool.query", "text.cls_emb", "text.positional_embedding"},
        "siglip": {"visual.trunk.attn_pool.latent", "visual.trunk.pos_embed"},
        "timm swin": {"visual.trunk.layers.0.blocks.0.attn.relative_position_bias_table"},
        "timm fastvit": {"visual.trunk.stages.0.blocks.0.layer_scale.gamma"},
        "hf mt5, mlp": {"text.transformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight"},
    }
    for family, names in spared.items():
        model = build(family, tmp_path)
        loss = "siglip" if model.logit_bias is not None else "contrastive"
        decay = {p.name: p.weight_decay for p in plan_of(model, loss=loss).trainable}
        assert {decay[name] for name in names} == {0.0}, family
        for name, value in decay.items():
            if name.endswith(("in_proj_weight", "mlp.c_fc.weight", "fc1.weight")):
                assert value == 0.1, name


def test_pooling_by_open_clips_own_attention_head_is_refused_by_name() -> None:
    vision = {"timm_model_name": "resnet18", "timm_pool": "abs_attn", "timm_proj": ""}
    with torch.device("meta"):
        model = construct(custom(vision, TEXT))
    with pytest.raises(InputError, match=r"timm's ResNet pooled by open_clip's own attention .* not supported"):
        towers_of(model)

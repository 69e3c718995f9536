"""Towers: whose each parameter is, and that the way from inputs to features is open_clip's own to the bit."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from freeze_models import BERT, VIT, custom, hugging_face_text, native, on_meta, plan_of, timm_image
from torch import nn

from clipft.errors import InputError
from clipft.model.freeze import apply_plan, set_modes
from clipft.model.tower import Tower, owners
from clipft.model.towers import towers_of

ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
FAMILIES = (
    "native, class token",
    "native, mean of patches",
    "native, norm after pooling, both ways, last token",
    "native, linear text projection",
    "native, no text projection",
    "native, quick gelu and custom blocks",
    "native image, hf bert",
    "timm vit, class token",
    "timm vit, own head as projection",
    "timm vit, native text",
    "timm efficientnet, mlp",
    "timm efficientnet, no projection",
    "timm resnet",
    "timm convnext",
    "hf pooler",
    "hf first token, no projection",
    "hf roberta, mlp",
)


def build(family: str, folder: Path) -> nn.Module:
    bert = hugging_face_text(folder)
    match family:
        case "native, class token":
            return native()
        case "native, mean of patches":
            return native(vision={"pool_type": "avg", "no_ln_pre": True})
        case "native, norm after pooling, both ways, last token":
            return native(vision={"final_ln_after_pool": True}, text={"no_causal_mask": True, "pool_type": "last"})
        case "native, linear text projection":
            return native(text={"proj_bias": True, "pool_type": "eos", "eos_id": 99})
        case "native, no text projection":
            return native(text={"proj_type": "none", "width": 24})
        case "native, quick gelu and custom blocks":
            return native(vision={"qk_norm": True, "ls_init_value": 0.1}, quick_gelu=True)
        case "native image, hf bert":
            return custom(VIT, bert)
        case "timm vit, class token":
            return custom(timm_image("test_vit", timm_pool="token", timm_proj="linear"), bert)
        case "timm vit, own head as projection":
            return custom(timm_image("test_vit", timm_pool="token", timm_proj=""), bert)
        case "timm vit, native text":
            return native(vision=timm_image("test_vit2"))
        case "timm efficientnet, mlp":
            return custom(timm_image("test_efficientnet", timm_proj="mlp"), bert)
        case "timm efficientnet, no projection":
            return custom(timm_image("test_efficientnet", timm_proj="none"), bert, embed_dim=256)
        case "timm resnet":
            return custom(timm_image("test_resnet", timm_proj_bias=True), bert)
        case "timm convnext":
            return custom(timm_image("test_convnext"), bert)
        case "hf pooler":
            return custom(VIT, hugging_face_text(folder, pooler="cls_pooler"))
        case "hf first token, no projection":
            text = hugging_face_text(folder, pooler="cls_last_hidden_state_pooler", hf_proj_type=None)
            return custom(VIT, text, embed_dim=32)
        case "hf roberta, mlp":
            return custom(VIT, hugging_face_text(folder, ROBERTA, hf_proj_type="mlp"))
    raise ValueError(family)


def images(model: nn.Module) -> torch.Tensor:
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def tokens() -> torch.Tensor:
    ids = torch.randint(2, 98, (3, 16), generator=torch.Generator().manual_seed(2))
    ids[:, 9] = 99  # the end, for those that look for it
    ids[1, 10:] = 0
    return ids


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_open_clip_to_the_bit(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    image, text = towers_of(model)
    x, ids = images(model), tokens()
    with torch.no_grad():
        assert torch.equal(image.encode(x), model.encode_image(x))
        assert torch.equal(text.encode(ids), model.encode_text(ids))
        assert image.pool(x).shape == (2, image.pooled_width)
        assert image.encode(x).shape == (2, image.embed_dim)
        assert text.pool(ids).shape == (3, text.pooled_width)
        assert text.encode(ids).shape == (3, text.embed_dim)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_belongs_to_exactly_one_part(family: str, tmp_path: Path) -> None:
    """P12: text parts at the root, timm and Hugging Face parameters all have one owner."""
    model = build(family, tmp_path)
    image, text = towers_of(model)
    names = [name for name, _ in model.named_parameters()]
    of_parts = Counter(name for tower in (image, text) for part in tower.parts for name in part.names)
    assert set(of_parts.values()) == {1}
    heads = {name for name, (tower, _) in owners(model, image, text).items() if tower == "heads"}
    assert set(of_parts) | heads == set(names)
    assert heads == {"logit_scale"}
    assert list(owners(model, image, text)) == names


@pytest.mark.parametrize("family", FAMILIES)
def test_what_can_train_gets_a_gradient(family: str, tmp_path: Path) -> None:
    """P17: with nothing frozen no trainable parameter is left without gradient, and the rest says why."""
    model = build(family, tmp_path)
    image, text = towers_of(model)
    plan = plan_of(model)
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    (image.encode(images(model)).square().mean() + text.encode(tokens()).square().mean()).backward()
    without = {p.name for p in plan.trainable if model.get_parameter(p.name).grad is None}
    assert without == {"logit_scale"}


def test_parts_come_in_the_order_that_data_meets_them(tmp_path: Path) -> None:
    model = custom(timm_image("test_efficientnet"), hugging_face_text(tmp_path, pooler="cls_pooler"))
    image, text = towers_of(model)
    blocks = [f"block {i}" for i in range(image.depth)]
    assert [part.group for part in image.parts] == ["embeddings", *blocks, "norm", "projection"]
    assert [part.group for part in text.parts] == ["embeddings", "block 0", "block 1", "pooling", "projection"]
    stem = image.parts[0].names
    assert {name.split(".")[2] for name in stem} == {"conv_stem", "bn1"}
    assert {name.split(".")[2] for name in image.parts[-2].names} == {"conv_head", "bn2"}
    assert image.parts[-1].names == ("visual.head.proj.weight",)


def test_native_text_at_the_root() -> None:
    """P12: in CLIP's own class the text parts have no common prefix."""
    _, text = towers_of(native())
    assert text.backbone_prefix == ""
    assert text.parts[0].names == ("positional_embedding", "token_embedding.weight")
    assert text.parts[-1].names == ("text_projection",)
    assert text.inner("transformer.resblocks.0.ln_1.weight") == "transformer.resblocks.0.ln_1.weight"


def test_names_inside_the_backbone(tmp_path: Path) -> None:
    image, text = towers_of(custom(timm_image("test_vit", timm_pool="token"), hugging_face_text(tmp_path)))
    assert image.inner("visual.trunk.blocks.0.attn.qkv.weight") == "blocks.0.attn.qkv.weight"
    assert text.inner("text.transformer.embeddings.LayerNorm.bias") == "embeddings.LayerNorm.bias"
    native_image, _ = towers_of(native())
    assert native_image.inner("visual.conv1.weight") == "conv1.weight"


def test_depth_counts_blocks_and_stages_only() -> None:
    """P13: stem, final norm and projection are no blocks."""
    image, text = towers_of(on_meta("ViT-B-32"))
    assert (image.depth, text.depth) == (12, 12)
    convnext, _ = towers_of(on_meta("convnext_base_w"))
    assert convnext.depth == 4


def test_a_parameter_without_owner_is_an_error() -> None:
    """P12: a parameter that no part claims is never left to chance."""
    model = native()
    model.visual.extra = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"2 parameters belong to no known part .* visual\.extra\.weight"):
        towers_of(model)


def test_dropout_is_on_the_pooled_feature_in_training_only() -> None:
    model = native()
    image, text = towers_of(model, image_dropout=0.5)
    plan = plan_of(native(), image={"freeze_layers": -1, "projection": "freeze"})
    x, ids = images(model), tokens()
    state = set(model.state_dict())
    with torch.no_grad():
        assert torch.equal(image.encode(x), model.encode_image(x))
        set_modes(model, plan, training=True)  # the frozen parts around it do not turn it off
        pooled = image.pool(x)
        torch.manual_seed(0)
        dropped = image.drop(pooled)
        assert 0.2 < (dropped == 0).float().mean() < 0.8
        torch.manual_seed(0)
        assert torch.equal(image.encode(x), image.project(dropped))
        assert torch.equal(text.encode(ids), model.encode_text(ids))
        set_modes(model, plan, training=False)
        assert torch.equal(image.encode(x), model.encode_image(x))
    assert state == set(native().state_dict())


def test_a_copy_of_model_and_towers_goes_together() -> None:
    model = native()
    pair: tuple[nn.Module, Tower] = copy.deepcopy((model, towers_of(model)[0]))
    with torch.no_grad():
        for parameter in pair[0].parameters():
            parameter.zero_()
        assert not pair[1].encode(images(model)).any()


def test_positions_that_the_architecture_fixes_never_train() -> None:
    plan = plan_of(native(vision={"pos_embed_type": "sin_cos_2d"}))  # as in CLIPA
    assert [p.name for p in plan.frozen] == ["visual.positional_embedding"]
    assert plan.frozen[0].rule == "fixed by the model"
    assert "backbone tensors train" in plan.lines["image"]
    assert "all" not in plan.lines["image"]
    assert "image: visual.positional_embedding does not train: fixed by the model" in plan.notes


def test_a_pooler_that_nobody_asks_is_not_in_the_loss(tmp_path: Path) -> None:
    """P17: a Hugging Face pooler beside mean pooling would train without ever getting a gradient."""
    from transformers import BertConfig, BertModel

    model = custom(VIT, hugging_face_text(tmp_path))
    model.text.transformer = BertModel(BertConfig(**BERT), add_pooling_layer=True)
    plan = plan_of(model)
    assert {p.name: p.rule for p in plan.frozen} == {
        "text.transformer.pooler.dense.weight": "not in the loss",
        "text.transformer.pooler.dense.bias": "not in the loss",
    }
    assert plan.lines["text"].startswith("37 of 39 backbone tensors train")


def test_sizes_of_vit_b_32() -> None:
    image, text = (tower.describe() for tower in towers_of(on_meta("ViT-B-32")))
    assert (image.depth, image.width, image.heads, image.head_width, image.mlp_width) == (12, 768, 12, 64, 3072)
    assert (image.image_size, image.patch, image.tokens) == ((224, 224), (32, 32), 50)
    assert (image.projection, image.embed_dim, image.pooling) == (((768, 512),), 512, "class token")
    assert (text.depth, text.width, text.heads, text.head_width, text.mlp_width) == (12, 512, 8, 64, 2048)
    assert (text.context_length, text.vocabulary, text.causal) == (77, 49408, True)
    assert (text.projection, text.pooling, text.activation) == (((512, 512),), "end-of-text token", "GELU")
    quick, _ = towers_of(on_meta("ViT-B-32-quickgelu"))
    assert quick.describe().activation == "QuickGELU"


def test_sizes_of_a_staged_network_and_an_mlp_projection(tmp_path: Path) -> None:
    model = custom(timm_image("tf_efficientnet_lite0", image_size=224, timm_proj="mlp"), hugging_face_text(tmp_path))
    image, text = (tower.describe() for tower in towers_of(model))
    assert (image.depth, image.stages, image.width, image.activation) == (7, (1, 2, 2, 3, 3, 4, 1), 1280, "ReLU6")
    assert image.projection == ((1280, 48), (48, 24))
    assert image.projection_bias
    assert (image.heads, image.tokens, image.causal) == (None, None, None)
    assert (text.context_length, text.vocabulary, text.pooling, text.causal) == (32, 100, "mean of tokens", False)

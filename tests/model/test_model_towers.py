"""Towers: names inside the backbone, dropout, what cannot train, sizes. Each family by itself: test_model_families."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from freeze_models import BERT, VIT, custom, hugging_face_text, native, on_meta, plan_of, timm_image
from tiny_families import images, tokens
from torch import nn

from clipft.errors import InputError
from clipft.model.standstill import set_modes
from clipft.model.tower import Tower
from clipft.model.towers import towers_of


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

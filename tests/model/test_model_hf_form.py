"""P46: which models transformers can build, told from the built open_clip model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hf_models import clip_cfg, hf_clip, hf_siglip, siglip_cfg
from tiny_families import FAMILIES, build

from clipft.model.hf_form import Form, Misfit, blocks_of, form_of


def built(cfg: dict[str, Any]) -> Any:
    cfg = deepcopy(cfg)
    custom, coca = cfg.pop("custom_text", False), "multimodal_cfg" in cfg
    kind = open_clip.CoCa if coca else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.device("meta"):
        return kind(**cfg)


def with_(half: str, base: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    base = base or clip_cfg()
    return {**base, half: {**base[half], **changes}}


@pytest.mark.parametrize(
    ("theirs", "cfg"),
    [(hf_clip, clip_cfg("gelu")), (hf_siglip, siglip_cfg("gelu"))],
)
def test_the_form_is_what_transformers_says_of_the_same_model(theirs: Any, cfg: dict[str, Any]) -> None:
    form = form_of(built(cfg))
    assert isinstance(form, Form)
    for tower in ("vision", "text"):
        config = getattr(theirs("gelu").config, f"{tower}_config").to_dict()
        for key, value in getattr(form, tower).items():
            assert value == ((config[key], config[key]) if key in ("image_size", "patch_size") else config[key]), key
        assert blocks_of(built(cfg), tower).items() <= config.items()


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (with_("vision_cfg", no_ln_pre=True), "CLIPModel needs visual.ln_pre.bias, visual.ln_pre.weight"),
        (with_("vision_cfg", ls_init_value=0.1), "has no place for visual.transformer.resblocks.0.ls_1.gamma"),
        (with_("vision_cfg", pool_type="avg"), "its image tower pools by avg, and CLIPModel takes the class token"),
        (with_("vision_cfg", attentional_pool=True), "has no place for visual.attn_pool"),
        (with_("vision_cfg", image_size=(32, 64)), "its image of 32 x 64 pixels is not square"),
        (with_("vision_cfg", layers=[1, 1, 1, 1], width=8), "its image tower is ModifiedResNet"),
        (with_("vision_cfg", timm_model_name="test_vit", timm_pool=""), "its image tower is timm's VisionTransformer"),
        (with_("text_cfg", proj_bias=True), "no place for text_projection.bias, text_projection.weight and needs text"),
        (with_("text_cfg", pool_type="eos"), "its text tower pools by eos, and CLIPModel by argmax"),
        (with_("text_cfg", no_causal_mask=True), "a token of its text tower sees all tokens, and one of CLIPModel doe"),
        (with_("text_cfg", vocab_size=1000), "it has 1000 different tokens, and CLIPTokenizer 49408"),
        (clip_cfg() | {"init_logit_bias": -10}, "CLIPModel has no place for logit_bias"),
        (with_("vision_cfg", siglip_cfg(), timm_model_name="test_vit3"), "SiglipModel has no place for visual.trunk"),
        (with_("text_cfg", siglip_cfg(), proj_type="none"), "SiglipModel needs text.text_projection.bias"),
        (with_("text_cfg", siglip_cfg(), pool_type="argmax"), "pools by argmax, and SiglipModel by last"),
        (with_("text_cfg", siglip_cfg(), no_causal_mask=False), "sees only the tokens before"),
        ({**open_clip.get_model_config("coca_ViT-B-32")}, "it has a caption decoder"),
    ],
)
def test_what_transformers_cannot_build_is_named(cfg: dict[str, Any], reason: str) -> None:
    form = form_of(built(cfg))
    assert isinstance(form, Misfit)
    assert reason in form.reason


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (with_("text_cfg", hf_tokenizer_name="bert-base-uncased"), "its tokenizer is not CLIP's own"),
        (with_("text_cfg", tokenizer_kwargs={"clean": "canonicalize"}), "its tokenizer is not CLIP's own"),
        (siglip_cfg(), "its tokenizer is CLIP's own, and SigLIP's pads otherwise"),
        (with_("text_cfg", siglip_cfg(), hf_tokenizer_name="x", tokenizer_mode="clips"), "its tokenizer has mode"),
        (clip_cfg(), None),
        (
            with_("text_cfg", siglip_cfg(), hf_tokenizer_name="x", tokenizer_kwargs={"clean": "canonicalize"}),
            None,
        ),
    ],
)
def test_a_tokenizer_that_transformers_does_not_have_is_named(cfg: dict[str, Any], reason: str | None) -> None:
    """P48: it belongs to the weights."""
    plain = {key: value for key, value in cfg["text_cfg"].items() if "tokenizer" not in key}
    form = form_of(built({**cfg, "text_cfg": plain}), cfg)
    assert isinstance(form, Form) if reason is None else isinstance(form, Misfit) and reason in form.reason


def test_an_attention_pool_unlike_its_blocks_is_named() -> None:
    model = built(siglip_cfg())
    model.visual.trunk.attn_pool.mlp.act = torch.nn.GELU()
    form = form_of(model)
    assert isinstance(form, Misfit)
    assert "its attention pool has other heads, width or activation than its blocks" in form.reason


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_an_answer(tmp_path: Path, family: str) -> None:
    """P46: up front, not with a traceback."""
    form = form_of(build(family, tmp_path))
    if isinstance(form, Misfit):
        assert form.reason
    else:
        assert family == "siglip"


@pytest.mark.slow
def test_of_all_architectures_these_fit() -> None:
    """P46: a change of open_clip or of the table shows here."""
    fits = {"clip": 0, "siglip": 0}
    for name in open_clip.list_models():
        cfg = open_clip.get_model_config(name)
        if "hf_model_name" not in cfg["text_cfg"]:
            form = form_of(built(cfg))
            if isinstance(form, Form):
                fits[form.family] += 1
    assert fits == {"clip": 31, "siglip": 25}

"""P44, P46: the table of names between open_clip and transformers, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hf_models import clip_cfg, features_of, hf_clip, hf_siglip, inputs, open_clip_model, siglip_cfg

from clipft.model.hf_names import family_of, misfit, to_open_clip, to_transformers

PAIRS = {
    "CLIP, QuickGELU": (lambda: hf_clip("quick_gelu"), clip_cfg("quick_gelu"), 49408),
    "CLIP, GELU": (lambda: hf_clip("gelu"), clip_cfg("gelu"), 49408),
    "CLIP with a text tower of its own": (lambda: hf_clip("gelu"), clip_cfg("gelu") | {"custom_text": True}, 49408),
    "SigLIP": (hf_siglip, siglip_cfg(), 200),
    "SigLIP 2": (lambda: hf_siglip("gelu_pytorch_tanh"), siglip_cfg("gelu_pytorch_tanh"), 200),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_file_of_transformers_is_the_same_model_in_open_clip(name: str) -> None:
    """P44: the converted tensors fit strictly and give the same features."""
    make, cfg, vocabulary = PAIRS[name]
    theirs, ours = make(), open_clip_model(cfg)
    tensors = to_open_clip(theirs.state_dict(), text="text." if hasattr(ours, "text") else "")
    ours.load_state_dict({name: tensor.reshape(ours.state_dict()[name].shape) for name, tensor in tensors.items()})
    pictures, tokens = inputs(vocabulary)
    for a, b in zip(features_of(ours, pictures, tokens), features_of(theirs, pictures, tokens), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert ours.logit_scale.item() == theirs.logit_scale.item()
    if family_of(theirs.state_dict()) == "siglip":
        assert ours.logit_bias.item() == theirs.logit_bias.item()


@pytest.mark.parametrize("name", PAIRS)
def test_an_open_clip_model_is_the_same_model_in_transformers(name: str) -> None:
    """P46: every tensor of transformers' model gets its numbers, and there and back changes no bit."""
    make, cfg, vocabulary = PAIRS[name]
    theirs, ours = make(), open_clip_model(cfg)
    family = family_of(theirs.state_dict())
    assert family is not None
    assert misfit(list(ours.state_dict()), family) == ([], [])
    tensors = to_transformers(ours.state_dict(), family)
    theirs.load_state_dict(tensors)
    pictures, tokens = inputs(vocabulary)
    for a, b in zip(features_of(ours, pictures, tokens), features_of(theirs, pictures, tokens), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    back = to_open_clip(tensors, text="text." if hasattr(ours, "text") else "")
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[name].reshape(tensor.shape), tensor) for name, tensor in ours.state_dict().items())


def test_what_the_table_does_not_know_keeps_its_name() -> None:
    tensors = {**hf_clip().state_dict(), "vision_model.embeddings.position_ids": torch.arange(17)}
    assert "vision_model.embeddings.position_ids" in to_open_clip(tensors)


def test_half_a_block_and_odd_shapes_keep_their_names() -> None:
    tensors = hf_clip().state_dict()
    del tensors["vision_model.encoder.layers.0.self_attn.k_proj.weight"]
    tensors["text_projection.weight"] = torch.zeros(3)
    found = to_open_clip(tensors)
    assert "vision_model.encoder.layers.0.self_attn.q_proj.weight" in found
    assert found["text_projection.weight"].shape == (3,)
    assert "visual.transformer.resblocks.0.attn.in_proj_bias" in found


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["logit_scale"], None),
        (["vision_model.embeddings.patch_embedding.weight"], None),  # the image tower alone
        (["visual.conv1.weight", "text_projection"], None),  # open_clip's own
    ],
)
def test_other_layouts_are_of_no_family(names: list[str], family: Any) -> None:
    assert family_of(dict.fromkeys(names, torch.zeros(2, 2, 2, 2))) is family


def test_what_does_not_fit_is_told_by_its_name() -> None:
    """P46: up front."""
    names = list(open_clip_model(clip_cfg()).state_dict())
    names.remove("visual.ln_pre.weight")
    assert misfit([*names, "logit_bias"], "clip") == (["visual.ln_pre.weight"], ["logit_bias"])

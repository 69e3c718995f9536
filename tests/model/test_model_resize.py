"""`model.image_size` and `model.context_length`: positions are resampled as open_clip does it, and are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from freeze_models import TEXT, VIT, native
from tiny_families import FAMILIES, build, images, tokens
from tiny_files import write_native
from torch import nn

from clipft.config.load import load_config
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.build import build as build_clip
from clipft.model.build import build_meta
from clipft.model.recipe import Sizes
from clipft.model.resize import Resized, resize
from clipft.model.towers import towers_of

FIXED = {"timm relpos", "timm relpos, shared", "timm swin"}


def resized(model: nn.Module, image_size: tuple[int, int] | None = None, context_length: int | None = None) -> Any:
    resize(model, Sizes(image_size, context_length))
    return model


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in FIXED])
def test_a_resized_tower_is_still_open_clips(family: str, tmp_path: Path) -> None:
    """P47: twice the size, half as many words again; the towers and open_clip's own pass agree on it."""
    model = build(family, tmp_path)
    height, width = towers_of(model)[0].describe().image_size
    said = resize(model, Sizes((2 * height, 2 * width), 24)).notes
    assert said[0].startswith(f"model.image_size: {2 * height} pixels in place of {height}; ")
    image, text = towers_of(model)
    ids = torch.cat([tokens(), torch.zeros(3, 8, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        expected = model.encode_image(images(model), normalize=False)
        assert images(model).shape[-1] == 2 * width
        torch.testing.assert_close(image.encode(images(model)), expected.reshape(2, -1), atol=1e-6, rtol=1e-5)
        assert torch.equal(text.encode(ids), model.encode_text(ids, normalize=False))
    assert image.describe().image_size == (2 * height, 2 * width)
    assert resize(model, Sizes((2 * height, 2 * width), 24)) == Resized((), ())


@pytest.mark.parametrize("family", sorted(FIXED))
def test_a_family_that_cannot_is_refused_by_name(family: str, tmp_path: Path) -> None:
    """P47."""
    model = build(family, tmp_path)
    with pytest.raises(InputError, match=r"model.image_size: cannot be changed for a timm (Swin|VisionT).* tower: "):
        resized(model, (96, 96))


def test_positions_are_resampled_as_open_clip_does_when_it_loads() -> None:
    model = native()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    larger = open_clip.CLIP(24, VIT | {"image_size": 96}, TEXT | {"context_length": 40})
    open_clip.model.resize_pos_embed(before, larger)
    open_clip.model.resize_text_pos_embed(before, larger)
    resized(model, (96, 96), 40)
    assert torch.equal(model.visual.positional_embedding, before["visual.positional_embedding"])
    assert torch.equal(model.positional_embedding, before["positional_embedding"])
    assert torch.equal(model.attn_mask, larger.attn_mask)
    assert "attn_mask" not in model.state_dict()


def test_an_image_may_be_wider_than_high() -> None:
    model = resized(native(), (32, 64))
    image, _ = towers_of(model)
    with torch.no_grad():
        assert torch.equal(image.encode(images(model)), model.encode_image(images(model)))
    assert (image.describe().image_size, image.describe().tokens) == ((32, 64), 2 * 4 + 1)
    again = resized(model, (64, 32))  # the old grid is the model's own, not a square of as many places
    assert again.visual.positional_embedding.shape == (4 * 2 + 1, 32)


def test_fewer_words_keep_the_features_of_short_texts() -> None:
    """Cut, not stretched: in a causal tower what comes after the end of a text has no say."""
    model = native()
    short = tokens()[:, :12]  # the end is at place 9
    with torch.no_grad():
        before = model.encode_text(torch.cat([short, torch.zeros(3, 4, dtype=torch.int64)], dim=1))
        resized(model, context_length=12)
        torch.testing.assert_close(towers_of(model)[1].encode(short), before, atol=1e-5, rtol=0)
    assert model.positional_embedding.shape == (12, 32)


def test_where_a_tower_pools_at_the_end_its_last_position_stays() -> None:
    """SigLIP and CLIPA pool the last place; cut off, its features would be of another place's position."""
    model = build("siglip", Path())
    before = model.text.positional_embedding.clone()
    (said,) = resize(model, Sizes(None, 8)).notes
    assert torch.equal(model.text.positional_embedding, torch.cat([before[:7], before[-1:]]))
    assert said.endswith("and the last are kept, and every text's features change, since this tower sees the padding")


def test_a_class_token_keeps_its_place_at_the_end() -> None:
    model = build("coca", Path())
    last = model.text.positional_embedding[-1].clone()
    resized(model, context_length=24)
    assert model.text.positional_embedding.shape[0] == model.text.num_pos == 25
    assert torch.equal(model.text.positional_embedding[-1], last)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (50, r"50 does not divide into the 16 x 16 pixels of a place in this native ViT; write 48"),
        ((32, 40), r"\[32, 40\] does not divide .*; write \[32, 32\]"),
        (3, r"3 does not divide .*; write 16"),
    ],
)
def test_a_size_that_leaves_a_rest_is_refused(size: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"model.image_size: {message}"):
        resized(native(), (size, size) if isinstance(size, int) else size)


def test_a_resnet_takes_squares_of_whole_places(tmp_path: Path) -> None:
    model = build("modified resnet", tmp_path)
    with pytest.raises(
        InputError, match=r"image_size: \[64, 96\]: cannot be changed for a ModifiedResNet tower: .*squares"
    ):
        resized(model, (64, 96))
    with pytest.raises(InputError, match="write 96"):
        resized(model, (100, 100))


def test_sketch_and_model_agree_and_it_is_said(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "base")
    config = ModelConfig(name=f"local-dir:{folder}", image_size=64, context_length=12)
    meta, clip = build_meta(config), build_clip(config, seed=0)
    shapes = {n: p.shape for n, p in meta.model.named_parameters()}
    assert shapes == {n: p.shape for n, p in clip.model.named_parameters()}
    for notes in (meta.notes, clip.notes):
        assert (
            "model.image_size: 64 pixels in place of 32; its learnt positions are resampled from 2 x 2 to 4 x 4"
            in notes
        )
        assert "model.context_length: 12 tokens in place of 16; the first 12 of its learnt positions are kept" in notes
    assert clip.preprocess_cfg["size"] == (64, 64)
    assert clip.tokenizer(["a dog"]).shape == (1, 12)
    assert clip.model_cfg["vision_cfg"]["image_size"] == 64
    assert clip.model_cfg["text_cfg"]["context_length"] == 12


def test_image_size_in_yaml_is_a_number_or_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for value, read in ((288, 288), ([224, 448], (224, 448))):
        path.write_text(yaml.safe_dump({"model": {"name": "ViT-B-32", "image_size": value}}))
        assert load_config(path, need_data=False).config.model.image_size == read
    path.write_text("model: {name: ViT-B-32, image_size: big}\ndata: {train: {folder: x}}\n")
    with pytest.raises(InputError, match=r"model.image_size: expected"):
        load_config(path, need_data=False)

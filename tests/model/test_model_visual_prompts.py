"""Prompt vectors in image towers: each kind of ViT against blocks run one by one on a sequence built by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import randomise
from tiny_families import build, images
from torch import Tensor, nn

from clipft.config.additions_schema import ImagePromptConfig
from clipft.errors import InputError
from clipft.model.image_prompt import add_image_prompt
from clipft.model.tower import Tower
from clipft.model.towers import towers_of

LENGTH = 3
NATIVE = ("native, class token", "native, mean of patches", "coca", "coca, pools in parallel")
VITS = ("timm vit, class token", "timm vit, registers", "timm vit behind a convolutional stem", "siglip", "vitamin")
EVAS = ("timm eva01", "timm eva02", "timm eva, mixed rope", "pe-core")
ROTARY = EVAS[1:]


def with_vectors(family: str, folder: Path, depth: int) -> tuple[Any, Tower]:
    """A model with random weights everywhere, vectors as large as what stands beside them, and its image tower."""
    model: Any = randomise(build(family, folder), 3)
    image, _ = towers_of(model)
    add_image_prompt(model, image, ImagePromptConfig(length=LENGTH, depth=depth))
    with torch.no_grad():
        for vectors in model.image_prompt.vectors:
            vectors.normal_(generator=torch.Generator().manual_seed(len(vectors)))
    return model, image


def among(x: Tensor, vectors: nn.Parameter, before: int, behind: int) -> Tensor:
    """The vectors of a block behind the first tokens, in place of those that end at `behind`."""
    return torch.cat([x[:, :before], vectors.expand(len(x), -1, -1), x[:, behind:]], dim=1)


def run_by_hand(blocks: Any, x: Tensor, vectors: nn.ParameterList, before: int, **each: Any) -> Tensor:
    """Through the blocks one by one, fresh vectors before each that has some; without them at the end."""
    for number, block in enumerate(blocks):
        if number < len(vectors):
            x = among(x, vectors[number], before, before + LENGTH if number else before)
        x = block(x, **{name: values[number] for name, values in each.items()})
    return torch.cat([x[:, :before], x[:, before + LENGTH :]], dim=1)


@pytest.mark.parametrize("family", NATIVE)
@pytest.mark.parametrize("depth", [1, 3])
def test_native_equals_the_sequence_built_by_hand(family: str, depth: int, tmp_path: Path) -> None:
    model, image = with_vectors(family, tmp_path, depth)
    visual, pixels = model.visual, images(model)
    vectors = model.image_prompt.vectors
    with torch.no_grad():
        x = run_by_hand(visual.transformer.resblocks, visual._embeds(pixels), vectors, before=1)
        pooled = visual._pool(x)[0]
        pooled = pooled[:, 0] if pooled.ndim == 3 else pooled  # CoCa's pool with a query of its own
        torch.testing.assert_close(image.encode(pixels), pooled @ visual.proj, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", VITS)
@pytest.mark.parametrize("depth", [1, 2])
def test_timm_equals_the_sequence_built_by_hand(family: str, depth: int, tmp_path: Path) -> None:
    model, image = with_vectors(family, tmp_path, depth)
    trunk, pixels = model.visual.trunk, images(model)
    with torch.no_grad():
        x = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))
        x = trunk.norm(run_by_hand(trunk.blocks, x, model.image_prompt.vectors, before=trunk.num_prefix_tokens))
        wanted = model.visual.head(trunk.forward_head(x))
        torch.testing.assert_close(image.encode(pixels), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", EVAS)
@pytest.mark.parametrize("depth", [1, 3])
def test_eva_equals_the_sequence_built_by_hand(family: str, depth: int, tmp_path: Path) -> None:
    """By hand the attention is told that so many more tokens in front do not turn."""
    model, image = with_vectors(family, tmp_path, depth)
    trunk, pixels = model.visual.trunk, images(model)
    with torch.no_grad():
        found = image.encode(pixels)
        x, rotary = trunk._pos_embed(trunk.patch_embed(pixels))
        turns = rotary if getattr(trunk, "rope_mixed", False) else [rotary] * len(trunk.blocks)
        for block in trunk.blocks:
            block.attn.num_prefix_tokens += LENGTH
        vectors = model.image_prompt.vectors
        x = run_by_hand(trunk.blocks, trunk.norm_pre(x), vectors, before=trunk.num_prefix_tokens, rope=turns)
        wanted = model.visual.head(trunk.forward_head(trunk.norm(x)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [*NATIVE, *VITS, *EVAS])
def test_every_vector_changes_the_feature_and_the_base_stays(family: str, tmp_path: Path) -> None:
    model: Any = randomise(build(family, tmp_path), 3)
    image, _ = towers_of(model)
    pixels, before = images(model), dict(model.named_parameters())
    with torch.no_grad():
        plain = image.encode(pixels)
    add_image_prompt(model, image, ImagePromptConfig(length=LENGTH, depth=2))
    after = dict(model.named_parameters())
    assert {n: after[n] is p for n, p in before.items()} == dict.fromkeys(before, True)
    assert after.keys() - before.keys() == {"image_prompt.vectors.0", "image_prompt.vectors.1"} == set(image.added)
    assert [new.place for new in image.added.values()] == [0, 1]
    image.encode(pixels).square().sum().backward()
    for vectors in model.image_prompt.vectors:
        assert bool((vectors.grad != 0).any(dim=1).all())
    image.prompt = None
    with torch.no_grad():
        assert torch.equal(image.encode(pixels), plain)


@pytest.mark.parametrize("family", ROTARY)
def test_rotary_positions_of_the_patches_stay(family: str, tmp_path: Path) -> None:
    """The vectors get positions that do not turn, in front of those that the patches had."""
    model, image = with_vectors(family, tmp_path, 1)
    pixels = images(model)
    with torch.no_grad():
        joined = image.embed(pixels)
        bare = image._embed(pixels)
    assert joined.positions is not None
    assert bare.positions is not None
    assert joined.positions.shape[-2] == joined.x.shape[1] - model.visual.trunk.num_prefix_tokens
    assert torch.equal(joined.positions[..., LENGTH:, :], bare.positions)


def test_vectors_start_within_vpt_s_bound(tmp_path: Path) -> None:
    """Sqrt(6 / (3 * 16 * 16 + 32)) for patches of 16 pixels and width 32."""
    model: Any = build("native, class token", tmp_path)
    image, _ = towers_of(model)
    add_image_prompt(model, image, ImagePromptConfig(length=50, depth=3))
    bound = math.sqrt(6 / (3 * 16 * 16 + 32))
    for vectors in model.image_prompt.vectors:
        assert 0.98 * bound < vectors.abs().max() <= bound


@pytest.mark.parametrize(
    "family", ["modified resnet", "timm relpos", "timm relpos, shared", "timm swin", "timm convnext", "timm fastvit"]
)
def test_other_towers_are_refused(family: str, tmp_path: Path) -> None:
    """P54: it is said which backbones work."""
    model = build(family, tmp_path)
    image, _ = towers_of(model)
    with pytest.raises(InputError) as refusal:
        add_image_prompt(model, image, ImagePromptConfig())
    assert str(refusal.value) == (
        f"model.image.prompt: a {image.family} tower has no row of patches that vectors could join; visual prompts "
        "work in open_clip's VisionTransformer and timm's VisionTransformer and Eva. Leave the key out, or tune the "
        "text tower by model.text.prompt"
    )


def test_more_blocks_than_there_are_is_refused(tmp_path: Path) -> None:
    model = build("native, class token", tmp_path)
    image, _ = towers_of(model)
    with pytest.raises(InputError, match="depth: 4 is more than the 3 blocks of this native ViT tower"):
        add_image_prompt(model, image, ImagePromptConfig(depth=4))

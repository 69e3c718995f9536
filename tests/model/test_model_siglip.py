"""SigLIP models get their loss, bias, tokenizer, padding and prompt casing."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import tiny_timm  # noqa: F401  # registers its models
import torch
from tiny_families import SIGLIP_TEXT, siglip
from tiny_files import MEAN, STD, write_open_clip, write_word_tokenizer

from clipft.config.loss_schema import LossConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.build import build
from clipft.train.loss_section import resolve_loss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny SigLIP that names its own tokenizer and cleaning, as open_clip's SigLIP configs do."""
    words = write_word_tokenizer(tmp_path, pad=1)
    text = SIGLIP_TEXT | {
        "vocab_size": words,
        "hf_tokenizer_name": str(tmp_path),
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    write_open_clip(tmp_path, siglip(text), preprocess)
    return tmp_path


def test_words_are_cleaned_and_padded_as_open_clip_does(folder: Path) -> None:
    """P48: canonicalize takes case and marks off, and padding reaches the full length, where the text is pooled."""
    clip = build(ModelConfig(name=f"local-dir:{folder}"), seed=0)
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = ["A photo of a red CAT.", "two hands, left & right!", "dog"]
    found = clip.tokenizer(texts)
    assert torch.equal(found, theirs(texts))
    assert torch.equal(clip.tokenizer(["a PHOTO, of a cat!"]), clip.tokenizer(["a photo of a cat"]))
    assert found.shape == (3, 16)
    assert (found[2, 3:] == 1).all()
    assert clip.tokenizer.count("A photo of a red CAT.") == 8  # with both ends, without the full stop


def test_every_siglip_names_its_cleaning() -> None:
    """P48: what open_clip's configs ask for reaches the tokenizer through text_cfg alone; none is without it."""
    cleaned = [
        open_clip.get_model_config(name)["text_cfg"]["tokenizer_kwargs"]
        for name in open_clip.list_models()
        if "SigLIP" in name
    ]
    assert len(cleaned) == 26
    assert all(settings == {"clean": "canonicalize"} for settings in cleaned)


def test_the_sigmoid_loss_and_its_bias_come_with_the_model(folder: Path) -> None:
    """P23."""
    clip = build(ModelConfig(name=f"local-dir:{folder}"), seed=0)
    assert clip.model.logit_bias.item() == -10
    assert resolve_loss(LossConfig(), has_bias=clip.model.logit_bias is not None) == "siglip"


def test_a_tokenizer_of_more_words_than_the_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """P48."""
    config = siglip(SIGLIP_TEXT | {"vocab_size": 6, "hf_tokenizer_name": str(folder)})
    write_open_clip(tmp_path / "small", config, {})
    with pytest.raises(InputError, match=r"gives token \d+ for a known text, but the model's config has vocab_size 6"):
        build(ModelConfig(name=f"local-dir:{tmp_path / 'small'}"), seed=0)

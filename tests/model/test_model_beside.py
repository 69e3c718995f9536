"""P42, P43, P44: files of transformers as the weights of an open_clip model, and what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hf_models import (
    clip_cfg,
    features_of,
    hf_clip,
    hf_siglip,
    inputs,
    open_clip_model,
    save_hf,
    siglip_cfg,
    write_siglip_tokenizer,
)
from safetensors.torch import save_file
from tiny_files import write_open_clip

from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.beside import read_beside
from clipft.model.build import build
from clipft.model.clip_model import ClipModel
from clipft.model.recipe import recipe_of


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A CLIPModel as transformers saves it, with a preprocessing of its own."""
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2}
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return save_hf(tmp_path / "snapshot", hf_clip(), **settings, **crop)


def load(tmp_path: Path, weights: Path, activation: str = "quick_gelu", **changes: Any) -> ClipModel:
    """The architecture of `clip_cfg` under those weights."""
    write_open_clip(tmp_path / "arch", clip_cfg(activation) | changes, {"size": 32})
    return build(ModelConfig(name=f"local-dir:{tmp_path / 'arch'}", pretrained=str(weights)), seed=0)


@pytest.mark.parametrize("place", ["", "model.safetensors", "pytorch_model.bin"])
def test_weights_of_transformers_are_the_same_model_here(tmp_path: Path, snapshot: Path, place: str) -> None:
    """P44: by the folder or by the file, with one note on it."""
    if place.endswith(".bin"):
        torch.save(hf_clip().state_dict(), snapshot / place)
    clip = load(tmp_path, snapshot / place)
    pictures, tokens = inputs(49408)
    theirs = features_of(hf_clip(), pictures, tokens)
    for a, b in zip(features_of(clip.model, pictures, tokens), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    file = snapshot / (place or "model.safetensors")
    assert [note for note in clip.notes if "Hugging Face" in note] == [
        f"{file}: a Hugging Face CLIP file, put into open_clip's names"
    ]


def test_siglip_weights_of_transformers_are_the_same_model_here(tmp_path: Path) -> None:
    """P44, P43: with SigLIP's preprocessing, whatever the architecture's config says."""
    snapshot = save_hf(tmp_path / "snapshot", hf_siglip(), size={"height": 32, "width": 32})
    cfg = siglip_cfg()
    cfg["text_cfg"]["hf_tokenizer_name"] = str(write_siglip_tokenizer(tmp_path / "arch"))
    write_open_clip(tmp_path / "arch", cfg, {"size": 32})
    clip = build(ModelConfig(name=f"local-dir:{tmp_path / 'arch'}", pretrained=str(snapshot)), seed=0)
    pictures, tokens = inputs(200)
    theirs = features_of(hf_siglip(), pictures, tokens)
    for a, b in zip(features_of(clip.model, pictures, tokens), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert clip.model.logit_bias.shape == ()
    assert (clip.preprocess_cfg["mean"], clip.preprocess_cfg["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    assert f"{snapshot / 'model.safetensors'}: a Hugging Face SigLIP file, put into open_clip's names" in clip.notes


def test_the_preprocessing_beside_the_weights_is_used(tmp_path: Path, snapshot: Path) -> None:
    """P43: mean, std, interpolation and resize mode are the weights' own."""
    clip = load(tmp_path, snapshot)
    preprocess = {
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }
    assert {key: clip.preprocess_cfg[key] for key in preprocess} == preprocess
    assert clip.notes[-1].startswith(f"preprocessing of {snapshot}/preprocessor_config.json: 32 x 32 pixels, bilinear")


def test_position_numbers_of_old_files_do_no_harm(tmp_path: Path) -> None:
    tensors = {**hf_clip().state_dict(), "text_model.embeddings.position_ids": torch.arange(16)[None]}
    save_file(tensors, tmp_path / "old.safetensors")
    assert any(
        "left aside text_model.embeddings.position_ids" in note
        for note in load(tmp_path, tmp_path / "old.safetensors").notes
    )


@pytest.mark.parametrize(("theirs", "ours"), [("quick_gelu", "gelu"), ("gelu", "quick_gelu")])
def test_weights_of_another_activation_are_refused(tmp_path: Path, theirs: str, ours: str) -> None:
    """P42: the config.json beside the weights says what they were trained with."""
    save_hf(tmp_path / "snapshot", hf_clip(theirs))
    with pytest.raises(
        InputError, match=r"computes with (Quick)?GELU, but the weights .* were trained with (Quick)?GELU"
    ):
        load(tmp_path, tmp_path / "snapshot", ours)


def beside(folder: Path, arch: str, **files: Any) -> Any:
    """What `read_beside` makes of JSON files under an architecture that is never filled."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    cfg = open_clip.get_model_config(arch)
    with torch.device("meta"):
        custom = cfg.pop("custom_text", False)
        model = open_clip.CustomTextCLIP(**cfg) if custom else open_clip.CLIP(**cfg)
    return read_beside(folder / "model.safetensors", recipe_of(ModelConfig(name=arch)), model)


def test_the_right_architecture_is_named_for_the_other_activation(tmp_path: Path) -> None:
    """P42: what an older config.json leaves out is transformers' default, QuickGELU."""
    with pytest.raises(InputError, match=r"trained with QuickGELU, .* write model\.name: ViT-B-32-quickgelu"):
        beside(tmp_path, "ViT-B-32", config={"model_type": "clip", "text_config": {"hidden_size": 512}})
    gelu = {"vision_config": {"hidden_act": "gelu"}, "text_config_dict": {"hidden_act": "gelu"}}
    with pytest.raises(InputError, match=r"trained with GELU, .* write model\.name: ViT-B-32$"):
        beside(tmp_path, "ViT-B-32-quickgelu", config={"model_type": "clip", **gelu})
    assert beside(tmp_path, "ViT-B-32", config={"model_type": "clip", **gelu}).notes == ()


def test_an_activation_that_no_architecture_would_mend_is_refused(tmp_path: Path) -> None:
    """P42: timm's towers have their own, whatever quick_gelu says."""
    save_hf(tmp_path / "snapshot", hf_siglip("quick_gelu"))
    config = json.loads((tmp_path / "snapshot" / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "quick_gelu"
    (tmp_path / "snapshot" / "config.json").write_text(json.dumps(config))
    write_open_clip(tmp_path / "arch", siglip_cfg() | {"quick_gelu": True}, {"size": 32})
    with pytest.raises(
        InputError, match=r"its image blocks compute with quick_gelu, and .* with gelu_pytorch_tanh; name"
    ):
        build(ModelConfig(name=f"local-dir:{tmp_path / 'arch'}", pretrained=str(tmp_path / "snapshot")), seed=0)


def test_another_number_of_heads_is_refused(tmp_path: Path) -> None:
    """P44: the shapes are the same, the features are not."""
    config = {"model_type": "clip", "vision_config": {"num_attention_heads": 16}}
    with pytest.raises(
        InputError, match=r"config\.json: its image blocks have 16 attention heads, and ViT-B-32-quickgelu has 12"
    ):
        beside(tmp_path, "ViT-B-32-quickgelu", config=config)


def test_the_approximation_of_gelu_is_said(tmp_path: Path) -> None:
    """P42: open_clip computes SigLIP's first generation with the exact GELU, transformers with the approximation."""
    notes = beside(tmp_path, "ViT-B-16-SigLIP2", config={"model_type": "siglip"}).notes
    assert len(notes) == 1
    assert "its image blocks have hidden_act gelu_pytorch_tanh in transformers, and hidden_act gelu in" in notes[0]


def test_a_config_of_another_kind_says_nothing(tmp_path: Path) -> None:
    assert beside(tmp_path, "ViT-B-32", config={"model_type": "bert"}, preprocessor_config={"resample": 1}).notes == ()


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("values", "mean", "mode"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, CLIP_MEAN, ("bicubic", "shortest")),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224},
            CLIP_MEAN,
            ("bicubic", "shortest"),
        ),
        ({"image_processor_type": "SiglipImageProcessor"}, (0.5,) * 3, ("bicubic", "squash")),
        (
            {"image_mean": [0.1] * 3, "size": {"height": 32, "width": 32}, "resample": 2},
            (0.1,) * 3,
            ("bilinear", "squash"),
        ),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_an_image_processor_is_read_as_transformers_reads_it(
    tmp_path: Path, values: dict[str, Any], mean: tuple[float, ...], mode: tuple[str, str], nested: bool
) -> None:
    """P43: what it leaves out is the default of its kind."""
    files = {"processor_config": {"image_processor": values}} if nested else {"preprocessor_config": values}
    cfg, whose = beside(tmp_path, "ViT-B-32", **files).preprocess
    assert (tuple(cfg["mean"]), (cfg["interpolation"], cfg["resize_mode"])) == (mean, mode)
    assert whose.endswith(f"{next(iter(files))}.json")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"resample": 1}, "resample 1, and open_clip has 2"),
        ({"do_normalize": False}, "do_normalize false"),
        ({"size": {"longest_edge": 224}}, "size {'longest_edge': 224}"),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, "with crop_size"),
    ],
)
def test_a_preprocessing_that_open_clip_does_not_have_is_refused(
    tmp_path: Path, values: dict[str, Any], fault: str
) -> None:
    """P43: no silent other preprocessing."""
    with pytest.raises(InputError, match=r"preprocessor_config\.json: has ") as caught:
        beside(tmp_path, "ViT-B-32", preprocessor_config=values)
    assert fault in str(caught.value)


def test_a_pair_is_height_and_width_as_in_transformers(tmp_path: Path) -> None:
    """P43."""
    cfg, _ = beside(tmp_path, "ViT-B-32", preprocessor_config={"size": [32, 32], "crop_size": [32, 32]}).preprocess
    assert cfg["resize_mode"] == "squash"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("preprocessor_config", {"size": [32]}, r"size is \[32\]; expected pixels, \[height, width\]"),
        ("preprocessor_config", {"size": "32"}, 'size is "32"; expected pixels'),
        ("preprocessor_config", {"crop_size": {"height": None}}, r'crop_size is \{"height": null\}; expected pixels'),
        ("preprocessor_config", {"image_mean": 0.5}, "image_mean is 0.5; expected a list of three numbers"),
        ("preprocessor_config", {"image_std": [0.5, "x", 1]}, "image_std is .*; expected a list of three numbers"),
        ("preprocessor_config", {"resample": [3]}, r"resample is \[3\]; expected a whole number"),
        ("processor_config", {"image_processor": "x"}, 'image_processor is "x"; expected an object'),
        ("config", {"model_type": "clip", "vision_config": "x"}, 'vision_config is "x"; expected an object'),
        ("config", {"model_type": "clip", "text_config_dict": [1]}, r"text_config_dict is \[1\]; expected an object"),
    ],
)
def test_a_value_of_another_kind_is_a_sentence(tmp_path: Path, name: str, content: dict[str, Any], said: str) -> None:
    # the name has QuickGELU, transformers' default, so that nothing else is said before
    with pytest.raises(InputError, match=rf"{name}\.json: {said}"):
        beside(tmp_path, "ViT-B-32-quickgelu", **{name: content})


def test_a_model_type_that_is_no_word_says_nothing(tmp_path: Path) -> None:
    assert beside(tmp_path, "ViT-B-32", config={"model_type": ["clip"]}).notes == ()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json: (cannot be read|expected a JSON object)"):
        beside(tmp_path, "ViT-B-32")


def test_openais_own_state_dict_is_quickgelu(tmp_path: Path) -> None:
    """P42: their files say so by three settings that are kept as tensors."""
    marks = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(16),
        "vocab_size": torch.tensor(49408),
    }
    tensors = open_clip_model(clip_cfg()).state_dict()
    save_file({**tensors, **marks}, tmp_path / "openai.safetensors")
    with pytest.raises(InputError, match=r"computes with GELU, but the weights .* were trained with QuickGELU"):
        load(tmp_path, tmp_path / "openai.safetensors", "gelu")
    clip = load(tmp_path, tmp_path / "openai.safetensors", "quick_gelu")
    assert torch.equal(clip.model.visual.proj, tensors["visual.proj"])


def test_a_file_of_other_sizes_is_named_by_its_own_layout(tmp_path: Path) -> None:
    """P44."""
    save_file(hf_clip(image_size=64).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(InputError) as caught:
        load(tmp_path, tmp_path / "other.safetensors")
    assert "1 of another shape (visual.positional_embedding is 65 x 48, not 17 x 48)" in str(caught.value)
    assert "by its keys it is a Hugging Face CLIP file; name the architecture it was saved from" in str(caught.value)


def test_weights_in_several_files_are_a_sentence(tmp_path: Path) -> None:
    hf_clip().save_pretrained(tmp_path / "split", max_shard_size="1MB")
    with pytest.raises(
        InputError, match=r"its weights are split \(model\.safetensors\.index\.json\); write them as one"
    ):
        load(tmp_path, tmp_path / "split")


def test_a_folder_of_transformers_is_no_local_dir(snapshot: Path) -> None:
    with pytest.raises(
        InputError, match=r"has no open_clip_config\.json; of a folder that transformers wrote, write nam"
    ):
        build(ModelConfig(name=f"local-dir:{snapshot}"), seed=0)


def test_a_folder_with_a_lone_file_names_it(tmp_path: Path) -> None:
    """P44: `clipft export --to pt` writes such a folder."""
    (tmp_path / "bare").mkdir()
    torch.save(open_clip_model(clip_cfg()).state_dict(), tmp_path / "bare" / "open_clip_model.pt")
    with pytest.raises(
        InputError, match=r"no run or checkpoint of clipft; to take .* name the file: \S+open_clip_model\.pt"
    ):
        load(tmp_path, tmp_path / "bare")


def test_a_part_of_a_model_is_told_from_another_model(tmp_path: Path) -> None:
    """P44: a checkpoint's model.safetensors, copied out of its run, holds what that run trained."""
    part = {"visual.proj": torch.zeros(48, 24), "classifier.weight": torch.zeros(2, 24)}
    save_file(part, tmp_path / "part.safetensors")
    with pytest.raises(
        InputError, match=r"is a part of such a model, as .* of a clipft checkpoint is; .* name the run"
    ):
        load(tmp_path, tmp_path / "part.safetensors")

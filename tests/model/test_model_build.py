from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from tiny_files import (
    MEAN,
    STD,
    native_cfg,
    pictures,
    write_cache,
    write_native,
    write_open_clip,
    write_text_encoder,
)

from clipft.config.schema import ModelConfig
from clipft.errors import ClipftError, InputError
from clipft.model.activation import check_tag
from clipft.model.build import build, build_meta
from clipft.model.clip_model import ClipModel
from clipft.model.sources import tag_cfg

TEXTS = ["a photo of a cat.", "", "  A  Photo &amp; naïve CAFÉ: 100 %  ", "dog, " * 200]


def model(**keys: Any) -> ModelConfig:
    return ModelConfig.model_validate(keys)


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and a Hugging Face cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture of open_clip's own, with two tags; one was trained with QuickGELU."""
    for name, quick in (("tiny", False), ("tiny-quickgelu", True)):
        monkeypatch.setitem(
            open_clip.factory._MODEL_CONFIGS, name, native_cfg(**({"quick_gelu": True} if quick else {}))
        )
    slow = open_clip.pretrained._pcfg(hf_hub="org/tiny/", mean=tuple(MEAN), std=tuple(STD), interpolation="bilinear")
    quick_tag = open_clip.pretrained._pcfg(hf_hub="org/tiny-quick/w.bin", quick_gelu=True)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"slow_b1": slow, "quick_b1": quick_tag})
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-quickgelu", {"quick_b1": quick_tag})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_native(tmp_path / "native")
    return (tmp_path / "native" / "open_clip_model.safetensors").rename(tmp_path / "w.safetensors")


# --- random and named ----------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_random_weights_depend_on_the_seed_alone_and_are_loud() -> None:
    """P70: a model without pretrained weights is said to be one."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build(model(name="tiny"), seed=1)
    assert torch.equal(torch.rand(3), expected)  # the caller's own random numbers go on undisturbed
    assert same(first.model, build(model(name="tiny"), seed=1).model)
    assert not same(first.model, build(model(name="tiny"), seed=2).model)
    assert first.base == "random weights"
    assert first.random
    loud = "RANDOM WEIGHTS: model.pretrained is null, so nothing is pretrained and the model knows nothing yet"
    assert first.notes[0] == loud
    assert build_meta(model(name="tiny")).notes == (loud,)


@pytest.mark.usefixtures("tiny")
def test_a_lone_file_says_nothing_of_its_activation_and_that_is_said(weights: Path) -> None:
    """P42: by path nothing tells QuickGELU from GELU, so both are named."""
    said = build(model(name="tiny", pretrained=str(weights)), seed=0).notes[0]
    assert said.startswith(
        f"{weights}: nothing beside it says with which activation it was trained; tiny computes with"
    )
    assert said.endswith("want QuickGELU: if this is not what yours want, write name: tiny-quickgelu")


@pytest.mark.usefixtures("tiny")
def test_building_leaves_logging_and_the_console_alone(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    build(model(name="tiny"), seed=0)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers


def test_a_sketch_is_on_the_meta_device_and_reads_no_weights() -> None:
    meta = build_meta(model(name="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    assert {parameter.device.type for parameter in meta.model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in meta.model.parameters()) == 151_277_313
    assert (meta.name, meta.base) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert (meta.image.name, meta.text.name) == ("image", "text")


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"model.name: open_clip has no architecture ViT-B32; did you mean ViT-B-32"):
        build_meta(model(name="ViT-B32"))
    with pytest.raises(InputError, match=r"architecture qqq; all there are: clipft models"):
        build_meta(model(name="qqq"))
    assert build_meta(model(name="ViT-B/32")).name == "ViT-B-32"  # as open_clip takes it


@pytest.mark.usefixtures("tiny")
def test_the_starting_scale_is_given_as_its_exponential() -> None:
    clip = build(model(name="tiny", logit_scale={"init": 50.0}), seed=0)
    assert clip.model.logit_scale.item() == pytest.approx(math.log(50))


# --- tags ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_a_tag_loads_its_weights_and_its_preprocessing_as_open_clip_does(offline: Path, weights: Path) -> None:
    """P43: preprocessing belongs to the tag, and is printed."""
    write_cache(offline, "org/tiny", {"open_clip_model.safetensors": weights})
    clip = build(model(name="tiny", pretrained="slow-B1"), seed=0)
    theirs, _, preprocess = open_clip.create_model_and_transforms("tiny", pretrained="slow_b1")
    assert same(clip.model, theirs)
    assert clip.preprocess_cfg == theirs.visual.preprocess_cfg
    assert all(torch.equal(clip.preprocess(image), preprocess(image)) for image in pictures())
    assert (clip.base, clip.random) == ("slow-B1", False)
    said = "preprocessing of slow-B1: 32 x 32 pixels, bilinear, shortest, mean 0.500 0.400 0.300, std 0.200 0.300 0.400"
    assert clip.notes == (said,)


@pytest.mark.usefixtures("tiny")
def test_a_tag_may_name_its_file(offline: Path, weights: Path) -> None:
    write_cache(offline, "org/tiny-quick", {"w.safetensors": weights})
    assert build(model(name="tiny-quickgelu", pretrained="quick_b1"), seed=0).base == "quick_b1"


@pytest.mark.usefixtures("tiny")
def test_without_a_network_the_error_says_what_was_tried_and_what_to_do() -> None:
    with pytest.raises(ClipftError) as caught:
        build(model(name="tiny", pretrained="slow_b1"), seed=0)
    said = str(caught.value)
    assert said.startswith(
        "model.pretrained: slow_b1: tried open_clip_model.safetensors and open_clip_pytorch_model.bin of "
    )
    assert "org/tiny: not in the cache (" in said
    assert said.endswith("use a local file: model.pretrained: path/to/open_clip_model.safetensors")
    assert caught.value.exit_code == 1


@pytest.mark.usefixtures("tiny")
def test_an_unknown_tag_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(
        InputError, match=r"slow_b2 is neither .* a tag of tiny; did you mean slow_b1\? Its tags are slow_b1, q"
    ):
        build_meta(model(name="tiny", pretrained="slow_b2"))


def test_a_word_that_is_no_tag_is_a_sentence_where_there_are_no_tags(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"openay is neither .* nor a tag; tags are for models that are named by"):
        build_meta(model(name=f"local-dir:{write_native(tmp_path / 'm')}", pretrained="openay"))
    with pytest.raises(InputError, match=r"nor a tag of ViT-S-32, which has none; use a local file"):
        build_meta(model(name="ViT-S-32", pretrained="openai"))


@pytest.mark.usefixtures("tiny")
def test_weights_of_another_activation_are_refused_with_the_right_name() -> None:
    with pytest.raises(InputError, match=r"tiny computes with GELU, .* QuickGELU, .* write model.name: tiny-quickgelu"):
        build_meta(model(name="tiny", pretrained="quick_b1"))
    with pytest.raises(InputError, match=r"slow_b1 was trained without QuickGELU; write name: tiny"):
        build_meta(model(name="tiny-quickgelu", pretrained="slow_b1"))
    with pytest.raises(InputError, match=r"write model.name: ViT-B-32-quickgelu"):
        build_meta(model(name="ViT-B-32", pretrained="openai"))


# --- local files ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_a_local_file_has_openais_preprocessing_unless_its_own_stands_beside_it(weights: Path) -> None:
    """P43: the mean and std in use are said, and a config beside the file is not overlooked."""
    config = model(name="tiny", pretrained=str(weights))
    clip = build(config, seed=0)
    theirs, _, preprocess = open_clip.create_model_and_transforms("tiny", pretrained=str(weights))
    assert same(clip.model, theirs)
    assert all(torch.equal(clip.preprocess(image), preprocess(image)) for image in pictures())
    assert clip.notes[-1].startswith(
        "preprocessing OpenAI's: 32 x 32 pixels, bicubic, shortest, mean 0.481 0.458 0.408, "
    )
    assert clip.base == str(weights)

    write_open_clip(weights.parent, native_cfg(), {"mean": MEAN, "std": STD})
    clip = build(config, seed=0)
    assert (clip.preprocess_cfg["mean"], clip.preprocess_cfg["std"]) == (MEAN, STD)
    assert clip.notes[-1].startswith(f"preprocessing of {weights.parent}/open_clip_config.json: ")

    write_open_clip(weights.parent, native_cfg(quick_gelu=True), {})
    with pytest.raises(InputError, match=r"write model.name: tiny-quickgelu"):
        build(config, seed=0)


@pytest.mark.usefixtures("tiny")
def test_notes_on_the_file_reach_the_user(tmp_path: Path, weights: Path) -> None:
    """P40."""
    from safetensors.torch import load_file

    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in load_file(weights).items()}}, tmp_path / "e.pt")
    clip = build(model(name="tiny", pretrained=str(tmp_path / "e.pt")), seed=0)
    assert "took the weights under 'state_dict' and left aside epoch" in clip.notes[0]
    assert "took module. off the names of" in clip.notes[1]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("pretrained", "reason"),
    [
        ("no/such.safetensors", "no/such.safetensors: there is no such weights file"),
        ("runs/none", "runs/none is not there; expected a run such as runs/NAME, or a weights file"),
        ("photos", "photos is no run or checkpoint of clipft"),
    ],
)
def test_a_path_that_is_not_there_is_a_sentence(
    pretrained: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=reason):
        build(model(name="tiny", pretrained=pretrained), seed=0)


# --- local-dir -----------------------------------------------------------------------------------


def test_a_native_folder_equals_open_clip_pixel_for_pixel_and_token_for_token(tmp_path: Path) -> None:
    """P43, P48: preprocessing and tokenizer are open_clip's."""
    folder = write_native(tmp_path / "m")
    clip = build(model(name=f"local-dir:{folder}"), seed=0)
    assert_equals_open_clip(clip, folder)
    assert clip.base == f"local-dir:{folder}"


def test_a_folder_of_two_encoders_equals_open_clip_pixel_for_pixel_and_token_for_token(tmp_path: Path) -> None:
    """P43, P48."""
    folder = write_two_encoders(tmp_path / "m")
    clip = build(model(name=f"local-dir:{folder}"), seed=0)
    assert_equals_open_clip(clip, folder)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_each_way_to_resize_equals_open_clip(tmp_path: Path, resize_mode: str, interpolation: str) -> None:
    """P43."""
    folder = write_native(tmp_path / "m")
    write_open_clip(
        folder, native_cfg(), {"mean": MEAN, "std": STD, "resize_mode": resize_mode, "interpolation": interpolation}
    )
    assert_equals_open_clip(build(model(name=f"local-dir:{folder}"), seed=0), folder)


def assert_equals_open_clip(clip: ClipModel, folder: Path) -> None:
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert same(clip.model, theirs)
    assert clip.preprocess_cfg == theirs.visual.preprocess_cfg == clip.model.visual.preprocess_cfg
    assert all(torch.equal(clip.preprocess(image), preprocess(image)) for image in pictures())
    assert torch.equal(clip.tokenizer(TEXTS), tokenizer(TEXTS))
    assert not clip.model.training


def write_two_encoders(folder: Path, *, text: str = ".", **settings: Any) -> Path:
    """A local-dir: of a timm and a Hugging Face tower; the latter's files lie in `text` below it."""
    write_text_encoder(folder / text, weights=False, **settings)
    name = str((folder / text).resolve())
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    text_cfg = {"context_length": 12, "vocab_size": 33, "hf_tokenizer_name": name, "hf_model_name": name}
    text_cfg |= {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    cfg = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text_cfg, "custom_text": True}
    write_open_clip(folder, cfg, {"mean": MEAN, "std": STD})
    clip = build(model(name=f"local-dir:{folder}"), seed=4)
    save_file(
        {key: tensor.contiguous() for key, tensor in clip.model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@pytest.mark.parametrize("text", [".", "text"])
def test_a_moved_folder_still_loads_and_says_where_from(tmp_path: Path, text: str) -> None:
    """P45: an export whose written paths no longer hold is looked for beside its config."""
    before = build(model(name=f"local-dir:{write_two_encoders(tmp_path / 'old', text=text)}"), seed=0)
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    shutil.copytree(old, new)
    shutil.rmtree(old)
    clip = build(model(name=f"local-dir:{new}"), seed=0)
    assert same(clip.model, before.model)
    assert torch.equal(clip.tokenizer(TEXTS), before.tokenizer(TEXTS))
    place = (new / text).resolve()
    written = (old / text).resolve()
    said = f"{new}: the text encoder's config.json is taken from {place}, not from {written} as written there"
    assert clip.notes[0] == said
    assert clip.model_cfg["text_cfg"]["hf_model_name"] == clip.model_cfg["text_cfg"]["hf_tokenizer_name"] == str(place)


def test_names_that_lead_nowhere_are_a_sentence(tmp_path: Path) -> None:
    folder = write_two_encoders(tmp_path / "m")
    (folder / "config.json").unlink()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "/no/such/folder"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="hf_model_name /no/such/folder: /no/such/folder is not there"):
        build(model(name=f"local-dir:{folder}"), seed=0)


def test_a_folder_without_weights_is_random_and_loud(tmp_path: Path) -> None:
    """P70."""
    folder = write_native(tmp_path / "m", weights=False)
    clip = build(model(name=f"local-dir:{folder}"), seed=0)
    assert clip.random
    assert clip.notes[0].startswith(f"RANDOM WEIGHTS: model.name: local-dir:{folder} has no weights file")


def test_other_weights_may_go_into_a_folders_architecture(tmp_path: Path) -> None:
    folder, other = write_native(tmp_path / "m"), write_native(tmp_path / "other", seed=9)
    for pretrained in (other / "open_clip_model.safetensors", other):
        clip = build(model(name=f"local-dir:{folder}", pretrained=str(pretrained)), seed=0)
        assert same(clip.model, build(model(name=f"local-dir:{other}"), seed=0).model)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no open_clip_config.json"),
        ("{", "cannot be read"),
        ("[]", "has no model_cfg with"),
        ('{"model_cfg": {"embed_dim": 3}}', "has no model_cfg with embed_dim, vision_cfg, text_cfg"),
        (
            '{"model_cfg": {"embed_dim": 3, "vision_cfg": {"depth": 3}, "text_cfg": {}}}',
            "cannot build its config: .*depth",
        ),
    ],
)
def test_a_folder_with_a_bad_config_is_a_sentence(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        build_meta(model(name=f"local-dir:{tmp_path}"))


def test_several_weights_files_of_no_known_name_are_a_sentence(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "m")
    shutil.copy(folder / "open_clip_model.safetensors", folder / "a.safetensors")
    (folder / "open_clip_model.safetensors").rename(folder / "b.safetensors")
    with pytest.raises(InputError, match=r"holds 2 weights files \(a.safetensors, b.safetensors\)"):
        build(model(name=f"local-dir:{folder}"), seed=0)
    (folder / "a.safetensors").unlink()
    assert not build(model(name=f"local-dir:{folder}"), seed=0).random


# --- hf-hub --------------------------------------------------------------------------------------


def test_a_hub_model_is_taken_from_the_cache(offline: Path, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "m")
    names = ("open_clip_config.json", "open_clip_model.safetensors")
    write_cache(offline, "org/whole", {name: folder / name for name in names})
    clip = build(model(name="hf-hub:org/whole"), seed=0)
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert same(clip.model, theirs)
    assert all(torch.equal(clip.preprocess(image), preprocess(image)) for image in pictures())
    assert clip.base == "hf-hub:org/whole"


def test_a_hub_model_without_network_says_how_to_use_a_local_copy() -> None:
    with pytest.raises(
        ClipftError, match=r"tried open_clip_config.json of a/b: not in the cache .* name: local-dir:PATH"
    ):
        build_meta(model(name="hf-hub:a/b"))
    with pytest.raises(InputError, match="a/b/c is neither a folder here nor ORG/NAME on the hub"):
        build_meta(model(name="hf-hub:a/b/c"))


# --- context length and tokenizers ---------------------------------------------------------------


def test_a_hugging_face_text_tower_takes_another_context(tmp_path: Path) -> None:
    folder = write_two_encoders(tmp_path / "m")
    clip = build(model(name=f"local-dir:{folder}", context_length=20), seed=0)
    assert clip.tokenizer(["a cat"]).shape == (1, 20)
    assert clip.model_cfg["text_cfg"]["context_length"] == clip.tokenizer.context_length == 20
    with pytest.raises(InputError, match=r"model.context_length: 81 is more than the 80 tokens"):
        build_meta(model(name=f"local-dir:{folder}", context_length=81))


def test_cutting_keeps_the_end_token_and_counting_tells_what_was_cut(tmp_path: Path) -> None:
    """P6: a caption beyond the context still ends in the token that the tower pools by, and the cut is countable."""
    native = build(model(name=f"local-dir:{write_native(tmp_path / 'n')}"), seed=0).tokenizer
    bert = build(model(name=f"local-dir:{write_two_encoders(tmp_path / 'b')}"), seed=0).tokenizer
    for tokenizer, end in ((native, 49407), (bert, 3)):
        short, long = tokenizer(["cat", "cat " * 50])
        assert long[-1] == end
        assert (short == end).sum() == (long == end).sum() == 1
        assert tokenizer.count("cat") == 3
        assert tokenizer.count("cat " * 50) == 52
        assert tokenizer.count("") == 2


def test_a_tokenizer_that_is_not_the_encoders_is_refused(tmp_path: Path) -> None:
    """P48: another padding token or more words than the encoder has."""
    for setting in ({"pad_token_id": 1}, {"vocab_size": 20}):
        folder = write_two_encoders(tmp_path / "m")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **setting}))
        (folder / "open_clip_model.safetensors").unlink()
        with pytest.raises(InputError, match="take tokenizer and encoder from one source"):
            build(model(name=f"local-dir:{folder}"), seed=0)


def test_tokenizers_are_told_apart_by_what_they_make_of_a_known_text(tmp_path: Path) -> None:
    """P48."""
    native = build(model(name=f"local-dir:{write_native(tmp_path / 'n')}"), seed=0).tokenizer
    again = build(model(name=f"local-dir:{tmp_path / 'n'}"), seed=0).tokenizer
    bert = build(model(name=f"local-dir:{write_two_encoders(tmp_path / 'b')}"), seed=0).tokenizer
    assert native.identity() == again.identity() != bert.identity()


def test_a_half_precision_text_config_gives_a_float32_tower(tmp_path: Path) -> None:
    folder = write_two_encoders(tmp_path / "m", dtype="float16")
    clip = build(model(name=f"local-dir:{folder}"), seed=0)
    assert {tensor.dtype for tensor in clip.model.parameters()} == {torch.float32}


def test_an_architecture_without_a_twin_takes_its_tag() -> None:
    """P42: roberta-ViT-B-32 computes with QuickGELU, and open_clip's list of tags forgets to say so."""
    tag = tag_cfg("laion2b_s12b_b32k", "roberta-ViT-B-32")
    assert not tag.get("quick_gelu")
    check_tag("roberta-ViT-B-32", "laion2b_s12b_b32k", tag)
    with pytest.raises(InputError, match=r"write model\.name: ViT-B-32-quickgelu"):
        check_tag("ViT-B-32", "openai", tag_cfg("openai", "ViT-B-32"))


@pytest.mark.usefixtures("tiny")
def test_a_scale_that_looks_like_a_logarithm_is_pointed_out() -> None:
    """P24: 4.6 is ln 100, and 4.6 times a cosine says almost nothing."""
    said = build(model(name="tiny", logit_scale={"init": 4.6}), seed=0).notes
    assert any("if its logarithm was meant, write 99.48" in note for note in said)
    assert not any("logarithm" in note for note in build(model(name="tiny", logit_scale={"init": 30.0}), seed=0).notes)

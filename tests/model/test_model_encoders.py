from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_files import pictures, write_cache, write_open_clip, write_text_encoder, write_word_tokenizer

from clipft.config.schema import ModelConfig
from clipft.errors import ClipftError, InputError
from clipft.model.build import build, build_meta


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and a Hugging Face cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_encoder(tmp_path_factory.mktemp("bert"))


def encoders(vision: str, language: Path | str, **keys: Any) -> ModelConfig:
    image_keys, text_keys = keys.pop("image", {}), keys.pop("text", {})
    return ModelConfig.model_validate(
        {
            "image": {"encoder": f"timm:{vision}", **image_keys},
            "text": {"encoder": f"hf:{language}", **text_keys},
            **keys,
        }
    )


RANDOM = {"random": True}


@pytest.mark.parametrize("image", ["test_vit", "test_vit2", "test_efficientnet"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler", None])
def test_two_encoders_are_what_open_clips_own_config_builds(
    tmp_path: Path, bert: Path, image: str, pooling: str | None
) -> None:
    """P45: the config that we write is open_clip's, and it computes the same features from it."""
    clip = build(encoders(image, bert, embed_dim=24, image=RANDOM, text=RANDOM | {"pooling": pooling}), seed=0)
    write_open_clip(tmp_path, clip.model_cfg, clip.preprocess_cfg)
    save_file(
        {key: t.contiguous() for key, t in clip.model.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    theirs.eval()
    images = torch.stack([clip.preprocess(image) for image in pictures()])
    tokens = clip.tokenizer(["a photo of a cat.", "two dogs", "red"])
    assert torch.equal(images, torch.stack([preprocess(image) for image in pictures()]))
    assert torch.equal(
        tokens, open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a photo of a cat.", "two dogs", "red"])
    )
    with torch.no_grad():
        assert torch.equal(clip.model.encode_image(images), theirs.encode_image(images))
        assert torch.equal(clip.model.encode_text(tokens), theirs.encode_text(tokens))
    assert clip.model.encode_text(tokens).shape == (3, 24)


def test_without_embed_dim_equal_widths_meet_without_projections(bert: Path) -> None:
    clip = build(encoders("test_vit", bert, image=RANDOM, text=RANDOM), seed=0)
    assert clip.model_cfg["embed_dim"] == 64
    assert not [name for name in clip.model.state_dict() if "proj." in name and not name.startswith("visual.trunk.")]
    with torch.no_grad():
        assert clip.model.encode_image(torch.zeros(2, 3, 160, 160)).shape == (2, 64)
        assert clip.model.encode_text(clip.tokenizer(["a", "b"])).shape == (2, 64)
    assert not clip.image.has_projection
    assert not clip.text.has_projection


def test_unequal_widths_need_embed_dim(bert: Path) -> None:
    with pytest.raises(InputError) as caught:
        build_meta(encoders("test_efficientnet", bert))
    assert str(caught.value) == (
        f"model.embed_dim: null needs encoders of equal width, but timm:test_efficientnet gives 256 and hf:{bert} 64; "
        "write a width for both, such as embed_dim: 64, to project them into one space"
    )


def test_a_timm_encoders_preprocessing_is_its_own(bert: Path) -> None:
    """P43."""
    for name in ("test_vit", "test_efficientnet"):
        data = timm.data.resolve_model_data_config(timm.create_model(name))
        clip = build(encoders(name, bert, embed_dim=8, image=RANDOM, text=RANDOM), seed=0)
        got = clip.preprocess_cfg
        assert (got["mean"], got["std"], got["interpolation"]) == (data["mean"], data["std"], data["interpolation"])
        assert clip.preprocess(pictures()[0]).shape == data["input_size"]
        assert clip.notes[-1].startswith(f"preprocessing of timm:{name}: 160 x 160 pixels, bicubic, shortest, mean ")


# --- their own weights ---------------------------------------------------------------------------


def cached_vit(cache: Path, folder: Path) -> timm.models.VisionTransformer:
    """A timm ViT with weights that the Hugging Face cache holds."""
    torch.manual_seed(7)
    vit = timm.create_model("test_vit")
    save_file(vit.state_dict(), folder / "vit.safetensors")
    write_cache(cache, "timm/test_vit.r160_in1k", {"model.safetensors": folder / "vit.safetensors"})
    return vit


def test_both_encoders_start_from_their_own_pretrained_weights(offline: Path, tmp_path: Path, bert: Path) -> None:
    vit = cached_vit(offline, tmp_path)
    clip = build(encoders("test_vit", bert, embed_dim=16), seed=0)
    trunk = clip.model.visual.trunk.state_dict()
    assert trunk
    assert all(torch.equal(tensor, vit.state_dict()[name]) for name, tensor in trunk.items())
    weights = load_file(bert / "model.safetensors")
    text = clip.model.text.transformer.state_dict()
    assert text
    assert all(torch.equal(tensor, weights[name]) for name, tensor in text.items())
    assert clip.base == f"timm:test_vit (pretrained) + hf:{bert} (pretrained)"
    assert clip.random  # by its projections: no file but a checkpoint can bring them back
    assert not any(note.startswith("RANDOM") for note in clip.notes)
    assert clip.notes[0] == (
        f"model.text.encoder: hf:{bert}: left aside 2 tensors the encoder has no place for: pooler.dense.bias, "
        "pooler.dense.weight"
    )
    assert clip.notes[1].startswith("both projections are new")


def test_pretrained_encoders_without_projections_have_nothing_random(offline: Path, tmp_path: Path, bert: Path) -> None:
    cached_vit(offline, tmp_path)
    assert not build(encoders("test_vit", bert), seed=0).random


def test_what_no_file_gives_is_drawn_from_the_seed(offline: Path, tmp_path: Path, bert: Path) -> None:
    cached_vit(offline, tmp_path)
    config = encoders("test_vit", bert, embed_dim=16)
    one, same, other = (build(config, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert [name for name in one if not torch.equal(one[name], other[name])] == [
        "visual.head.proj.weight",
        "text.proj.weight",
    ]


def test_half_precision_encoder_weights_arrive_in_float32(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "half")
    tensors = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    clip = build(encoders("test_vit", folder, embed_dim=16, image=RANDOM), seed=0)
    assert {tensor.dtype for tensor in clip.model.parameters()} == {torch.float32}
    name = "encoder.layer.0.output.dense.weight"
    assert torch.equal(clip.model.text.transformer.state_dict()[name], tensors[name].float())


def test_one_random_encoder_is_loud(bert: Path) -> None:
    """P70."""
    clip = build(encoders("test_vit", bert, embed_dim=16, image=RANDOM), seed=0)
    assert clip.random
    assert clip.base == f"timm:test_vit (random) + hf:{bert} (pretrained)"
    assert clip.notes[0] == "RANDOM WEIGHTS: model.image.random is true, so the image encoder is not pretrained"


def test_two_random_encoders_are_random_weights(bert: Path) -> None:
    """P70."""
    clip = build(encoders("test_vit", bert, embed_dim=16, image=RANDOM, text=RANDOM), seed=0)
    assert (clip.base, clip.random) == ("random weights", True)
    assert clip.notes[0].startswith("RANDOM WEIGHTS: model.image.random and model.text.random are true")


def test_a_sketch_needs_no_weights(bert: Path) -> None:
    meta = build_meta(encoders("test_vit", bert, embed_dim=16))
    assert {tensor.device.type for tensor in meta.model.parameters()} == {"meta"}
    assert meta.base == f"timm:test_vit (pretrained) + hf:{bert} (pretrained)"


def test_timm_weights_without_a_network_are_a_sentence(bert: Path) -> None:
    with pytest.raises(ClipftError) as caught:
        build(encoders("test_vit", bert, embed_dim=16), seed=0)
    said = str(caught.value)
    assert said.startswith(
        "model.image.encoder: timm:test_vit: tried model.safetensors and pytorch_model.bin of timm/test_vit.r160"
    )
    assert said.endswith("write image.random: true for random weights, or start from a local-dir: or a local file")


def test_a_text_encoder_without_weights_is_a_sentence(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "t", weights=False)
    with pytest.raises(
        InputError, match=r"has no weights \(model.safetensors or pytorch_model.bin\); write text.random: true"
    ):
        build(encoders("test_vit", folder, embed_dim=16, image=RANDOM), seed=0)


def test_text_weights_that_leave_a_tensor_without_a_value_are_refused(tmp_path: Path) -> None:
    """The transformers library would draw the missing ones at random and go on."""
    folder = write_text_encoder(tmp_path / "t")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors of the encoder: encoder.layer.1.output.dense.weight"):
        build(encoders("test_vit", folder, embed_dim=16, image=RANDOM), seed=0)


def test_damaged_text_weights_are_a_sentence(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "t")
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="do not load"):
        build(encoders("test_vit", folder, embed_dim=16, image=RANDOM), seed=0)


def test_an_encoder_of_the_hub_is_taken_from_the_cache(offline: Path, bert: Path) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    write_cache(offline, "org/tiny-bert", {name: bert / name for name in names})
    hub = build(encoders("test_vit", "org/tiny-bert", embed_dim=16, image=RANDOM), seed=0)
    local = build(encoders("test_vit", bert, embed_dim=16, image=RANDOM), seed=0)
    assert all(torch.equal(t, local.model.state_dict()[name]) for name, t in hub.model.state_dict().items())
    assert torch.equal(hub.tokenizer(["a cat"]), local.tokenizer(["a cat"]))
    assert hub.model_cfg["text_cfg"]["hf_model_name"] == "org/tiny-bert"  # a name that holds elsewhere too


def test_an_encoder_of_the_hub_without_network_is_a_sentence() -> None:
    with pytest.raises(
        ClipftError,
        match=r"hf:org/none: tried config.json of org/none: not in the cache .* or name a folder of it",
    ):
        build_meta(encoders("test_vit", "org/none", embed_dim=16))


# --- refusals ------------------------------------------------------------------------------------


def test_unknown_timm_names_are_answered_with_the_nearest(bert: Path) -> None:
    with pytest.raises(
        InputError, match=r"timm has no model tf_eficientnet_lite0; did you mean tf_efficientnet_lite0, "
    ):
        build_meta(encoders("tf_eficientnet_lite0", bert, embed_dim=16))
    with pytest.raises(InputError, match=r"test_vit has no weights in22k; timm knows test_vit.r160_in1k"):
        build_meta(encoders("test_vit.in22k", bert, embed_dim=16))
    assert build_meta(encoders("test_vit.r160_in1k", bert, embed_dim=16)).image.pooled_width == 64


@pytest.mark.parametrize("kind", ["distilbert", "t5", "deberta-v2"])
def test_text_encoders_of_other_types_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(
        InputError,
        match=rf"a text encoder of type '{kind}' .* those of type bert, roberta, xlm-roberta, mt5, m2m_100 are",
    ):
        build_meta(encoders("test_vit", tmp_path, embed_dim=16))


def test_half_of_an_encoder_decoder_is_a_sentence_and_its_weights_do(tmp_path: Path) -> None:
    """As MT5EncoderModel saves itself: `encoder.*` and `shared.*`, and is_encoder_decoder: false."""
    from transformers import MT5Config, MT5EncoderModel

    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
    half = MT5EncoderModel(MT5Config(vocab_size=100, **sizes))
    half.save_pretrained(tmp_path)
    words = write_word_tokenizer(tmp_path, pad=0)
    assert words <= 100
    config = encoders("test_vit", tmp_path, embed_dim=16, image=RANDOM)
    with pytest.raises(
        InputError, match=r"config\.json has is_encoder_decoder: false, .*; write is_encoder_decoder: tr"
    ):
        build(config, seed=0)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"is_encoder_decoder": false', '"is_encoder_decoder": true'))
    tensors = half.encoder.state_dict()
    built = build(config, seed=0).model.text.transformer.state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "has no config.json"), ("{", "cannot be read"), ("[]", "of type None")]
)
def test_a_folder_that_is_no_encoder_is_a_sentence(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        build_meta(encoders("test_vit", tmp_path, embed_dim=16))


def test_a_context_beyond_the_encoders_positions_is_a_sentence(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path, max_position_embeddings=40)
    with pytest.raises(
        InputError, match=r"model.context_length: 77 \(the default\) is more than the 40 tokens that text.enc"
    ):
        build_meta(encoders("test_vit", folder, embed_dim=16))
    assert build_meta(encoders("test_vit", folder, embed_dim=16, context_length=40)).text.name == "text"


def test_roberta_counts_its_positions_from_the_padding_on(tmp_path: Path) -> None:
    from transformers import RobertaConfig

    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaConfig(vocab_size=40, max_position_embeddings=34, pad_token_id=1, **sizes).save_pretrained(tmp_path)
    assert build_meta(encoders("test_vit", tmp_path, context_length=32)).model_cfg["text_cfg"]["context_length"] == 32
    with pytest.raises(InputError, match=r"model.context_length: 33 is more than the 32 tokens that text.encoder: hf:"):
        build_meta(encoders("test_vit", tmp_path, context_length=33))


def test_a_folder_without_a_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path / "t", tokenizer=False)
    with pytest.raises(InputError, match=r"has no tokenizer; expected one of tokenizer.json, "):
        build(encoders("test_vit", folder, embed_dim=16, image=RANDOM), seed=0)


def test_without_transformers_the_extra_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"needs the transformers package; pip install 'clipft\[hf\]'"):
        build_meta(encoders("test_vit", bert, embed_dim=16))

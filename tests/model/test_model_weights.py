from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_files import native_cfg

from clipft.errors import InputError
from clipft.model.layouts import recognise
from clipft.model.weights import load_into, read_weights


def a_state_dict() -> dict[str, torch.Tensor]:
    return {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(2.5)}


class Canary:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("saver", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_of_more_than_weights_is_refused_and_not_run(tmp_path: Path, saver: Any) -> None:
    """P39: weights are read with weights_only on, and no message says to turn it off."""
    canary, file = tmp_path / "canary", tmp_path / "evil.pt"
    saver({"state_dict": a_state_dict(), "evil": Canary(canary)}, file)
    with pytest.raises(
        InputError, match=r"evil\.pt: holds more than plain weights \((it would call|torch: )"
    ) as caught:
        read_weights(file)
    assert not canary.exists()
    assert "weights_only" not in str(caught.value)
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()  # the canary does sing when it is let


def test_numpy_numbers_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    """P39: a best score saved as a NumPy number is data, not code."""
    content = {
        "state_dict": a_state_dict(),
        "epoch": 3,
        "best": np.float64(0.5),
        "hits": np.int64(7),
        "loss": np.float32(1),
    }
    torch.save(content, tmp_path / "w.pt")
    weights = read_weights(tmp_path / "w.pt")
    assert torch.equal(weights.tensors["visual.proj"], a_state_dict()["visual.proj"])
    assert weights.notes == (
        f"{tmp_path}/w.pt: took the weights under 'state_dict' and left aside epoch, best, hits, loss",
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_plain_files_are_read_without_a_word(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(a_state_dict(), file)
    weights = read_weights(file)
    assert weights.tensors.keys() == a_state_dict().keys()
    assert weights.notes == ()


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda key: f"module.{key}", "module."),
        (lambda key: f"_orig_mod.{key}", "_orig_mod."),
        (lambda key: f"module._orig_mod.{key}", "_orig_mod. and module."),
        (lambda key: f"_orig_mod.module.{key}", "_orig_mod. and module."),
        (lambda key: key.replace("visual.", "visual._orig_mod."), "_orig_mod."),
    ],
)
def test_wrappers_prefixes_are_taken_off_and_said(tmp_path: Path, wrap: Any, said: str) -> None:
    """P40: files of parallel or compiled wrappers load, with a word on it."""
    keys = {wrap(key): tensor for key, tensor in a_state_dict().items()}
    save_file(keys, tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.tensors.keys() == a_state_dict().keys()
    touched = sum(key not in a_state_dict() for key in keys)
    assert weights.notes == (f"{tmp_path}/w.safetensors: took {said} off the names of {touched} of 2 tensors",)


def test_two_tensors_that_become_one_by_their_prefix_are_refused(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="have the same name"):
        read_weights(tmp_path / "w.pt")


def test_a_torchscript_archive_is_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        archive.writestr("ViT-B-32/data.pkl", b"")
        archive.writestr("ViT-B-32/constants.pkl", b"")
        archive.writestr("ViT-B-32/code/__torch__.py", b"")
    with pytest.raises(InputError, match=r"is a TorchScript archive .* write pretrained: openai"):
        read_weights(tmp_path / "ViT-B-32.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", b""),
        ("w.safetensors", b"no weights at all, but long enough for a header"),
        ("w.pt", b""),
        ("w.pt", b"hello"),
        ("w.pt", b"PK\x03\x04 and then nothing of a zip file"),
        ("w.bin", b"\x80\x02."),
        ("w.pth", b"<html>404</html>"),
    ],
)
def test_a_damaged_file_is_a_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: (is not a whole|holds more than)"):
        read_weights(tmp_path / name)


def test_a_file_cut_in_half_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "w.pt")
    save_file({"w": torch.zeros(10_000)}, tmp_path / "w.safetensors")
    for file in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(InputError, match="is not a whole"):
            read_weights(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(2)], "holds a list, not a dict"),
        ({"lr": 0.1, "names": ["a"]}, "these are none: lr, names"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
    ],
)
def test_a_file_of_something_else_is_a_sentence(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=reason):
        read_weights(tmp_path / "w.pt")


def test_a_file_that_is_not_there_or_of_another_kind_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such weights file"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "w.npz").touch()
    with pytest.raises(InputError, match=r"ends in \.safetensors, \.pt, \.pth, \.bin, not \.npz"):
        read_weights(tmp_path / "w.npz")


# --- into a model --------------------------------------------------------------------------------


@pytest.fixture
def model() -> Any:
    return open_clip.CLIP(**native_cfg())


def test_every_tensor_arrives(model: Any) -> None:
    other = open_clip.CLIP(**native_cfg()).state_dict()
    assert load_into(model, other, name="tiny", source="w.pt") == ()
    assert all(torch.equal(tensor, other[key]) for key, tensor in model.state_dict().items())


def test_half_precision_weights_arrive_in_float32(model: Any) -> None:
    half = {key: tensor.half() for key, tensor in model.state_dict().items()}
    load_into(model, half, name="tiny", source="w.pt")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.visual.proj, half["visual.proj"].float())


def test_a_scale_may_be_a_number_or_a_list_of_one(model: Any) -> None:
    load_into(model, {**model.state_dict(), "logit_scale": torch.tensor([3.0])}, name="tiny", source="w.pt")
    assert model.logit_scale.shape == ()
    assert model.logit_scale.item() == 3.0


def test_settings_and_position_numbers_in_a_file_are_left_aside_and_said(model: Any) -> None:
    extra = {"input_resolution": torch.tensor(32), "text.embeddings.position_ids": torch.arange(4)}
    said = load_into(model, {**model.state_dict(), **extra}, name="tiny", source="w.pt")
    assert said == ("w.pt: left aside input_resolution, text.embeddings.position_ids, which the model computes itself",)


def test_what_does_not_fit_is_counted_and_named(model: Any) -> None:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tensors = {key: t for key, t in model.state_dict().items() if not key.startswith("transformer.resblocks.1.")}
    tensors |= {f"extra.{i}": torch.zeros(1) for i in range(7)} | {"visual.proj": torch.zeros(64, 16)}
    with pytest.raises(InputError) as caught:
        load_into(model, tensors, name="tiny", source="w.pt")
    said = str(caught.value)
    assert "w.pt does not fit tiny: 12 missing (transformer.resblocks.1." in said
    assert "and 7 more)" in said
    assert "7 unexpected (extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more)" in said
    assert "1 of another shape (visual.proj is 64 x 16, not 64 x 32)" in said
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["ViT-B-16", "ViT-L-14-336"])
def test_the_architecture_of_a_file_is_told_from_its_shapes(arch: str) -> None:
    """P44: another architecture's file is named, not printed as 300 keys."""
    with torch.device("meta"):
        tensors = open_clip.CLIP(**open_clip.get_model_config(arch)).state_dict()
    layout = recognise(tensors)
    assert layout.name == "an open_clip file (native image and text tower)"
    assert layout.architectures == (arch, f"{arch}-quickgelu")


def test_the_architecture_of_a_siglip_file_is_told_from_its_shapes() -> None:
    """P44: their configs say no width, timm's name does."""
    cfg = open_clip.get_model_config("ViT-B-16-SigLIP-256")
    del cfg["custom_text"]
    with torch.device("meta"):
        tensors = open_clip.CustomTextCLIP(**cfg).state_dict()
    assert recognise(tensors).architectures == ("ViT-B-16-SigLIP-256",)


def test_a_hugging_face_file_is_named_with_the_model_it_probably_is(model: Any) -> None:
    """P44: what did not fit even in open_clip's names."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    special = {"bos_token_id": None, "eos_token_id": 1}
    with torch.device("meta"):  # their defaults are ViT-B/32 and SigLIP's ViT-B/16
        clip = CLIPModel(CLIPConfig()).state_dict()
        siglip = SiglipModel(SiglipConfig(text_config=special)).state_dict()
    known = "it is a Hugging Face CLIP file, probably ViT-B-32 or ViT-B-32-quickgelu; name the architecture"
    with pytest.raises(InputError, match=known):
        load_into(model, clip, name="tiny", source="model.safetensors")
    assert str(recognise(siglip)).startswith("by its keys it is a Hugging Face SigLIP file, probably ViT-B-16-SigLIP;")
    siglip["vision_model.embeddings.patch_embedding.weight"] = torch.zeros(2, 3)
    assert "SigLIP 2 file of variable resolution (NaFlex); open_clip has" in str(recognise(siglip))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["visual.conv1.weight", "text_projection", "input_resolution"], "OpenAI's own file"),
        (["visual.conv1.weight", "text_projection", "text_decoder.x"], "an open_clip CoCa file"),
        (["visual.trunk.stem.weight", "text.proj.weight"], "an open_clip file (timm image tower)"),
        (["text.transformer.x", "logit_scale"], "an open_clip file"),
        (["vision_model.encoder.x"], "the image tower alone of a Hugging Face model"),
        (["text_model.encoder.x"], "the text tower alone of a Hugging Face model"),
        (["vision_model.x", "text_model.x"], "a Hugging Face file of an image and a text model"),
        (["bert.embeddings.word_embeddings.weight"], "a Hugging Face text encoder"),
        (["blocks.0.attn.qkv.weight"], "an image encoder of timm"),
        (["fc.weight"], "no CLIP layout that clipft knows"),
    ],
)
def test_other_layouts_are_told_by_their_keys(keys: list[str], name: str) -> None:
    """P44."""
    assert recognise(dict.fromkeys(keys, torch.zeros(2, 2, 2, 2))).name == name

"""P46: `clipft export --to hf`, read back by plain transformers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import clip_cfg, open_clip_model, siglip_cfg, write_siglip_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_files import MEAN, STD, pictures, write_open_clip

import clipft
from clipft.config.schema import ModelConfig
from clipft.errors import ClipftError, InputError
from clipft.evaluate.target import open_target
from clipft.export import export
from clipft.export.hugging_face import require_form, write_hugging_face
from clipft.model.build import build
from clipft.model.saved import load_saved

MakeRun = Callable[..., Path]
TEXTS = ["A photo of 2 hands", "a red_cat, or a DOG's <b>left</b> hand!"]

# Runs without clipft and open_clip: what anyone with transformers alone would write.
PLAIN = """
import json, sys
import torch, transformers
from PIL import Image
photo, texts, *folders = sys.argv[1:]
found = []
for folder in folders:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    padding = True if type(model).__name__ == "CLIPModel" else "max_length"
    with torch.no_grad():
        text = processor(text=json.loads(texts), padding=padding, truncation=True, return_tensors="pt")
        read = model(**text, **images(Image.open(photo).convert("RGB"), return_tensors="pt"))
    found.append([read.image_embeds.tolist(), read.text_embeds.tolist(), read.logits_per_image.tolist()])
assert not {"clipft", "open_clip"} & sys.modules.keys()
print(json.dumps(found))
"""


def base(kind: str, folder: Path, **preprocess: Any) -> Path:
    """A local-dir: of a tiny model that transformers can build."""
    cfg = siglip_cfg("gelu_pytorch_tanh") if kind == "siglip" else clip_cfg(kind)
    if kind == "siglip":
        name = str(write_siglip_tokenizer(folder))
        cfg["text_cfg"] |= {"hf_tokenizer_name": name, "tokenizer_kwargs": {"clean": "canonicalize"}}
    preprocess = {
        "size": 32,
        "mean": MEAN,
        "std": STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    } | preprocess
    write_open_clip(folder, cfg, preprocess)
    save_file(open_clip_model(cfg_without_tokenizer(cfg)).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def cfg_without_tokenizer(cfg: dict[str, Any]) -> dict[str, Any]:
    text_cfg = {key: value for key, value in cfg["text_cfg"].items() if "tokenizer" not in key}
    return {**cfg, "text_cfg": text_cfg}


@torch.no_grad()
def of_run(run: Path, photo: Path) -> list[torch.Tensor]:
    clip = load_saved(run).clip
    model: Any = clip.model.eval()
    image = model.encode_image(clip.preprocess(Image.open(photo).convert("RGB"))[None], normalize=True)
    text = model.encode_text(clip.tokenizer(TEXTS), normalize=True)
    bias = 0 if model.logit_bias is None else model.logit_bias
    return [image, text, model.logit_scale.exp() * image @ text.T + bias]


def assert_as_the_run(run: Path, photo: Path, theirs: list[Any]) -> None:
    for a, b, atol in zip(of_run(run, photo), theirs, (1e-5, 1e-5, 1e-4), strict=True):
        torch.testing.assert_close(a, torch.as_tensor(b), atol=atol, rtol=0)


@pytest.fixture(scope="module")
def exports(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A run and its export for transformers, of each kind."""
    made = {}
    for kind, resize_mode in (("quick_gelu", "shortest"), ("gelu", "squash"), ("siglip", "squash")):
        folder = tmp_path_factory.mktemp(kind)
        run = make_run(base(kind, folder / "base", resize_mode=resize_mode))
        written = export(run, folder / "out", to="hf")
        assert float(written.checked.rpartition(" ")[2]) <= 1e-5
        made[kind] = run, folder / "out"
    return made


@pytest.fixture(params=["gelu", "siglip"])
def exported(request: pytest.FixtureRequest, exports: dict[str, tuple[Path, Path]]) -> tuple[Path, Path]:
    """A run and its export for transformers."""
    return exports[request.param]


def test_plain_transformers_loads_the_folders(exports: dict[str, tuple[Path, Path]], tiny_photos: Path) -> None:
    """P46: a clean process without clipft and open_clip gets the run's features and logits, offline."""
    photo = tiny_photos / "red" / "0.png"
    folders = [str(out) for _, out in exports.values()]
    command = [sys.executable, "-I", "-c", PLAIN, str(photo), json.dumps(TEXTS), *folders]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    for (run, _), theirs in zip(exports.values(), json.loads(done.stdout), strict=True):
        assert_as_the_run(run, photo, theirs)


def test_every_door_of_transformers_is_open(exported: tuple[Path, Path]) -> None:
    """P46: config, weights, tokenizer and image processor are found by the general and by the model's own classes."""
    import transformers

    out = exported[1]
    names = {path.name for path in out.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "clipft.json",
    } <= names
    own = "Clip" if "CLIPModel" in (out / "config.json").read_text() else "Siglip"
    kinds = ["AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor", "AutoConfig"]
    kinds += ["CLIPModel", "CLIPTokenizer", "CLIPImageProcessor", "CLIPProcessor"] if own == "Clip" else ["SiglipModel"]
    for kind in kinds:
        getattr(transformers, kind).from_pretrained(out)


def test_transformers_prepares_pictures_alike(exported: tuple[Path, Path]) -> None:
    """P43: the same pixels with its PIL backend, nearly the same with torchvision."""
    from transformers import AutoImageProcessor

    clip = load_saved(exported[0]).clip
    std = torch.tensor(STD)[:, None, None]
    for backend, levels in (("torchvision", 0.5), ("pil", 1e-3)):
        theirs = AutoImageProcessor.from_pretrained(exported[1], backend=backend)
        for picture in pictures():
            pixels = theirs(picture, return_tensors="pt").pixel_values[0]
            assert ((pixels - clip.preprocess(picture)) * std * 255).abs().mean() <= levels


def test_clipft_loads_it_as_the_run(exported: tuple[Path, Path]) -> None:
    """P45: the weights are the run's to the bit, under open_clip's names again."""
    run, out = exported
    ours, theirs = (clipft.load(path) for path in exported)
    tensors = theirs[0].state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in ours[0].state_dict().items())
    assert torch.equal(ours[2](TEXTS), theirs[2](TEXTS))
    assert all(torch.equal(ours[1](picture), theirs[1](picture)) for picture in pictures())
    target = open_target(str(out))
    assert target.tuned
    assert target.classes == load_saved(run).classes


def test_it_is_a_base_for_another_run(exported: tuple[Path, Path]) -> None:
    """P44: its own layout, with its own preprocessing."""
    run, out = exported
    name = load_saved(run).config.model.name
    clip = build(ModelConfig(name=name, pretrained=str(out)), seed=3)
    saved = load_saved(run).clip
    assert all(torch.equal(clip.model.state_dict()[key], tensor) for key, tensor in saved.model.state_dict().items())
    keys = ("mean", "std", "interpolation", "resize_mode")
    assert [list(clip.preprocess_cfg[key]) for key in keys] == [list(saved.preprocess_cfg[key]) for key in keys]


def test_a_moved_folder_loads_and_a_changed_one_does_not(exported: tuple[Path, Path], tmp_path: Path) -> None:
    """P52."""
    shutil.copytree(exported[1], tmp_path / "moved")
    clipft.load(tmp_path / "moved")
    tensors = {name: tensor.clone() for name, tensor in load_file(exported[1] / "model.safetensors").items()}
    tensors["text_model.final_layer_norm.weight"] *= -1
    save_file(tensors, tmp_path / "moved" / "model.safetensors")
    with pytest.raises(InputError, match="its text tower does not answer as when it was exported"):
        clipft.load(tmp_path / "moved")


@pytest.mark.parametrize("kind", ["gelu", "siglip"])
def test_another_size_and_context_length_go_along(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    """P47: what transformers builds has the run's sizes, and so has what clipft builds from it, wherever it lies."""
    name = f"local-dir:{base(kind, tmp_path / 'base')}"
    run = make_run(name, model={"name": name, "image_size": 48, "context_length": 12})
    written = export(run, tmp_path / "out", to="hf")
    assert float(written.checked.rpartition(" ")[2]) <= 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vision_config"]["image_size"] == 48
    assert config["text_config"]["max_position_embeddings"] == 12
    shutil.move(tmp_path / "out", tmp_path / "moved")
    model, preprocess, tokenizer = clipft.load(tmp_path / "moved")
    assert preprocess(pictures()[0]).shape == (3, 48, 48)
    assert tokenizer(TEXTS).shape == (2, 12)
    saved = load_saved(run).clip.model.state_dict()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("kind", ["quick_gelu", "siglip"])
def test_lora_is_merged_first(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    """P51: transformers gets a plain model that answers as the run does."""
    name = f"local-dir:{base(kind, tmp_path / 'base')}"
    lora = {"lora": {"rank": 2, "dora": True}}
    run = make_run(name, model={"name": name, "image": lora, "text": lora})
    written = export(run, tmp_path / "out", to="hf")
    assert written.checked.startswith("LoRA merged into the weights: normalised features differ by at most ")
    model, _, tokenizer = clipft.load(tmp_path / "out")
    ours = load_saved(run).clip.model.eval()
    assert len(ours.state_dict()) > len(model.state_dict())
    with torch.no_grad():
        features = [m.encode_text(tokenizer(TEXTS), normalize=True) for m in (model, ours)]
    torch.testing.assert_close(*features, atol=1e-5, rtol=0)


def test_the_notes_say_what_transformers_does_otherwise(make_run: MakeRun, tmp_path: Path) -> None:
    """P46, P48: what cannot be carried over is said."""
    run = make_run(base("gelu", tmp_path / "base", resize_mode="shortest"), loss="classifier")
    notes = " ".join(export(run, tmp_path / "out", to="hf").notes)
    assert "HTML such as &amp; and curly quotes" in notes
    assert "crop lies one pixel aside" in notes
    assert "the classifier is left out" in notes
    from transformers import CLIPImageProcessor, CLIPTokenizer

    clip = load_saved(run).clip
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("salt & pepper").input_ids == clip.tokenizer(["salt &amp; pepper"])[0, :5].tolist()
    assert theirs("salt &amp; pepper").input_ids != clip.tokenizer(["salt &amp; pepper"])[0, :5].tolist()
    wide = Image.effect_noise((35, 32), 60).convert("RGB")  # 3 pixels to cut: 1.5 are 2 here and 1 there
    pixels = CLIPImageProcessor.from_pretrained(tmp_path / "out")(wide, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(pixels[:, :, 1:], clip.preprocess(wide)[:, :, :-1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vision_cfg": {"no_ln_pre": True}}, "CLIPModel needs visual.ln_pre.bias, visual.ln_pre.weight"),
        ({"preprocess": {"resize_mode": "longest"}}, "its images are resized by their longest side and padded"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    make_run: MakeRun, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    """P46: one sentence with the exports that fit."""
    cfg = clip_cfg("gelu")
    cfg = {key: {**value, **change.get(key, {})} if isinstance(value, dict) else value for key, value in cfg.items()}
    write_open_clip(tmp_path / "base", cfg, {"size": 32, **change.get("preprocess", {})})
    weights = open_clip_model(cfg_without_tokenizer(cfg)).state_dict()
    save_file(weights, tmp_path / "base" / "open_clip_model.safetensors")
    with pytest.raises(InputError) as caught:
        export(make_run(tmp_path / "base"), tmp_path / "out", to="hf")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("; the exports that fit are open_clip and pt")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_hugging_face_text_tower_is_refused(make_run: MakeRun, tiny_timm_bert: Path, tmp_path: Path) -> None:
    """P46."""
    with pytest.raises(InputError, match="its text tower is a Hugging Face encoder"):
        export(make_run(tiny_timm_bert), tmp_path / "out", to="hf")


def test_what_transformers_would_compute_otherwise_is_not_written(make_run: MakeRun, tmp_path: Path) -> None:
    """P46: the comparison finds what the form does not show, here a norm of its own."""
    saved = load_saved(make_run(base("gelu", tmp_path / "base")))
    model: Any = saved.clip.model.eval()
    model.visual.ln_post.eps = 1.0
    (tmp_path / "partial").mkdir()
    with pytest.raises(ClipftError, match=r"its features differ from the run's by .* nothing was written"):
        write_hugging_face(tmp_path / "partial", tmp_path / "out", saved, "run", require_form(saved.clip))

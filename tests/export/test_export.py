from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_files import write_cache, write_open_clip

import clipft
from clipft.config.schema import ModelConfig
from clipft.errors import ClipftError, InputError
from clipft.export import export, load
from clipft.export.read import read_export
from clipft.model.build import build
from clipft.model.saved import load_saved

MakeRun = Callable[..., Path]

# Runs without clipft: what anyone with open_clip alone would write.
PLAIN = """
import sys, json
import torch, open_clip
from PIL import Image
folder, photo, how = sys.argv[1:4]
for file in sys.argv[4:]:
    open_clip.add_model_config(file)
name = f"local-dir:{folder}" if how == "local-dir" else how
pretrained = None if how == "local-dir" else folder
model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained)
tokenizer = open_clip.get_tokenizer(name)
model.eval()
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open(photo).convert("RGB"))[None], normalize=True)
    text = model.encode_text(tokenizer(["a red square, or 2 of them"]), normalize=True)
assert "clipft" not in sys.modules
print(json.dumps([image.tolist(), text.tolist()]))
"""


def plainly(*arguments: object) -> list[torch.Tensor]:
    """The features of a photo and a text in a clean process."""
    command = [sys.executable, "-I", "-c", PLAIN, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return [torch.tensor(features) for features in json.loads(done.stdout)]


def of_run(run: Path, photo: Path) -> list[torch.Tensor]:
    clip = load_saved(run).clip
    clip.model.eval()
    with torch.no_grad():
        image = clip.model.encode_image(clip.preprocess(Image.open(photo).convert("RGB"))[None], normalize=True)
        return [image, clip.model.encode_text(clip.tokenizer(["a red square, or 2 of them"]), normalize=True)]


def assert_equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("base", ["tiny_native", "tiny_timm_bert"])
def test_plain_open_clip_loads_the_folder(
    base: str, request: pytest.FixtureRequest, make_run: MakeRun, tiny_photos: Path, tmp_path: Path
) -> None:
    """P45, P46: a clean process without clipft gets the run's features, offline, from any working directory."""
    run, photo = make_run(request.getfixturevalue(base)), tiny_photos / "red" / "0.png"
    written = export(run, tmp_path / "out")
    assert float(written.checked.rpartition(" ")[2]) <= 1e-6
    assert_equal(of_run(run, photo), plainly(tmp_path / "out", photo, "local-dir"))


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Puts a folder's architecture among open_clip's registered names, as `tiny-arch`; gives the file that says so."""
    file = tmp_path / "configs" / "tiny-arch.json"

    def register(base: Path, **left_out: list[str]) -> Path:
        cfg = json.loads((base / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        for tower, keys in left_out.items():
            cfg[tower] = {key: value for key, value in cfg[tower].items() if key not in keys}
        file.parent.mkdir()
        file.write_text(json.dumps(cfg), encoding="utf-8")
        open_clip.add_model_config(file)
        return file

    yield register
    open_clip.factory._MODEL_CONFIG_PATHS.remove(file)
    del open_clip.factory._MODEL_CONFIGS["tiny-arch"]


@pytest.fixture
def registered(register: Callable[..., Path], tiny_native: Path) -> Path:
    return register(tiny_native)


@pytest.mark.parametrize("arch", ["tiny-arch", pytest.param("ViT-S-32-alt", marks=pytest.mark.slow)])
def test_plain_open_clip_loads_the_files_by_a_registered_name(
    arch: str, make_run: MakeRun, registered: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    """P45: `create_model(ARCH, pretrained=FILE)` gives the run's features, for .safetensors and .pt."""
    run, photo = make_run(arch), tiny_photos / "red" / "0.png"
    written = export(run, tmp_path / "out")
    export(run, tmp_path / "bare.pt", to="pt")
    file = tmp_path / "out" / "open_clip_model.safetensors"
    assert_equal(of_run(run, photo), plainly(file, photo, arch, registered))
    tensors, bare = load_file(file), open_clip.create_model(arch, pretrained=str(tmp_path / "bare.pt"))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in bare.state_dict().items())
    assert written.notes == ()


def test_the_folder_holds_what_was_trained_and_what_it_is(make_run: MakeRun, tiny_native: Path, tmp_path: Path) -> None:
    run = make_run(tiny_native)
    written = export(run, tmp_path / "out")
    assert set(written.files) == {"open_clip_model.safetensors", "open_clip_config.json", "clipft.json"}
    saved = load_saved(run)
    tensors = load_file(tmp_path / "out" / "open_clip_model.safetensors")
    assert tensors.keys() == saved.clip.model.state_dict().keys()
    assert all(torch.equal(tensor, saved.clip.model.state_dict()[name]) for name, tensor in tensors.items())
    facts = json.loads((tmp_path / "out" / "clipft.json").read_text(encoding="utf-8"))
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["templates"] == ["a {} square.", "{}"]
    assert facts["run"] == str(run)
    assert facts["metrics"] == {"zero_shot_top1": 0.5}
    assert facts["logit_scale"] == pytest.approx(float(saved.clip.model.logit_scale.detach().exp()))
    config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text(encoding="utf-8"))
    assert config["preprocess_cfg"]["resize_mode"] == "squash"


def test_load_gives_a_run_and_its_export_alike(
    make_run: MakeRun, tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    run = make_run(tiny_native)
    export(run, tmp_path / "out")
    photo = Image.open(tiny_photos / "blue" / "1.png")
    features = []
    for path in (run, tmp_path / "out", str(run / "checkpoints" / "step-000012")):
        model, preprocess, tokenizer = clipft.load(path)
        assert not any(module.training for module in model.modules())
        with torch.no_grad():
            features.append([model.encode_image(preprocess(photo)[None]), model.encode_text(tokenizer(["blue"]))])
    assert_equal(features[0], features[1])
    assert_equal(features[0], features[2])


@pytest.mark.parametrize("features", ["projected", "pooled"])
def test_a_classifier_travels_along_and_is_no_obstacle(
    make_run: MakeRun, tiny_native: Path, tmp_path: Path, features: str
) -> None:
    """P52: the head is in the export and is restored; open_clip still finds the model's weights."""
    run = make_run(tiny_native, loss="classifier", features=features)
    written = export(run, tmp_path / "out")
    assert "classifier.safetensors" in written.files
    assert any("model.classifier" in note for note in written.notes)
    head, again = load_saved(run).clip.model.classifier, load(tmp_path / "out")[0].classifier
    assert torch.equal(head.weight, again.weight)
    assert torch.equal(head.bias, again.bias)
    assert read_export(tmp_path / "out").facts.features == features  # type: ignore[union-attr]
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'out'}")
    assert torch.equal(plain.visual.proj, load(run)[0].visual.proj)


def test_a_moved_export_with_a_hugging_face_text_tower_loads(
    make_run: MakeRun, tiny_timm_bert: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    run, photo = make_run(tiny_timm_bert), tiny_photos / "red" / "0.png"
    written = export(run, tmp_path / "out")
    assert {"config.json", "vocab.txt"} <= set(written.files)
    assert any(str(tmp_path / "out") in note and "hf_model_name" in note for note in written.notes)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    model, preprocess, tokenizer = clipft.load(tmp_path / "moved")
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open(photo).convert("RGB"))[None], normalize=True)
        text = model.encode_text(tokenizer(["a red square, or 2 of them"]), normalize=True)
    assert_equal(of_run(run, photo), [image, text])


def test_an_export_that_no_longer_answers_as_written_is_refused(
    make_run: MakeRun, tiny_timm_bert: Path, tmp_path: Path
) -> None:
    """P52, P48: on load a known picture and text are encoded again and compared with what was written down."""
    out = tmp_path / "out"
    export(make_run(tiny_timm_bert), out)
    # copies: load_file may map the very file that is written over
    tensors = {name: tensor.clone() for name, tensor in load_file(out / "open_clip_model.safetensors").items()}
    swapped = {**tensors, "text.proj.weight": tensors["text.proj.weight"].flip(0)}
    save_file(swapped, out / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="its text tower does not answer as when it was exported"):
        load(out)
    save_file(tensors, out / "open_clip_model.safetensors")
    load(out)
    tokenizer = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(InputError, match="its tokenizer is not the one it was exported with"):
        load(out)


def test_a_bare_state_dict_is_nothing_but_tensors(make_run: MakeRun, tiny_native: Path, tmp_path: Path) -> None:
    """P39: torch reads it with weights_only=True."""
    run = make_run(tiny_native, loss="classifier")
    written = export(run, tmp_path / "new" / "bare.pt", to="pt")
    tensors = torch.load(tmp_path / "new" / "bare.pt", weights_only=True)
    assert type(tensors) is dict
    assert tensors.keys() == open_clip.create_model(f"local-dir:{tiny_native}").state_dict().keys()
    assert any("leaves the classifier out" in note for note in written.notes)
    export(run, tmp_path / "folder", to="pt")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["open_clip_model.pt"]


def test_nothing_is_overwritten_unasked(make_run: MakeRun, tiny_native: Path, tmp_path: Path) -> None:
    run, out = make_run(tiny_native), tmp_path / "out"
    out.mkdir()  # an empty folder is no obstacle
    export(run, out)
    (out / "stale.txt").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="--force"):
        export(run, out)
    export(run, out, force=True)
    assert not (out / "stale.txt").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="no export"):
        export(run, mine, force=True)
    assert (mine / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_place_that_cannot_be_written_is_named(make_run: MakeRun, tiny_native: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ClipftError, match=r"file/out: could not be written"):
        export(make_run(tiny_native), tmp_path / "file" / "out")


def test_what_is_no_run_is_refused(tiny_native: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of clipft"):
        export(tiny_native, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_preprocessing_of_a_load_takes_a_photo_as_training_did(
    make_run: MakeRun, tiny_native: Path, tmp_path: Path
) -> None:
    """A phone's turned photo, a see-through PNG: open_clip's plain transform would look at them otherwise."""
    _, preprocess, _ = load(make_run(tiny_native))
    clip = load_saved(make_run(tiny_native)).clip
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        assert torch.equal(preprocess(turned), clip.preprocess(picture.transpose(Image.Transpose.ROTATE_270)))
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert torch.equal(preprocess(clear), clip.preprocess(Image.new("RGB", (40, 30), "white")))
    assert torch.equal(preprocess(picture), clip.preprocess(picture))


def test_a_folder_that_another_wrote_is_never_replaced(make_run: MakeRun, tiny_native: Path, tmp_path: Path) -> None:
    """P70: a base has an open_clip_config.json too."""
    run = make_run(tiny_native)
    before = sorted(path.name for path in tiny_native.iterdir())
    with pytest.raises(InputError, match="no export"):
        export(run, tiny_native, force=True)
    assert sorted(path.name for path in tiny_native.iterdir()) == before


def write_resizable(folder: Path, trunk: str = "test_vit") -> Path:
    """A timm image tower + a native text tower, as a local-dir with random weights."""
    vision = {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    cfg = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    write_open_clip(folder, cfg, {"size": 160})
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**{key: value for key, value in cfg.items() if key != "custom_text"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def resized_vit(make_run: MakeRun, tmp_path: Path) -> Path:
    """A run with a timm ViT of 64 pixels, which has 160 by its name."""
    folder = write_resizable(tmp_path / "base")
    return make_run(folder, model={"name": f"local-dir:{folder}", "image_size": 64})


def test_a_moved_export_of_a_resized_timm_vit_loads(resized_vit: Path, tiny_photos: Path, tmp_path: Path) -> None:
    """P47, P45: by clipft as it is, by plain open_clip after the edit that the note names."""
    photo, moved = tiny_photos / "red" / "0.png", tmp_path / "moved"
    written = export(resized_vit, tmp_path / "out")
    assert written.files["timm/config.json"] == (tmp_path / "out" / "timm" / "config.json").stat().st_size
    assert "timm" not in written.files
    assert any(
        str(tmp_path / "out" / "timm") in note and "vision_cfg.timm_model_name" in note for note in written.notes
    )
    shutil.move(tmp_path / "out", moved)
    clipft.load(moved)
    config = moved / "open_clip_config.json"
    text = config.read_text(encoding="utf-8")
    assert f"local-dir:{tmp_path / 'out' / 'timm'}" in text
    config.write_text(text.replace(f"{tmp_path / 'out' / 'timm'}", f"{moved / 'timm'}"), encoding="utf-8")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{moved}")
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(Image.open(photo).convert("RGB"))[None], normalize=True)
    assert_equal(of_run(resized_vit, photo)[:1], [image])


@pytest.mark.parametrize("kind", ["timm", "hugging face text"])
def test_an_uploaded_export_finds_its_folders_in_the_repository(
    kind: str,
    resized_vit: Path,
    make_run: MakeRun,
    tiny_timm_bert: Path,
    tiny_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P45: its config names folders of the machine where it was written."""
    run, out, photo = resized_vit if kind == "timm" else make_run(tiny_timm_bert), tmp_path / "out", "red/0.png"
    written = export(run, out)
    write_cache(tmp_path / "cache", "org/mine", {name: out / name for name in written.files})
    shutil.rmtree(out)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    clip = build(ModelConfig(name="hf-hub:org/mine"), seed=0)
    with torch.no_grad():
        image = clip.model.encode_image(
            clip.preprocess(Image.open(tiny_photos / photo).convert("RGB"))[None], normalize=True
        )
        text = clip.model.encode_text(clip.tokenizer(["a red square, or 2 of them"]), normalize=True)
    assert_equal(of_run(run, tiny_photos / photo), [image, text])


def test_an_export_that_open_clip_does_not_load_is_a_sentence(
    resized_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P47: without timm's config the network would be of the size that its name says."""
    monkeypatch.setattr("clipft.export.files.config_at_size", lambda *_: None)
    with pytest.raises(ClipftError, match=r"does not load the export \(.*size mismatch.*\); nothing was written"):
        export(resized_vit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sizes", [{"image_size": 64}, {"context_length": 8}, {"image_size": 48, "context_length": 24}])
def test_a_registered_name_at_another_size_is_loaded_by_the_line_that_is_given(
    sizes: dict[str, int], make_run: MakeRun, registered: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    """P45, P47: a native model."""
    run, photo = make_run("tiny-arch", model={"name": "tiny-arch", **sizes}), tiny_photos / "red" / "0.png"
    written = export(run, tmp_path / "bare.pt", to="pt")
    names: dict[str, Any] = {"open_clip": open_clip, "tokenizer": open_clip.get_tokenizer("tiny-arch")}
    exec("\n".join(written.load), names)
    preprocess, model = load_saved(run).clip.preprocess, names["model"].eval()
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.open(photo).convert("RGB"))[None], normalize=True)
        text = model.encode_text(names["tokenizer"](["a red square, or 2 of them"]), normalize=True)
    assert_equal(of_run(run, photo), [image, text])
    assert not any("registered names" in note for note in written.notes)
    calls = [line.partition(" = ")[2].replace(f'"{tmp_path / "bare.pt"}"', "FILE") for line in written.load]
    said = ", ".join(calls)
    assert any(note.endswith(f": {said}") for note in export(run, tmp_path / "out").notes)


@pytest.mark.parametrize(("trunk", "loads"), [("test_vit", False), ("test_efficientnet", True)])
def test_a_registered_timm_tower_at_another_size(
    trunk: str, loads: bool, make_run: MakeRun, register: Callable[..., Path], tmp_path: Path
) -> None:
    """P47: open_clip resizes a timm ViT after loading, which fails; a convolution has no size."""
    register(write_resizable(tmp_path / "base", trunk))
    run = make_run("tiny-arch", model={"name": "tiny-arch", "image_size": 64})
    written = export(run, tmp_path / "bare.pt", to="pt")
    by_name = f'open_clip.create_model("tiny-arch", pretrained="{tmp_path / "bare.pt"}", force_image_size=64)'
    if loads:
        assert written.load == (f"model = {by_name}",)
        eval(by_name)
        return
    why = "tiny-arch at 64 pixels: open_clip resizes its image tower only after loading the weights"
    assert f"{why}: building it needs the folder form too" in written.notes
    assert f"{why}: it is loaded by local-dir:" in export(run, tmp_path / "out").notes
    with pytest.raises(RuntimeError, match="size mismatch"):
        eval(by_name)


def test_a_size_that_a_registered_config_leaves_out_is_open_clips_own(
    make_run: MakeRun, register: Callable[..., Path], tiny_native: Path, tmp_path: Path
) -> None:
    """A run names every size; open_clip's configs of Hugging Face text encoders name no context length."""
    register(tiny_native, vision_cfg=["image_size"], text_cfg=["context_length"])
    run = make_run("tiny-arch")
    assert export(run, tmp_path / "out").notes == ()
    file = tmp_path / "bare.pt"
    assert export(run, file, to="pt").load == (f'model = open_clip.create_model("tiny-arch", pretrained="{file}")',)


def test_others_may_read_the_files_as_far_as_the_umask_says(
    make_run: MakeRun, tiny_native: Path, tmp_path: Path
) -> None:
    export(make_run(tiny_native), tmp_path / "out")
    usual = (tmp_path / "out" / "open_clip_config.json").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {usual}

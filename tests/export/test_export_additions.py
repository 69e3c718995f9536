"""Exports of what can't be merged: a folder for clipft.load, and class embeddings for open_clip alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tuned_runs import TunedRun, cases

import clipft
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.evaluate.target import open_target
from clipft.evaluate.zeroshot import class_embeddings
from clipft.export import export
from clipft.export.tuned import TunedClip
from clipft.model.build import build
from clipft.model.saved import load_saved
from clipft.predict import Compute, predict_classes

CPU = torch.device("cpu")
CASES = cases("middle", "image", "block adapters", slow=("text prompt", "class specific", "text feature adapter"))


@pytest.fixture
def photo(tmp_path: Path) -> Image.Image:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 255, (40, 36, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def features(path: Path, photo: Image.Image) -> tuple[Tensor, Tensor]:
    """What clipft.load's model makes of a photo and of two classes' prompts."""
    model, preprocess, tokenizer = clipft.load(path)
    with torch.no_grad():
        image, text, _ = model(preprocess(photo)[None], tokenizer(["a photo of a red.", "a photo of a blue."]))
    return image, text


@pytest.mark.parametrize("case", CASES)
def test_an_export_answers_as_the_run_wherever_it_lies(
    case: str, tuned_run: TunedRun, photo: Image.Image, tmp_path: Path
) -> None:
    """P52: additions are saved and restored; the folder was moved in between."""
    folder = tuned_run(case)
    written = export(folder, tmp_path / "out")
    assert float(written.checked.rpartition(" ")[2]) <= 1e-6
    ours = features(folder, photo)
    (tmp_path / "out").rename(tmp_path / "moved")
    for a, b in zip(ours, features(tmp_path / "moved", photo), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    saved = load_saved(folder)
    saved.clip.tokenizer.know(saved.classes, saved.templates)
    with torch.no_grad():
        image = F.normalize(saved.clip.image.encode(saved.clip.preprocess(photo)[None]), dim=-1)
        text = F.normalize(saved.clip.text.encode(saved.clip.tokenizer(["a photo of a red.", "a photo of a blue."])))
    for a, b in zip(ours, (image, text), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_folder_holds_an_ordinary_model_the_additions_and_their_config(tuned_run: TunedRun, tmp_path: Path) -> None:
    """P54: vectors and settings are in it, no tokens of class names; the sizes of all files are told."""
    folder = tuned_run("middle")
    written = export(folder, tmp_path / "out")
    assert {"additions.safetensors", "class_embeddings.safetensors", "clipft.json"} < written.files.keys()
    assert all((tmp_path / "out" / name).stat().st_size == size for name, size in written.files.items())
    additions = load_file(tmp_path / "out" / "additions.safetensors")
    assert {name: tuple(t.shape) for name, t in additions.items()} == {
        "text_prompt.vectors.0": (3, 32),
        "text_prompt.vectors.1": (3, 32),
    }
    facts = json.loads((tmp_path / "out" / "clipft.json").read_text(encoding="utf-8"))
    assert facts["additions"]["image"] == {}
    assert facts["additions"]["text"]["prompt"]["position"] == "middle"
    assert facts["classes"] == ["blue", "green", "red", "white"]
    model = open_clip.create_model(f"local-dir:{tmp_path / 'out' / 'model'}")
    assert (
        model.state_dict().keys()
        == open_clip.create_model(f"local-dir:{folder.parent.parent / 'base'}").state_dict().keys()
    )
    assert open_target(str(tmp_path / "out" / "model")).classes == ()


@pytest.mark.parametrize("case", cases("class specific", "text feature adapter", slow=["text prompt"]))
def test_plain_open_clip_gives_the_runs_answers_by_the_class_embeddings(
    case: str, tuned_run: TunedRun, tmp_path: Path
) -> None:
    """The text side alone was tuned: the lines that are printed give the run's probabilities."""
    folder = tuned_run(case)
    written = export(folder, tmp_path / "out")
    assert any("plain open_clip gives the run's zero-shot answers" in note for note in written.notes)
    path = next((folder.parent.parent / "val" / "red").iterdir())
    names: dict[str, Any] = {"open_clip": open_clip, "safetensors": __import__("safetensors.torch")}
    with torch.no_grad(), Image.open(path) as picture:
        exec("\n".join(written.load[1:4]), names)
        names["images"] = names["preprocess"](picture.convert("RGB"))[None]
        exec(written.load[4], names)
    target = open_target(str(folder))
    answer = predict_classes(target, [str(path)], Compute(CPU), top=4).predictions[0]
    ours = {c.name: c.probability for c in answer.classes}
    theirs = names["logits"].softmax(dim=-1)[0].tolist()
    assert dict(zip(target.classes, theirs, strict=True)) == pytest.approx(ours, abs=1e-5)

    file = tmp_path / "out" / "class_embeddings.safetensors"
    own = class_embeddings(target.clip, target.classes, target.templates, device=CPU)
    torch.testing.assert_close(load_file(file)["class_embeddings"], own, atol=1e-6, rtol=0)
    with safe_open(file, "pt") as content:
        assert json.loads(content.metadata()["classes"]) == list(target.classes)
    again = predict_classes(open_target(str(tmp_path / "out")), [str(path)], Compute(CPU), top=4).predictions[0]
    assert {c.name: c.probability for c in again.classes} == pytest.approx(ours, abs=1e-5)


def test_an_image_side_says_what_the_model_below_lacks(tuned_run: TunedRun, tmp_path: Path) -> None:
    written = export(tuned_run("image"), tmp_path / "out")
    assert "class_embeddings.safetensors" not in written.files
    lacks = f"{tmp_path / 'out' / 'model'} is the model without a feature adapter and prompt vectors in its image tower"
    assert lacks in written.notes
    assert written.load == (f'model, preprocess, tokenizer = clipft.load("{tmp_path / "out"}")',)


@pytest.mark.parametrize("to", ["pt", "hf"])
def test_a_form_without_a_place_for_them_is_refused(to: Any, tuned_run: TunedRun, tmp_path: Path) -> None:
    """They would be left out in silence."""
    with pytest.raises(InputError) as refused:
        export(tuned_run("text prompt"), tmp_path / "out", to=to)
    assert str(refused.value) == (
        f"--to {to}: this run tuned prompt vectors in the text tower, which no file of that form has a place for; "
        "leave --to out, which writes a folder for clipft.load, with ready class embeddings for open_clip's image tower"
    )
    assert not (tmp_path / "out").exists()


def test_a_classifier_travels_beside_the_additions(tuned_run: TunedRun, tmp_path: Path) -> None:
    """P52."""
    folder = tuned_run("image", loss={"type": "classifier", "init": "random"})
    assert "classifier.safetensors" in export(folder, tmp_path / "out").files
    head, again = clipft.load(folder)[0].classifier, clipft.load(tmp_path / "out")[0].classifier
    assert torch.equal(head.weight, again.weight)


def test_damage_is_refused_in_a_sentence(tuned_run: TunedRun, tmp_path: Path) -> None:
    """P52: by the fingerprint of the whole, and name by name."""
    out = tmp_path / "out"
    export(tuned_run("text prompt"), out)
    tensors = {name: t.clone() for name, t in load_file(out / "additions.safetensors").items()}
    save_file({name: t.flip(1) for name, t in tensors.items()}, out / "additions.safetensors")
    with pytest.raises(InputError, match="its text tower does not answer as when it was exported"):
        clipft.load(out)
    save_file({"text_prompt.vectors.0": tensors["text_prompt.vectors.0"]}, out / "additions.safetensors")
    with pytest.raises(InputError, match=r"these differ: text_prompt\.vectors\.1; export the run again"):
        clipft.load(out)
    (out / "additions.safetensors").unlink()
    with pytest.raises(InputError, match=r"additions\.safetensors: cannot be read"):
        clipft.load(out)
    with pytest.raises(InputError, match=f"the model without them is named by local-dir:{out / 'model'}"):
        build(ModelConfig(name=f"local-dir:{out}"), seed=0)


def test_a_tuned_model_is_called_as_open_clips_own(tuned_run: TunedRun, photo: Image.Image) -> None:
    """Only where open_clip's forward would leave something out is it another class."""
    model, preprocess, tokenizer = clipft.load(tuned_run("text prompt"))
    assert isinstance(model, TunedClip)
    assert not any(module.training for module in model.modules())
    pixels, tokens = preprocess(photo)[None], tokenizer(["red"])
    with torch.no_grad():
        image, text, scale = model(pixels, tokens)
        assert torch.equal(image, F.normalize(model.encode_image(pixels), dim=-1))
        assert torch.equal(text, model.encode_text(tokens, normalize=True))
        assert model(None, tokens)[0] is None
    assert torch.equal(scale, model.logit_scale.exp())
    assert model.logit_bias is None
    assert model.visual.image_size == (32, 32)
    assert not hasattr(model, "classifier")


def test_block_adapters_work_in_open_clips_own_forward(tuned_run: TunedRun) -> None:
    assert type(clipft.load(tuned_run("block adapters"))[0]) is open_clip.CLIP

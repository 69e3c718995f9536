from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from rich.console import Console, RenderableType

from clipft.errors import InputError
from clipft.evaluate.target import Target, open_target
from clipft.export import export
from clipft.predict import Compute, find_images, nearest_images, predict_classes
from clipft.report.prediction_view import nearest_view, prediction_view

HERE = Compute(torch.device("cpu"), workers=0)
MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def target(make_run: MakeRun, tiny_native: Path) -> Target:
    return open_target(str(make_run(tiny_native)))


def shown(view: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_the_runs_classes_by_its_prompts_as_open_clip_would(target: Target, tiny_photos: Path) -> None:
    """P60: the classes come from the checkpoint, in its order and with its templates."""
    photo = tiny_photos / "red" / "2.png"
    found = predict_classes(target, [str(photo)], HERE)
    model = target.clip.model
    weights = open_clip.build_zero_shot_classifier(
        model, target.clip.tokenizer, ["blue", "green", "red"], ["a {} square.", "{}"]
    )
    with torch.no_grad():
        image = model.encode_image(target.clip.preprocess(Image.open(photo))[None], normalize=True)  # type: ignore[operator]
        shares = (model.logit_scale.exp() * image @ weights).softmax(dim=1)[0]  # type: ignore[operator,union-attr]
    expected = sorted(zip(("blue", "green", "red"), shares.tolist(), strict=True), key=lambda pair: -pair[1])
    assert [choice.name for choice in found.predictions[0].classes] == [name for name, _ in expected]
    assert [c.probability for c in found.predictions[0].classes] == pytest.approx([p for _, p in expected], abs=1e-5)
    assert sum(c.probability for c in found.predictions[0].classes) == pytest.approx(1)


@pytest.mark.parametrize("features", ["projected", "pooled"])
def test_a_classifier_answers_for_its_run_and_for_its_export(
    make_run: MakeRun, tiny_native: Path, tiny_photos: Path, tmp_path: Path, features: str
) -> None:
    """P52: the trained head is what answers after reloading, from the run and from the export."""
    run = make_run(tiny_native, loss="classifier", features=features)
    export(run, tmp_path / "out")
    answers = []
    for name in (run, tmp_path / "out"):
        loaded = open_target(str(name))
        found = predict_classes(loaded, [str(tiny_photos)], HERE)
        assert "classifier" in found.among
        answers.append([(p.image, [(c.name, round(c.probability, 5)) for c in p.classes]) for p in found.predictions])
        with torch.no_grad():
            pixels = loaded.clip.preprocess(Image.open(tiny_photos / "blue" / "0.png"))[None]
            encode = loaded.clip.image.pool if features == "pooled" else loaded.clip.image.encode
            head = loaded.classifier
            assert head is not None
            best = head(torch.nn.functional.normalize(encode(pixels), dim=-1)).argmax()
        assert answers[-1][0][1][0][0] == loaded.classes[int(best)]
    assert answers[0] == answers[1]


def test_texts_of_ones_own_are_whole_prompts(target: Target, tiny_photos: Path) -> None:
    texts = ["a photo of the sea", "a {} in braces"]
    found = predict_classes(target, [str(tiny_photos / "blue" / "0.png")], HERE, texts=texts)
    assert {c.name for c in found.predictions[0].classes} == set(texts)
    assert found.among == "2 texts"
    for wrong in (["only one"], ["twice", "twice"]):
        with pytest.raises(InputError, match="at least two texts"):
            predict_classes(target, [str(tiny_photos)], HERE, texts=wrong)


def test_top_and_threshold(target: Target, tiny_photos: Path) -> None:
    photo = [str(tiny_photos / "blue" / "0.png")]
    assert len(predict_classes(target, photo, HERE, top=2).predictions[0].classes) == 2
    none = predict_classes(target, photo, HERE, threshold=1.01)
    assert none.predictions[0].classes == ()
    assert none.to_json() == [{"image": photo[0], "classes": []}]
    assert "none reaches the threshold" in shown(prediction_view(none), 200)


def test_bad_images_are_named_and_the_others_go_on(target: Target, tiny_photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    good = str(tiny_photos / "red" / "0.png")
    found = predict_classes(target, [str(tmp_path / "broken.jpg"), good, str(tmp_path / "absent.png")], HERE)
    assert [p.image for p in found.predictions] == [good]
    assert [Path(fault.path).name for fault in found.faults] == ["broken.jpg", "absent.png"]
    nothing = predict_classes(target, [str(tmp_path / "broken.jpg")], HERE)
    assert nothing.predictions == ()
    assert len(nothing.faults) == 1


def test_folders_are_searched_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "9.JPG", "notes.txt", "deep/1.webp", ".hidden.png", ".thumbs/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [Path(p).name for p in find_images([str(tmp_path), "given.tiff"])] == [
        "9.JPG",
        "10.png",
        "1.webp",
        "given.tiff",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        find_images([str(tmp_path / "empty")])


def test_json_and_csv_and_terminal(target: Target, tiny_photos: Path) -> None:
    found = predict_classes(target, [str(tiny_photos / "red")], HERE)
    content = json.loads(json.dumps(found.to_json()))
    assert [set(entry) for entry in content] == [{"image", "classes"}] * 4
    assert {name for entry in content for choice in entry["classes"] for name in choice} == {"name", "probability"}
    file = io.StringIO()
    found.write_csv(file)
    lines = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert len(lines) == 12
    assert lines[0]["class"] == content[0]["classes"][0]["name"]
    text = shown(prediction_view(found))
    assert max(map(len, text.splitlines())) <= 80
    assert "a blue square." in text


def test_the_nearest_images_to_a_text(target: Target, tiny_photos: Path) -> None:
    found = nearest_images(target, "something red", [str(tiny_photos)], HERE, top=5)
    model: Any = target.clip.model
    everything = find_images([str(tiny_photos)])
    with torch.no_grad():
        pixels = torch.stack([target.clip.preprocess(Image.open(path)) for path in everything])
        text = model.encode_text(target.clip.tokenizer(["something red"]), normalize=True)
        cosines = (model.encode_image(pixels, normalize=True) @ text.T)[:, 0]
    order = cosines.argsort(descending=True)[:5]
    assert [image for image, _ in found.images] == [everything[i] for i in order]
    assert [cosine for _, cosine in found.images] == pytest.approx(cosines[order].tolist(), abs=1e-5)
    assert found.searched == 12
    assert set(found.to_json()[0]) == {"image", "cosine"}
    assert "among 12 images" in shown(nearest_view(found))
    with pytest.raises(InputError, match="--query: is empty"):
        nearest_images(target, " ", [str(tiny_photos)], HERE)


def test_a_model_without_classes_asks_for_texts(tiny_native: Path, tiny_photos: Path) -> None:
    plain = open_target(str(tiny_native))
    with pytest.raises(InputError, match="brings no classes; name at least two with --text"):
        predict_classes(plain, [str(tiny_photos)], HERE)
    assert predict_classes(plain, [str(tiny_photos)], HERE, texts=["a", "b"]).predictions

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipft.config.dump import dump_config
from clipft.config.schema import Config
from clipft.config.source_schema import FolderSource, TableSource
from clipft.embed.features import Embeddings, embed_target, figures
from clipft.embed.thumbnails import SIDE, Thumbnails, drawn_every
from clipft.errors import ClipftError, InputError
from clipft.evaluate.compare import evaluate_target
from clipft.evaluate.target import open_target
from clipft.export import export
from clipft.model.build import build
from clipft.model.clip_model import ClipModel

CPU = torch.device("cpu")


def both_models(embeddings: Embeddings) -> dict[str, ClipModel]:
    target = open_target(embeddings.target)
    assert target.config is not None
    return {"base": build(target.config.model, 0), "tuned": target.clip}


def test_image_features_are_open_clips_own(labelled: Embeddings) -> None:
    for side, clip in both_models(labelled).items():
        model: Any = clip.model
        paths = [labelled.rows.images[row] for row in range(len(labelled.rows))]
        with torch.no_grad():
            pixels = torch.stack([clip.preprocess(Image.open(path)) for path in paths])
            expected = model.encode_image(pixels, normalize=True)
        found = labelled.sides[side].images[labelled.image_of]  # type: ignore[index]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.equal(labelled.sides["base"].images, labelled.sides["tuned"].images)


def test_class_features_are_open_clips_zero_shot_weights(labelled: Embeddings) -> None:
    templates: Any = [lambda name, t=template: t.replace("{}", name) for template in labelled.templates]
    for side, clip in both_models(labelled).items():
        expected = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, labelled.classes, templates)
        found = labelled.sides[side].classes  # type: ignore[index]
        torch.testing.assert_close(found.T, expected, atol=1e-5, rtol=0)


def test_caption_features_are_open_clips_own(captioned: Embeddings) -> None:
    for side, clip in both_models(captioned).items():
        model: Any = clip.model
        with torch.no_grad():
            expected = model.encode_text(clip.tokenizer(list(captioned.rows.captions or ())), normalize=True)
        captions = captioned.sides[side].captions  # type: ignore[index]
        torch.testing.assert_close(captions[captioned.caption_of], expected, atol=1e-5, rtol=0)


def test_what_rows_share_is_encoded_once(captioned: Embeddings) -> None:
    features = captioned.sides["tuned"]
    assert features.captions is not None
    assert (len(captioned.rows), len(features.images), len(features.captions)) == (9, 8, 7)
    assert captioned.image_of[7] == captioned.image_of[8]
    assert captioned.rows.captions is not None
    assert [captioned.rows.captions[row] for row in captioned.first_captions()] == [
        *("the sea", "the sky", "grass", "a leaf", "a frog", "a rose", "a tomato")
    ]
    assert captioned.labels().tolist() == [0, 0, 0, 1, -1, 1, 2, 2, 2]


def test_figures_are_those_of_evaluate_and_plain_means(captioned: Embeddings, table: Path) -> None:
    source = TableSource(table=str(table), caption="caption", label="colour")
    measured = evaluate_target(captioned.target, source, device=CPU, workers=0)
    assert measured.tuned is not None
    found = figures(captioned, "tuned")
    assert found["zero_shot_top1"] == measured.tuned.metrics["zero_shot_top1"]
    assert found["image_to_text_r1"] == measured.tuned.metrics["image_to_text_r1"]
    tuned = captioned.sides["tuned"]
    assert tuned.captions is not None
    assert tuned.classes is not None
    images, captions = tuned.images[captioned.image_of], tuned.captions[captioned.caption_of]
    assert found["cosine_own_caption"] == pytest.approx(float((images * captions).sum(1).mean()), abs=1e-6)
    assert found["cosine_any_caption"] == pytest.approx(float((images @ tuned.captions.T).mean()), abs=1e-6)
    known = captioned.labels() >= 0
    cosines = images[known] @ tuned.classes.T
    own = cosines[range(8), captioned.labels()[known]]
    assert found["cosine_own_class"] == pytest.approx(float(own.mean()), abs=1e-6)
    assert found["cosine_any_class"] == pytest.approx(float(cosines.mean()), abs=1e-6)


def test_a_config_is_its_base_and_an_export_is_alone(
    labelled: Embeddings, tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    config = Config.model_validate(
        {"model": {"name": f"local-dir:{tiny_native}"}, "data": {"train": {"folder": str(tiny_photos)}, "val": 0.5}}
    )
    (tmp_path / "c.yaml").write_text(dump_config(config), encoding="utf-8")
    alone = embed_target(str(tmp_path / "c.yaml"), None, device=CPU, workers=0)
    assert list(alone.sides) == ["base"]
    assert len(alone.rows) == 6  # its own validation rows

    export(labelled.target, tmp_path / "out")
    source = FolderSource(folder=str(tiny_photos))
    exported = embed_target(str(tmp_path / "out"), source, device=CPU, workers=0)
    assert list(exported.sides) == ["tuned"]
    torch.testing.assert_close(exported.sides["tuned"].images, labelled.sides["tuned"].images, atol=1e-5, rtol=0)
    assert any("does not bring its base" in note for note in exported.notes)


def test_a_run_without_its_base_and_without_data(labelled: Embeddings) -> None:
    found = embed_target(labelled.target, None, device=CPU, workers=0, with_base=False)
    assert list(found.sides) == ["tuned"]
    assert len(found.rows) == 3
    assert "held out" in found.rows.name


def test_a_classifier_run_embeds_classes_that_it_never_saw(
    make_run: Callable[..., Path], tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    """A linear head has no output for them, but prompts can be made of any name."""
    shutil.copytree(tiny_photos / "red", tmp_path / "purple")
    run = make_run(tiny_native, loss="classifier")
    found = embed_target(str(run), FolderSource(folder=str(tmp_path)), device=CPU, workers=0)
    assert found.classes == ("purple",)
    assert any("purple" in note for note in found.notes)


def test_an_image_that_cannot_be_read_is_left_out_and_named(
    tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_photos, tmp_path / "photos")
    (tmp_path / "photos" / "green" / "1.png").write_bytes(b"no picture")
    source = FolderSource(folder=str(tmp_path / "photos"))
    found = embed_target(f"local-dir:{tiny_native}", source, device=CPU, workers=0, thumbnails=100)
    assert len(found.rows) == len(found.image_of) == len(found.thumbnails) == 11
    assert [Path(fault.path).name for fault in found.faults] == ["1.png"]
    assert not any("green/1.png" in found.rows.images[row] for row in range(11))


def test_rows_can_be_refused_before_an_image_is_read(tiny_native: Path, tiny_photos: Path) -> None:
    def check(rows: object) -> None:
        raise InputError("too much")

    def watch(batches: object, total: int) -> Any:
        raise AssertionError("images were read")

    source = FolderSource(folder=str(tiny_photos))
    with pytest.raises(InputError, match="too much"):
        embed_target(f"local-dir:{tiny_native}", source, device=CPU, workers=0, check=check, watch=watch)


def test_features_that_are_no_numbers_are_refused(tiny_native: Path, tiny_photos: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_native, tmp_path / "broken")
    weights = tmp_path / "broken" / "open_clip_model.safetensors"
    tensors = load_file(weights)
    tensors["visual.proj"].fill_(torch.nan)
    save_file(tensors, weights)
    with pytest.raises(ClipftError, match="features of 12 of 12 images are not finite; with --precision fp32"):
        embed_target(f"local-dir:{tmp_path / 'broken'}", FolderSource(folder=str(tiny_photos)), device=CPU, workers=0)


def test_thumbnails_show_the_image_as_the_model_sees_it(labelled: Embeddings) -> None:
    assert all(labelled.thumbnails)
    row = next(r for r in range(12) if "red/2.png" in labelled.rows.images[r])
    thumb = Image.open(io.BytesIO(labelled.thumbnails[labelled.image_of[row]] or b""))
    assert thumb.format == "JPEG"
    assert max(thumb.size) <= SIDE
    assert np.asarray(thumb).mean(axis=(0, 1)).tolist() == pytest.approx([220, 60, 60], abs=15)


@pytest.mark.parametrize(("total", "most"), [(12, 100), (12, 5), (9_001, 2000), (30_000, 2000)])
def test_thumbnails_are_bounded_and_of_images_that_are_drawn(total: int, most: int) -> None:
    every = drawn_every(total)
    kept = Thumbnails(total, every, most, {"mean": (0.5,) * 3, "std": (0.5,) * 3})
    assert kept._every % every == 0
    assert most / 3 < -(-total // kept._every) <= most or total <= most

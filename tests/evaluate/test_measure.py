from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipft.config.schema import ModelConfig
from clipft.config.source_schema import FolderSource, TableSource
from clipft.data.columns import TextColumn
from clipft.data.rows import FileImages, Rows
from clipft.data.sources import read_source
from clipft.errors import ClipftError, InputError
from clipft.evaluate.measure import Measurement, figure_names, higher_is_better, measure
from clipft.evaluate.zeroshot import class_embeddings
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel

CPU = torch.device("cpu")


@pytest.fixture
def clip(tiny_native: Path) -> ClipModel:
    return build(ModelConfig(name=f"local-dir:{tiny_native}"), seed=0)


def figures(
    clip: ClipModel, rows: Rows, templates: tuple[str, ...] = ("a {} thing",), batch_size: int = 5, **options: object
) -> Measurement:
    return measure(clip, rows, templates=templates, batch_size=batch_size, workers=0, device=CPU, **options)  # type: ignore[arg-type]


def captioned(photos: Path, captions: list[str]) -> Rows:
    """Rows of the first images, a caption each; an image may come again by its name's repetition."""
    names = sorted(str(path) for path in photos.rglob("*.png"))[: len(captions)]
    numbers = np.arange(len(names))
    return Rows("rows", FileImages("", TextColumn.of(names)), TextColumn.of(captions), None, (), numbers, numbers)


def test_labels_give_zero_shot_figures_with_what_they_were_measured_on(clip: ClipModel, tiny_photos: Path) -> None:
    """P56, P61: beside each figure stand the source, its images and classes, and three finished prompts."""
    rows = read_source(FolderSource(folder=str(tiny_photos)), {"red": "crimson"})
    found = figures(clip, rows, ("a {} square.", "{}"))
    assert found.data == f"folder {tiny_photos}"
    assert found.counts == {"rows": 12, "images": 12, "unreadable": 0, "classes": 3, "classes_measured": 3}
    assert found.prompts == ("a blue square.", "green", "a crimson square.")
    assert set(found.metrics) == {"zero_shot_top1", "mean_per_class", "ece", "confident_wrong"}
    assert set(found.losses) == {"nll"}
    assert set(found.figures()) == set(figure_names(rows, classifier=False, loss=False))
    assert all(0 <= value <= 1 for value in found.metrics.values())
    assert json.loads(json.dumps(found.to_json()))["metrics"] == found.metrics


def test_captions_give_recall_over_distinct_images_and_captions(
    clip: ClipModel, tiny_photos: Path, tmp_path: Path
) -> None:
    """P57: rows of one image are one image, equal captions one caption, and the pool sizes are told."""
    table = tmp_path / "a.csv"
    lines = ["image,caption", "red/0.png,a", "red/0.png,b", "green/0.png,a", "blue/0.png,c", "blue/1.png,d"]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = read_source(TableSource(table=str(table), caption="caption", root=str(tiny_photos)), {})
    found = figures(clip, rows)
    assert {name: found.counts[name] for name in ("rows", "images", "captions")} == {
        "rows": 5,
        "images": 4,
        "captions": 4,
    }
    assert set(found.figures()) == set(figure_names(rows, classifier=False, loss=False))
    assert found.metrics["image_to_text_r5"] == 1.0  # no more than four to choose from


def test_unreadable_images_are_left_out_counted_and_named(clip: ClipModel, tiny_photos: Path, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
    Image.open(tiny_photos / "red" / "0.png").save(tmp_path / "red" / "0.png")
    Image.open(tiny_photos / "blue" / "0.png").save(tmp_path / "blue" / "0.png")
    (tmp_path / "red" / "1.png").write_bytes((tiny_photos / "red" / "1.png").read_bytes()[:100])
    rows = read_source(FolderSource(folder=str(tmp_path)), {})
    found = figures(clip, rows, loss=lambda image, text, captions, labels, identities: image.sum() * 0 + len(image))
    assert found.counts["rows"] == 2
    assert found.counts["unreadable"] == 1
    assert "red/1.png" in str(found.faults[0])
    assert "red/1.png" in found.to_json()["unreadable"][0]

    (tmp_path / "red" / "0.png").write_bytes(b"no picture")
    (tmp_path / "blue" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ClipftError, match="not one of its images could be read"):
        figures(clip, read_source(FolderSource(folder=str(tmp_path)), {}))


def test_the_loss_is_weighted_by_rows_and_told_with_its_batch_size(clip: ClipModel, tiny_photos: Path) -> None:
    """P59: a contrastive loss is reported on validation rows, over batches of the training size, with that size."""
    rows = captioned(tiny_photos, [f"caption {i}" for i in range(12)])
    sizes: list[int] = []

    def loss(
        image: torch.Tensor,
        text: torch.Tensor | None,
        captions: torch.Tensor,
        labels: torch.Tensor,
        identities: torch.Tensor,
    ) -> torch.Tensor:
        assert text is not None
        assert len(image) == len(text) == len(captions) == len(labels) == len(identities)
        sizes.append(len(image))
        return torch.tensor(float(len(image)))

    found = figures(clip, rows, loss=loss, batch_size=8)
    assert sizes == [8, 4]
    assert found.losses["loss"] == pytest.approx((8 * 8 + 4 * 4) / 12)
    assert found.counts["loss_batch_size"] == 8
    assert "loss" in figure_names(rows, classifier=False, loss=True)


def test_a_loss_among_classes_sees_their_rows_and_all_their_embeddings(clip: ClipModel, tiny_photos: Path) -> None:
    rows = read_source(FolderSource(folder=str(tiny_photos)), {})  # blue, green and red
    asked: list[int] = []

    def loss(image: torch.Tensor, text: torch.Tensor | None, *numbers: torch.Tensor) -> torch.Tensor:
        assert text is not None
        torch.testing.assert_close(text, class_embeddings(clip, ("green", "red"), ("a {} thing",), device=CPU))
        asked.extend(numbers[1].tolist())
        return torch.tensor(1.0)

    found = figures(clip, rows, loss=loss, among=torch.tensor([1, 2]), batch_size=5)
    assert sorted(asked) == [1] * 4 + [2] * 4
    assert found.losses["loss"] == 1.0
    none = figures(clip, rows.take(np.arange(4)), loss=loss, among=torch.tensor([1, 2]))
    assert "loss" not in none.losses


def test_the_loss_sees_each_row_with_its_own_text(clip: ClipModel, tiny_photos: Path) -> None:
    rows = captioned(tiny_photos, ["x", "y", "x", "z"])
    image = torch.cat([clip.preprocess(rows.images.read(i))[None] for i in range(4)])
    with torch.no_grad():
        images = clip.model.encode_image(image, normalize=True)
        texts = clip.model.encode_text(clip.tokenizer(["x", "y", "x", "z"]), normalize=True)

    def loss(
        image: torch.Tensor,
        text: torch.Tensor | None,
        captions: torch.Tensor,
        labels: torch.Tensor,
        identities: torch.Tensor,
    ) -> torch.Tensor:
        assert text is not None
        return (image * text).sum(dim=1).mean()

    found = figures(clip, rows, loss=loss, batch_size=3)
    assert found.losses["loss"] == pytest.approx(float((images * texts).sum(dim=1).mean()), abs=1e-6)


def test_the_loss_is_told_which_rows_show_one_image(clip: ClipModel, tiny_photos: Path) -> None:
    """P20: an image with several captions is a positive of all of them in the validation loss too."""
    rows = replace(captioned(tiny_photos, ["x", "y", "z", "w"]), identities=np.array([7, 3, 7, 9]))
    told: list[tuple[int, int]] = []

    def loss(
        image: torch.Tensor,
        text: torch.Tensor | None,
        captions: torch.Tensor,
        labels: torch.Tensor,
        identities: torch.Tensor,
    ) -> torch.Tensor:
        told.extend(zip(captions.tolist(), identities.tolist(), strict=True))
        return image.sum()

    figures(clip, rows, loss=loss, batch_size=3)
    assert sorted(told) == [(0, 7), (1, 3), (2, 7), (3, 9)]


@pytest.mark.parametrize("pooled", [False, True])
def test_a_classifier_is_measured_by_itself_alone(clip: ClipModel, tiny_photos: Path, pooled: bool) -> None:
    rows = read_source(FolderSource(folder=str(tiny_photos)), {})
    width = clip.image.pooled_width if pooled else clip.image.embed_dim
    clip.model.classifier = Classifier(3, width, cosine=False, bias=True)
    found = figures(clip, rows, pooled=pooled)
    assert set(found.figures()) == set(figure_names(rows, classifier=True, loss=False))
    assert "classifier_top1" in found.metrics
    assert found.prompts == ()

    with pytest.raises(InputError, match="expected labels for its classifier"):
        figures(clip, captioned(tiny_photos, ["x", "y"]), pooled=pooled)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_classifier_can_be_measured_by_texts_too(clip: ClipModel, tiny_photos: Path, pooled: bool) -> None:
    rows = read_source(FolderSource(folder=str(tiny_photos)), {})
    plain = figures(clip, rows)
    clip.model.classifier = Classifier(
        3, clip.image.pooled_width if pooled else clip.image.embed_dim, cosine=False, bias=True
    )
    alone = figures(clip, rows, pooled=pooled, loss=weights_of_rows)
    both = figures(clip, rows, pooled=pooled, texts_too=True, loss=weights_of_rows)
    assert both.figures() == plain.figures() | alone.figures()
    assert both.prompts == plain.prompts


def weights_of_rows(image: torch.Tensor, text: torch.Tensor | None, *numbers: torch.Tensor) -> torch.Tensor:
    assert text is None
    return image.abs().sum()


def test_directions() -> None:
    assert higher_is_better("image_to_text_r5")
    assert higher_is_better("classifier_mean_per_class")
    lower = ("loss", "nll", "ece", "confident_wrong", "classifier_nll", "classifier_ece", "classifier_confident_wrong")
    assert not any(higher_is_better(name) for name in lower)

"""Few shots: the same images for the same draw, whatever else is random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipft.config.data_schema import DataConfig
from clipft.data.digest import data_sha256
from clipft.data.rows import Rows
from clipft.data.shots import shots_in_words
from clipft.data.sources import Splits, read_splits
from clipft.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of 12, 12 and 3 different pictures."""
    for label, (name, count) in enumerate((("ant", 12), ("bee", 12), ("cow", 3))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, label, 9)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def splits(photos: Path, shots: object, *, seed: int = 0, **keys: object) -> Splits:
    data = {"train": {"folder": str(photos)}, "val": None, "shots": shots, **keys}
    return read_splits(DataConfig.model_validate(data), seed)


def names(rows: Rows) -> set[str]:
    return {rows.images[i] for i in range(len(rows))}


def test_so_many_images_of_each_class_are_drawn_and_short_classes_named(photos: Path) -> None:
    found = splits(photos, 5)
    assert found.train.class_counts().tolist() == [5, 5, 3]
    assert found.warnings == (f"folder {photos}: 1 class with fewer than 5 images to draw: cow (3); all are taken",)
    assert splits(photos, 3).warnings == ()


def test_a_draw_is_its_own_seeds_alone(photos: Path) -> None:
    """Three draws can be compared: run.seed, and what is held out by it, leave the draw's order alone."""
    first = names(splits(photos, 4).train)
    assert first == names(splits(photos, {"per_class": 4}).train)
    assert first == names(splits(photos, {"per_class": 4, "seed": 0}, seed=7).train)
    others = [names(splits(photos, {"per_class": 4, "seed": seed}).train) for seed in (1, 2)]
    assert first not in others
    assert others[0] != others[1]
    assert first < names(splits(photos, 8).train)  # fewer shots are among the more
    held_out = splits(photos, 4, val=0.25, seed=3)
    assert held_out.val is not None
    assert not names(held_out.train) & names(held_out.val)
    assert first - names(held_out.val) <= names(held_out.train)


def test_images_are_drawn_not_rows(photos: Path, tmp_path: Path) -> None:
    """An image with three captions is one shot, and brings all three; a row without a class is not drawn."""
    lines = ["image,caption,label"]
    for name in ("ant", "bee"):
        lines += [f"photos/{name}/{i}.png,{name} {i} from {side},{name}" for i in range(6) for side in "abc"]
    lines.append("photos/cow/0.png,a cow,")
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = {"table": str(tmp_path / "a.csv"), "caption": "caption", "label": "label"}
    rows = splits(photos, 2, train=source).train
    assert rows.class_counts().tolist() == [6, 6]
    assert len(rows) == 12
    assert len(np.unique(rows.identities)) == 4
    assert rows.captions is not None
    assert list(rows.captions)[:3] == [f"ant {rows.images[0][-5]} from {side}" for side in "abc"]


def test_rows_without_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\nphotos/ant/0.png,an ant\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"data\.shots: draws images of each class, and .* name a label column"):
        splits(photos, 2, train={"table": str(tmp_path / "a.csv"), "caption": "caption"})


def test_another_draw_is_other_data(photos: Path) -> None:
    """A resume under another draw is refused, since the data's digest differs."""
    draws = [splits(photos, {"per_class": 4, "seed": seed}) for seed in (0, 1, 0)]
    first, other, again = map(data_sha256, draws)
    assert first == again
    assert first != other


def test_a_draw_in_words() -> None:
    data = DataConfig.model_validate({"train": {"builtin": "hands"}, "shots": 16})
    assert data.draw is not None
    assert shots_in_words(data.draw) == "16 shots a class (draw 0)"

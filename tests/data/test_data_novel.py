"""Base and novel classes: who leaves training, and who is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clipft.config.data_schema import DataConfig
from clipft.data.sources import Splits, read_splits
from clipft.errors import InputError

CLASSES = ("0", "1", "2", "10", "11")


def photos(root: Path, classes: tuple[str, ...] = CLASSES, shade: int = 0) -> dict[str, str]:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (i, label, shade)).save(root / name / f"{i}.png")
    return {"folder": str(root)}


def splits(train: object, val: object, novel: object, **keys: object) -> Splits:
    return read_splits(DataConfig.model_validate({"train": train, "val": val, **keys}), 0, novel)  # type: ignore[arg-type]


def test_half_is_the_second_half_in_the_classes_own_order(tmp_path: Path) -> None:
    """P54, P62: of five classes three stay; labels and class list of both splits stay those of all five."""
    found = splits(photos(tmp_path / "a"), photos(tmp_path / "b", shade=1), "half")
    assert found.train.novel == ("10", "11")
    assert found.train.class_counts().tolist() == [4, 4, 4, 0, 0]
    assert found.val is not None
    assert found.val.novel == ("10", "11")
    assert found.val.class_counts().tolist() == [4, 4, 4, 4, 4]
    assert found.val.classes == found.train.classes == CLASSES


def test_names_may_be_those_of_the_folders_or_the_words_for_them(tmp_path: Path) -> None:
    source = photos(tmp_path / "a")
    for asked in (("1", "10"), ("one", "ten")):
        found = splits(source, 0.25, asked, class_names={"1": "one", "10": "ten"})
        assert found.train.novel == ("one", "ten")
        assert found.train.class_counts().tolist() == [3, 0, 3, 0, 3]
        assert found.val is not None
        assert found.val.class_counts().tolist() == [1, 1, 1, 1, 1]


def test_a_novel_class_may_be_in_the_validation_rows_alone(tmp_path: Path) -> None:
    found = splits(photos(tmp_path / "a", ("0", "1")), photos(tmp_path / "b", ("0", "2"), shade=1), ("2",))
    assert found.train.classes == ("0", "1", "2")
    assert found.val is not None
    assert found.val.class_counts().tolist() == [4, 0, 4]
    with pytest.raises(InputError, match="has 1 class that training lacks: 2"):
        splits({"folder": str(tmp_path / "a")}, {"folder": str(tmp_path / "b")}, ("1",))


def test_shots_are_drawn_of_the_base_classes(tmp_path: Path) -> None:
    found = splits(photos(tmp_path / "a"), 0.25, "half", shots=2)
    assert found.train.class_counts().tolist() == [2, 2, 2, 0, 0]
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("tow",), r"evaluate\.novel_classes: no class 'tow'; the classes are 0, 1, 2, 10, 11"),
        (("1", "110"), r"no class '110' \(did you mean '11'\?\)"),
        (CLASSES, "names all 5 classes, so none is left to train on"),
        (("0",), r"has no row of a novel class to measure on: 0"),
        (("1", "2", "10", "11"), r"has no row of a base class to measure on: 0"),
    ],
)
def test_what_cannot_be_parted_is_refused(tmp_path: Path, asked: tuple[str, ...], message: str) -> None:
    train, val = photos(tmp_path / "a"), photos(tmp_path / "b", CLASSES[1:], shade=1)
    with pytest.raises(InputError, match=message):
        splits(train, val, asked)


def test_captions_alone_have_no_classes_to_part(tmp_path: Path) -> None:
    photos(tmp_path / "a")
    (tmp_path / "a.csv").write_text("image,caption\na/0/0.png,x\na/1/0.png,y\n", encoding="utf-8")
    with pytest.raises(InputError, match="needs rows of at least two classes"):
        splits({"table": str(tmp_path / "a.csv"), "caption": "caption"}, 0.5, "half")

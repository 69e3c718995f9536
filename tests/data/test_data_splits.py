"""Training and validation never share an image, and the same seed divides the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipft.config.data_schema import DataConfig
from clipft.data.columns import TextColumn
from clipft.data.identity import identify
from clipft.data.rows import FileImages, Rows
from clipft.data.sources import Splits, read_splits
from clipft.data.splits import hold_out
from clipft.errors import InputError


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, number // 256, 9)).save(path)


def folder(root: Path, per_class: int = 20, classes: int = 3) -> Path:
    for label in range(classes):
        for i in range(per_class):
            picture(root / f"class{label}" / f"{i}.png", label * 1000 + i)
    return root


def splits(seed: int = 0, **keys: object) -> Splits:
    return read_splits(DataConfig.model_validate(keys), seed)


def names(rows: Rows | None) -> set[str]:
    assert rows is not None
    return {rows.images[i] for i in range(len(rows))}


def test_a_fraction_is_held_out_class_by_class(tmp_path: Path) -> None:
    source = {"folder": str(folder(tmp_path))}
    both = splits(train=source, val=0.1)
    assert both.val is not None
    assert both.val.class_counts().tolist() == [2, 2, 2]
    assert both.train.class_counts().tolist() == [18, 18, 18]
    assert not names(both.train) & names(both.val)
    assert any("6 of 60 rows held out for validation, by image" in note for note in both.notes)


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    source = {"folder": str(folder(tmp_path))}
    first, again, other = (names(splits(seed, train=source, val=0.2).val) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_small_classes_add_up_to_the_fraction(tmp_path: Path) -> None:
    both = splits(train={"folder": str(folder(tmp_path, per_class=4, classes=5))}, val=0.1)
    assert len(both.val or ()) == 2
    assert any("no row of" in note for note in both.notes)


def test_captions_of_one_image_stay_together(tmp_path: Path) -> None:
    """P10, P57: several captions of one image, and byte-identical copies of it, are in one split."""
    lines = ["image,caption"]
    for i in range(12):
        picture(tmp_path / f"{i}.png", i)
        (tmp_path / f"copy{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
        lines += [f"{i}.png,first {i}", f"{i}.png,second {i}", f"copy{i}.png,third {i}"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    for seed in range(5):
        both = splits(seed, train={"table": str(tmp_path / "t.csv"), "caption": "caption"}, val=0.25)
        assert both.val is not None
        assert len(both.val) == 9
        assert not set(both.train.identities) & set(both.val.identities)
        assert all(count == 3 for count in np.unique(both.val.identities, return_counts=True)[1])


def test_rows_of_a_group_stay_together(tmp_path: Path) -> None:
    """P57: a group column (a patient, a signer) is never divided, nor an image that two groups share."""
    lines = ["image,caption,who"]
    for i in range(40):
        picture(tmp_path / f"{i}.png", i)
        lines.append(f"{i}.png,caption {i},signer{i // 4}")
    lines.append("0.png,again,signer9")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = {"table": str(tmp_path / "t.csv"), "caption": "caption", "group": "who"}
    for seed in range(8):
        both = splits(seed, train=source, val=0.3)
        assert both.val is not None
        assert not set(both.train.groups) & set(both.val.groups)
        assert not set(both.train.identities) & set(both.val.identities)
        assert 8 <= len(both.val) <= 16
    assert any("by group" in note for note in both.notes)


def test_images_in_both_splits_are_said(tmp_path: Path) -> None:
    """P10: the overlap of train and val is found by content, with examples, whatever the files are called."""
    train, val = folder(tmp_path / "train", per_class=5), tmp_path / "val"
    picture(val / "class0" / "new.png", 99)
    for i in range(2):
        (val / "class0" / f"other-name{i}.png").write_bytes((train / "class1" / f"{i}.png").read_bytes())
    both = splits(train={"folder": str(train)}, val={"folder": str(val)})
    note = next(note for note in both.warnings if "byte for byte" in note)
    assert "2 of 3 validation images are in training too" in note
    assert f"{val}/class0/other-name0.png = {train}/class1/0.png" in note


def test_no_overlap_is_not_mentioned(tmp_path: Path) -> None:
    both = splits(train={"folder": str(folder(tmp_path, 4))}, val=0.25)
    assert not both.warnings


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "t" / "cat" / f"{i}.png", 1)
    with pytest.raises(InputError, match=r"data.val: 0.5 .* all share one image or group"):
        splits(train={"folder": str(tmp_path / "t")}, val=0.5)


def test_no_validation(tmp_path: Path) -> None:
    assert splits(train={"folder": str(folder(tmp_path, 2))}, val=None).val is None


def test_only_copies_are_the_same(tmp_path: Path) -> None:
    tail = bytes(5000)
    contents = [b"a" + tail, b"b" + tail, b"a" + tail, b"", b"", b"short"]  # equal sizes, equal tails, other heads
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    images = FileImages(str(tmp_path), TextColumn.of(["0", "1", "2", "3", "4", "5", "0", "none", "./0"]))
    found = identify([images])[0]
    assert found.ids.tolist() == [0, 1, 0, 3, 4, 5, 0, 7, 0]
    assert found.absent.tolist() == [3, 4, 7]


def test_holding_out_follows_components_only() -> None:
    images = FileImages("", TextColumn.of(str(i) for i in range(100)))
    numbers = np.arange(100)
    rows = Rows("rows", images, None, None, (), identities=numbers // 2, groups=numbers // 10)
    stay, outside = hold_out(rows, 0.2, seed=3)
    assert len(outside) == 20
    assert sorted([*stay, *outside]) == list(range(100))
    assert not set(rows.groups[stay]) & set(rows.groups[outside])

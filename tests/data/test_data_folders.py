"""Folders of classes, and images beside their captions."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clipft.config.data_schema import DataConfig
from clipft.config.source_schema import FolderSource, SidecarSource
from clipft.data.sources import Rows, Splits, read_source, read_splits
from clipft.errors import InputError


def images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 7 % 256, number // 36, hash(str(root)) % 256)).save(path)
    return root


def folder(path: Path) -> Rows:
    return read_source(FolderSource(folder=str(path)), {})


def splits(train: Path, val: Path, **keys: object) -> Splits:
    data = {"train": {"folder": str(train)}, "val": {"folder": str(val)}, **keys}
    return read_splits(DataConfig.model_validate(data), 0)


def test_classes_are_folders_in_natural_order(tmp_path: Path) -> None:
    rows = folder(images(tmp_path, "10/a.png", "2/b.png", "2/deep/er/c.png", "1/d.png"))
    assert rows.classes == ("1", "2", "10")
    assert rows.labels is not None
    assert [(rows.images[i].removeprefix(f"{tmp_path}/"), rows.classes[rows.labels[i]]) for i in range(4)] == [
        ("1/d.png", "1"),
        ("2/b.png", "2"),
        ("2/deep/er/c.png", "2"),
        ("10/a.png", "10"),
    ]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.png", "dog/b.png", "loose.png", ".hidden/c.png", "cat/._a.png", "__MACOSX/cat/a.png")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "LICENSE").write_text("x")
    (tmp_path / "empty").mkdir()
    rows = folder(tmp_path)
    assert rows.classes == ("cat", "dog", "empty")
    assert len(rows) == 2
    notes = "\n".join(rows.notes)
    assert "2 files left out, no image by suffix" in notes
    assert "1 image beside the class folders left out, of no class: loose.png" in notes
    assert "no image in empty" in notes


def test_a_ring_of_links_ends(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.png")
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    assert len(folder(tmp_path)) == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.png", "b.png"), "holds no class folder, only 2 images such as a.png"),
        (("train/cat/a.png", "val/cat/a.png"), "holds the splits train, val, not classes"),
        ((), "holds no class folder and no image"),
    ],
)
def test_a_folder_that_is_no_folder_of_classes(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        folder(images(tmp_path, *names))
    assert str(tmp_path) in str(caught.value)
    if names and names[0] == "a.png":
        assert "{sidecar: " in str(caught.value)
        assert "{table: " in str(caught.value)
        with pytest.raises(InputError, match=f"write sidecar:{tmp_path}, with a table table:FILE.csv,caption=COLUMN"):
            read_source(FolderSource(folder=str(tmp_path)), {}, "--data")


def test_class_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="1 class folder but no image"):
        folder(tmp_path)


def test_a_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    images(tmp_path / "data" / "hands", "one/a.png")
    with pytest.raises(InputError, match=r"data.folder: .*hnads does not exist \(.*hands does\)"):
        folder(tmp_path / "data" / "hnads")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        folder(tmp_path / "data" / "hands" / "one" / "a.png")


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"to make it: python scripts/prepare_signdigits.py --source CLONE"):
        folder(Path("data/signdigits/train"))


def test_val_labels_index_the_training_classes(tmp_path: Path) -> None:
    """P60: splits are matched by class name, not by folder order; fewer classes are said."""
    train = images(tmp_path / "train", "1/a.png", "2/b.png", "10/c.png")
    val = images(tmp_path / "val", "10/a.png", "2/b.png")
    both = splits(train, val)
    assert both.val is not None
    assert both.val.classes == both.train.classes == ("1", "2", "10")
    assert both.val.labels is not None
    assert [both.val.classes[label] for label in both.val.labels] == ["2", "10"]
    assert any("has 2 of 3 classes; without 1" in note for note in both.notes)


def test_a_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    """P60: a class in val alone stops the run and is named."""
    train = images(tmp_path / "train", "cat/a.png", "dog/b.png")
    val = images(tmp_path / "val", "cat/a.png", "Dog/b.png")
    with pytest.raises(InputError, match=r"has 1 class that training lacks: Dog.*did you mean dog\?"):
        splits(train, val)


def test_class_names_may_map_a_folder_that_only_val_has(tmp_path: Path) -> None:
    train, val = images(tmp_path / "train", "cat/a.png", "dog/b.png"), images(tmp_path / "val", "cats/c.png")
    with pytest.raises(InputError, match=r"'?cats'?.*data.class_names can map names"):
        splits(train, val)
    both = splits(train, val, class_names={"cats": "cat"})  # the advice that it gave
    assert both.val is not None
    assert both.val.classes == both.train.classes == ("cat", "dog")


def test_class_names_are_said_in_words(tmp_path: Path) -> None:
    train = images(tmp_path / "train", "0/a.png", "1/b.png")
    val = images(tmp_path / "val", "0/c.png", "one/d.png")
    both = splits(train, val, class_names={"0": "zero", "1": "one"})
    assert both.train.classes == ("zero", "one")
    assert both.val is not None
    assert both.val.classes == ("zero", "one")
    with pytest.raises(InputError, match=r"data.class_names: no class 'O'.*the classes are 0, 1"):
        splits(train, val, class_names={"O": "zero"})
    with pytest.raises(InputError, match="0, 1 would all be called 'same'"):
        splits(train, val, class_names={"0": "same", "1": "same"})
    # a test set may lack classes that the run has names for
    assert read_source(FolderSource(folder=str(val)), {"0": "zero", "9": "nine"}).classes == ("zero", "one")


def test_captions_beside_images(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.jpg", "deep/c.png", "lonely.png", "blank.png")
    for stem, text in {
        "a": "\ufeffan apple\n",
        "b": " two\nlines ",
        "deep/c": "deep",
        "unused": "x",
        "blank": " ",
    }.items():
        (tmp_path / f"{stem}.txt").write_text(text, encoding="utf-8")
    rows = read_source(SidecarSource(sidecar=str(tmp_path)), {})
    assert list(rows.captions or ()) == ["an apple", "two lines", "deep"]
    notes = "\n".join(rows.notes)
    assert "1 images without a .txt left out: lonely.png" in notes
    assert "1 .txt without an image left out: unused.txt" in notes
    assert "1 empty .txt left out: blank.txt" in notes


@pytest.mark.parametrize(
    ("raw", "words"), [(b"caf\xe9", "is not UTF-8"), (b"a\0b", "NUL"), (b"x" * 70_000, "over 64 KB")]
)
def test_a_caption_that_is_no_text(tmp_path: Path, raw: bytes, words: str) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(InputError, match=words) as caught:
        read_source(SidecarSource(sidecar=str(tmp_path)), {})
    assert "a.txt" in str(caught.value)


def test_a_folder_without_captions(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"holds no image with a caption \(1 image, 0 .txt\)"):
        read_source(SidecarSource(sidecar=str(tmp_path)), {})


def test_a_class_without_images_to_train_on_is_a_warning(tmp_path: Path) -> None:
    """Its name stays among the classes; one that is meant to be novel is no mistake."""
    images(tmp_path, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(4)))
    (tmp_path / "fox").mkdir()
    data = DataConfig(train=FolderSource(folder=str(tmp_path)), val=0.25)
    (warning,) = read_splits(data, seed=0).warnings
    assert "no image of fox to train on, so it is not learnt" in warning
    assert warning.endswith("add images, or remove the folder")
    assert read_splits(data, 0, novel=("dog", "fox")).warnings == ()

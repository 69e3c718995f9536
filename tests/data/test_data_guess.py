"""What `clipft init` takes --data for: told by looking into it, and said where it was guessed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from clipft.config.source_schema import FolderSource, HandsSource, SidecarSource, TableSource
from clipft.data.guess import guess_sources
from clipft.errors import InputError


def files(root: Path, names: Iterable[str]) -> Path:
    """Empty files; a guess opens no image."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def table(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_class_folders(tmp_path: Path) -> None:
    files(tmp_path, ["cat/1.jpg", "dog/deep/2.PNG", "notes.md", ".hidden/3.jpg"])
    guess = guess_sources(str(tmp_path))
    assert (guess.train, guess.val) == (FolderSource(folder=str(tmp_path)), None)


def test_splits_of_class_folders(tmp_path: Path) -> None:
    files(tmp_path, [f"{split}/{name}/1.jpg" for split in ("Train", "valid", "test") for name in ("cat", "dog")])
    guess = guess_sources(str(tmp_path))
    assert guess.train == FolderSource(folder=f"{tmp_path}/Train")
    assert guess.val == FolderSource(folder=f"{tmp_path}/valid")
    assert guess.said == (f"left for clipft evaluate afterwards: {tmp_path}/test",)
    for one in (f"folder:{tmp_path}/Train", f"{tmp_path}/Train/"):
        again = guess_sources(one)
        assert (again.val, again.said) == (guess.val, guess.said)


def test_captions_beside_the_images(tmp_path: Path) -> None:
    files(tmp_path, ["a/1.jpg", "a/1.txt", "b/2.jpg", "b/2.txt"])
    assert guess_sources(str(tmp_path)).train == SidecarSource(sidecar=str(tmp_path))


def test_a_table_in_a_folder_of_images(tmp_path: Path) -> None:
    files(tmp_path, ["images/1.jpg", "README.md"])
    path = table(tmp_path / "all.csv", "File Name,Alt-Text,book", "images/1.jpg,a cat,x")
    guess = guess_sources(str(tmp_path))
    assert guess.train == TableSource(table=path, image="File Name", caption="Alt-Text")
    assert guess.said == ("columns guessed from their names: image = File Name, caption = Alt-Text",)


def test_a_column_of_splits(tmp_path: Path) -> None:
    rows = ("1.jpg,cat,train", "2.jpg,dog,val", "3.jpg,dog,test")
    guess = guess_sources(table(tmp_path / "a.csv", "image,label,split", *rows))
    assert isinstance(guess.train, TableSource)
    assert isinstance(guess.val, TableSource)
    assert (guess.train.split, guess.val.split, guess.train.label) == ("split=train", "split=val", "label")
    assert guess.said[-1] == "rows with split = test (1 rows) are left for clipft evaluate afterwards"


def test_images_are_found_by_their_cells_and_beside_the_table(tmp_path: Path) -> None:
    files(tmp_path, ["pictures/1.jpg"])
    guess = guess_sources(table(tmp_path / "a.tsv", "what\tclass", "1.jpg\tcat"))
    assert guess.train == TableSource(
        table=str(tmp_path / "a.tsv"), image="what", label="class", root=str(tmp_path / "pictures")
    )
    assert f"image paths are taken from the folder {tmp_path}/pictures" in guess.said


def test_a_table_beside_it_measures(tmp_path: Path) -> None:
    lines = ("image,caption", "1.jpg,a cat")
    path, other = table(tmp_path / "x_train.csv", *lines), table(tmp_path / "x_val.csv", *lines)
    val = guess_sources(path).val
    assert isinstance(val, TableSource)
    assert val.table == other
    assert guess_sources(str(tmp_path)) == guess_sources(path)


def test_columns_that_were_named_stay(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "image,caption,photo,kind", "1.jpg,a cat,2.jpg,cat")
    assert guess_sources(f"table:{path},image=photo,label=kind").train == TableSource(
        table=path, image="photo", label="kind"
    )
    assert guess_sources(f"table:{path},image=photo").train == TableSource(table=path, image="photo", caption="caption")


def test_drawn_hands() -> None:
    assert guess_sources("builtin:hands,count=5").train == HandsSource(builtin="hands", count=5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.jpg", "2.jpg"], "holds 2 images such as 1.jpg, and neither a .txt beside them nor a table; expected"),
        (["cat/1.jpg"], "holds 0 images, one folder of images (cat), and neither"),
        (["a.md"], "holds 0 folders and 1 file, but no image (a.md)"),
        ([], "holds 0 folders and 0 files, but no image"),
        (["a.csv", "b.csv"], "holds 2 tables, a.csv, b.csv; name one of them"),
        (["val/cat/1.jpg", "test/cat/1.jpg"], "holds test, val but no train"),
    ],
)
def test_what_is_there_is_said(tmp_path: Path, names: list[str], message: str) -> None:
    files(tmp_path, names)
    with pytest.raises(InputError) as caught:
        guess_sources(str(tmp_path))
    assert str(caught.value).startswith(f"--data: {tmp_path} {message}")


def test_a_table_that_does_not_tell_its_columns(tmp_path: Path) -> None:
    """P1: the columns that are there are named."""
    path = table(tmp_path / "a.csv", "x,y", "1,2")
    with pytest.raises(InputError, match=r"--data: .* has no column whose name tells .* it has 'x', 'y'\. Name them"):
        guess_sources(path)
    with pytest.raises(InputError, match="nowhere does not exist"):
        guess_sources("nowhere")
    with pytest.raises(InputError, match="is not UTF-8"):
        guess_sources("a\udcff")
    with pytest.raises(InputError, match=r"a\.jpg is no table"):
        guess_sources(str(files(tmp_path, ["a.jpg"]) / "a.jpg"))

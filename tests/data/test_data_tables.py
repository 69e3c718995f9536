"""Tables become rows of text whatever their form; what is wrong is named by column and line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipft.config.data_schema import DataConfig
from clipft.config.source_schema import TableSource
from clipft.data.sources import Rows, read_source, read_splits
from clipft.errors import InputError


def read(path: Path, **keys: Any) -> Rows:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        if not (path.parent / name).exists():
            Image.new("RGB", (4, 4), "red").save(path.parent / name)
    return read_source(TableSource(table=str(path), **keys), {})


def refused(path: Path, **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **keys)
    assert str(path) in str(caught.value)
    return str(caught.value)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_the_separator_is_found(tmp_path: Path, separator: str, suffix: str) -> None:
    """P1: a file with the right header is read whatever its separator, even where captions are full of others."""
    lines = [("image", "caption"), ("a.png", "one, two, three" if separator != "," else "x; y; z"), ("b.png", "four")]
    path = write(tmp_path / f"t.{suffix}", "\n".join(separator.join(line) for line in lines))
    rows = read(path, caption="caption")
    assert list(rows.captions or ()) == [lines[1][1], "four"]


def test_a_missing_column_shows_what_was_found(tmp_path: Path) -> None:
    """P1: the message has the separator used, the columns found and the nearest name."""
    message = refused(write(tmp_path / "t.csv", "filepath\ttitle\na.png\tx\n"), image="filepath", caption="titel")
    assert "no column 'titel' (data.caption)" in message
    assert "separated by a tab" in message
    assert "'filepath', 'title'" in message
    assert "did you mean 'title'?" in message


def test_words_stay_words(tmp_path: Path) -> None:
    """P2: None, NA, null and nan are captions and labels; so are numbers with leading zeros."""
    words = ["None", "NA", "null", "nan", "007", "1e5", "TRUE"]
    text = "image,caption,kind\n" + "".join(f"a.png,{word},{word}\n" for word in words)
    rows = read(write(tmp_path / "t.csv", text), caption="caption", label="kind")
    assert list(rows.captions or ()) == words
    assert rows.labels is not None
    assert [rows.classes[label] for label in rows.labels] == words


def test_empty_cells_are_listed_with_their_lines(tmp_path: Path) -> None:
    """P2: rows without a caption or an image are left out and named before training."""
    text = 'image,caption\na.png,one\nb.png,\n,two\nc.png,"  "\nd.png,three\n'
    rows = read(write(tmp_path / "t.csv", text), caption="caption")
    assert list(rows.captions or ()) == ["one", "three"]
    assert [rows.place(0), rows.place(1)] == [f"{tmp_path}/t.csv:2", f"{tmp_path}/t.csv:6"]
    assert any("2 rows without a caption left out (lines 3, 5)" in note for note in rows.notes)
    assert any("1 row without an image left out (line 4)" in note for note in rows.notes)


def test_a_row_with_a_caption_may_lack_a_label(tmp_path: Path) -> None:
    text = "image,caption,kind\na.png,one,x\nb.png,two,\n"
    rows = read(write(tmp_path / "t.csv", text), caption="caption", label="kind")
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, -1]
    assert any("1 row without a label (line 3)" in note for note in rows.notes)


def test_bom_quotes_and_newlines(tmp_path: Path) -> None:
    text = '\ufeffimage,caption\r\na.png,"says ""hi"",\r\nthen goes"\r\n\r\nb.png, "a, b"\r\n'
    rows = read(write(tmp_path / "t.csv", text), caption="caption")
    assert list(rows.captions or ()) == ['says "hi", then goes', "a, b"]
    assert rows.lines is not None
    assert rows.lines.tolist() == [2, 5]


def test_a_caption_template_over_columns(tmp_path: Path) -> None:
    text = "image,material,kind,century\na.png,bronze,coin,3rd\nb.png,,ring,5th\n"
    rows = read(write(tmp_path / "t.csv", text), caption="a {material} {kind} from the {century} century")
    assert list(rows.captions or ()) == ["a bronze coin from the 3rd century"]
    assert any("without a caption left out (line 3)" in note for note in rows.notes)
    assert "no column 'metal'" in refused(tmp_path / "t.csv", caption="a {metal} {kind}")


def test_a_split_column_takes_its_rows(tmp_path: Path) -> None:
    text = "image,caption,split\na.png,one,train\nb.png,two,val\nc.png,three,train\n"
    path = write(tmp_path / "t.csv", text)
    assert list(read(path, caption="caption", split="split=train").captions or ()) == ["one", "three"]
    message = refused(path, caption="caption", split="split=vla")
    assert "no row with split=vla; the column has train (2 rows), val (1 rows); did you mean split=val?" in message


def test_images_below_a_root(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "e.png")
    path = write(tmp_path / "t.csv", "image,caption\ne.png,one\n")
    assert "its `root`" in refused(path, caption="caption")
    rows = read(path, caption="caption", root=str(tmp_path / "pictures"))
    assert rows.images.read(0).size == (4, 4)
    assert "is not a folder" in _refusal(TableSource(table=str(path), caption="caption", root=str(tmp_path / "no")))


def _refusal(source: TableSource) -> str:
    with pytest.raises(InputError) as caught:
        read_source(source, {})
    return str(caught.value)


def test_json_lines(tmp_path: Path) -> None:
    values = [
        {"image": "a.png", "caption": "None", "tags": ["x", "y"], "kind": 3},
        {"image": "b.png", "caption": None, "tags": [], "kind": 3},
        {"image": "c.png", "caption": "half \ud83d", "kind": True},
    ]
    path = write(tmp_path / "t.jsonl", "\n\n".join(json.dumps(value) for value in values))
    rows = read(path, caption="caption", label="kind")
    assert list(rows.captions or ()) == ["None", "half \ufffd"]
    assert rows.classes == ("3", "true")
    assert list(read(path, caption="{tags}").captions or ()) == ["x, y"]


def test_parquet_equals_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"image": ["a.png", "b.png", "c.png"], "caption": ["NA", None, "three"], "kind": [1, 2, 1]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    write(tmp_path / "t.csv", "image,caption,kind\na.png,NA,1\nb.png,,2\nc.png,three,1\n")
    ours, text = (read(tmp_path / name, caption="caption", label="kind") for name in ("t.parquet", "t.csv"))
    assert list(ours.captions or ()) == list(text.captions or ()) == ["NA", "three"]
    assert ours.classes == text.classes == ("1",)
    assert "holds bytes, not text" in refused(_bytes_table(tmp_path), caption="caption")


def _bytes_table(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"image": [b"\xff\xd8"], "caption": ["x"]}), folder / "b.parquet")
    return folder / "b.parquet"


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pip install 'clipft[parquet]'" in refused(write(tmp_path / "t.parquet", b"PAR1...PAR1"), caption="x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"image,caption\na.png,caf\xe9\n", ":2: is not UTF-8 (byte 0xe9"),
        (b"image,caption\na.png,x\0y\n", ":2: holds a NUL byte"),
        (
            b"image,caption\na.png,x,y\nb.png\nc.png,z\n",
            "2 rows do not have the header's 2 fields: line 2 (3), line 3 (1)",
        ),
        (b'image,caption\na.png,"open\nb.png,x\n', ":2: is not a comma-separated row"),
        (b"", "is empty"),
        (b"  \n\n", "is empty"),
        (b"image,caption\n", "has no rows"),
        (b"image,caption\na.png,\n", "1 row without a caption left out (line 2)"),
        ("image,caption\na.png,x\n".encode("utf-16"), "is UTF-16 text"),
        (b"PK\x03\x04xlsx", "is an Excel or ZIP file"),
        (b"\x1f\x8b\x08", "is compressed (gzip)"),
        (b"image,caption,caption\na.png,x,y\n", "column 'caption' (data.caption) is there 2 times"),
        (b"just some words\nand more\n", "no column 'image'"),
    ],
)
def test_a_bad_table_is_named_by_line(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(write(tmp_path / "t.csv", content), caption="caption")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"image": "a.png"}]', ":1: is a JSON list; expected one object a line"),
        (b'{"image": "a.png", "caption": "x"}\n{"image":', ":2: is not JSON"),
        (b"[" * 100_000, ":1: is not JSON (too deep or too long)"),
        (b'{"image": "a.png", "caption": {"en": "x"}}', ":1: column 'caption' holds dict, not text"),
        (b'{"image": "a.png", "caption": [["x"]]}', ":1: column 'caption' holds list, not text"),
        (b'{"image": "a.png"}', "no column 'caption'"),
        (b'{"image": 1' + b"0" * 5000 + b"}", ":1: is not JSON"),
    ],
)
def test_bad_json_is_named_by_line(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(write(tmp_path / "t.jsonl", content), caption="caption")


def test_a_table_that_is_not_there_names_one_that_is(tmp_path: Path) -> None:
    write(tmp_path / "captions.csv", "image,caption\n")
    assert f"({tmp_path}/captions.csv does)" in _refusal(TableSource(table=f"{tmp_path}/captoins.csv", caption="x"))
    assert "is not a file" in _refusal(TableSource(table=str(tmp_path), caption="x"))


def test_missing_images_are_counted_before_training(tmp_path: Path) -> None:
    """P3: files that are not there are said at once, and refused beyond data.max_bad_fraction."""
    text = "image,caption\na.png,one\nnone.png,two\nb.png,three\nc.png,four\n"
    path = write(tmp_path / "t.csv", text)
    rows = read(path, caption="caption")
    assert any(f"1 of 4 images missing or empty: {tmp_path}/none.png ({path}:3)" in note for note in rows.notes)
    data = {"train": {"table": str(path), "caption": "caption"}, "val": None}
    with pytest.raises(InputError, match=r"data.max_bad_fraction allows 1 %"):
        read_splits(DataConfig.model_validate(data), 0)
    assert len(read_splits(DataConfig.model_validate({**data, "max_bad_fraction": 0.5}), 0).train) == 4
    message = refused(write(tmp_path / "u.csv", "image,caption\nhttps://x.org/a.png,one\n"), caption="caption")
    assert "Images must be local files" in message

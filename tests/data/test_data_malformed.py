"""A hundred malformed files and any number of mutated ones: a sentence that names file or line, never a traceback."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipft.config.source_schema import TableSource
from clipft.data.images import ImageFault, read_image
from clipft.data.sources import read_source
from clipft.errors import InputError


def encoded(suffix: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((40, 30))
    match suffix:
        case "jpg":
            image.convert("RGB").save(file, "JPEG", exif=exif)
        case "cmyk.jpg":
            image.convert("CMYK").save(file, "JPEG")
        case "png":
            image.convert("RGBA").save(file, "PNG", exif=exif)
        case "p.png":
            image.convert("P").save(file, "PNG", transparency=3)
        case "webp":
            image.convert("RGB").save(file, "WEBP", exif=exif)
        case "gif":
            image.convert("P").save(file, "GIF", save_all=True, append_images=[image.convert("P")])
        case "bmp":
            image.convert("RGB").save(file, "BMP")
    return file.getvalue()


SUFFIXES = ("jpg", "cmyk.jpg", "png", "p.png", "webp", "gif", "bmp")
WHOLE = {suffix: encoded(suffix) for suffix in SUFFIXES}


def bad_images() -> Iterator[tuple[str, bytes]]:
    for suffix, data in WHOLE.items():
        half = len(data) // 2
        yield f"nothing.{suffix}", b""
        yield f"head.{suffix}", data[:11]
        yield f"header.{suffix}", data[:30]
        yield f"half.{suffix}", data[:half]
        yield f"zeros.{suffix}", bytes(len(data))
        yield f"noise.{suffix}", bytes(i * 73 % 256 for i in range(len(data)))
        yield f"zeroed-tail.{suffix}", data[:24] + bytes(len(data) - 24)
        yield f"shifted.{suffix}", data[1:]
        yield f"text.{suffix}", b"<html>404</html>"
    yield "svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("name", "data"), list(bad_images()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_malformed_image_is_a_named_fault(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageFault) as caught:
        read_image(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert len(caught.value.reason) < 130
    assert "\n" not in caught.value.reason


ROW = "image,caption\na.png,x\n"
BAD_TABLES: dict[str, bytes | str] = {
    "empty.csv": b"",
    "blank.csv": b"\n\n\n",
    "header.csv": b"image,caption\n",
    "one-column.csv": b"image\na.png\n",
    "no-header.csv": b"a.png,x\nb.png,y\n",
    "long-row.csv": ROW + "a.png,x,y\n",
    "short-row.csv": ROW + "a.png\n",
    "open-quote.csv": ROW + 'a.png,"x\n',
    "inner-quote.csv": ROW + 'a.png,"x"y\n',
    "nul.csv": ROW + "a.png,\0\n",
    "latin.csv": ROW.encode() + b"a.png,caf\xe9\n",
    "cut-utf8.csv": ROW.encode() + b"a.png,\xe2\x82",
    "utf16.csv": ROW.encode("utf-16"),
    "utf16-no-bom.csv": ROW.encode("utf-16-le"),
    "utf32.csv": ROW.encode("utf-32"),
    "twice.csv": "image,image,caption\na,b,c\n",
    "empty-captions.csv": "image,caption\na.png,\nb.png, \n",
    "empty-images.csv": "image,caption\n,x\n",
    "giant-field.csv": "image,caption\na.png," + "x" * 200_000 + "\n",
    "no-images.csv": "image,caption\nnone.png,x\n",
    "nul-name.jsonl": '{"image": "a\\u0000.png", "caption": "x"}',
    "surrogate-name.jsonl": '{"image": "\\ud800.png", "caption": "x"}',
    "old-mac.csv": "image,caption\ra.png,x\r",
    "zip.csv": b"PK\x03\x04",
    "gzip.csv": b"\x1f\x8b\x08\0",
    "png.csv": WHOLE["png"],
    "list.jsonl": "[]",
    "number.jsonl": "3",
    "string.jsonl": '"x"',
    "cut.jsonl": '{"image": "a.png", "cap',
    "two-on-a-line.jsonl": "{} {}",
    "deep.jsonl": '{"image": ' + "[" * 5000,
    "deeper.jsonl": '{"a":' * 100_000,
    "digits.jsonl": '{"image": ' + "9" * 6000 + "}",
    "object-cell.jsonl": '{"image": {}, "caption": "x"}',
    "nested-cell.jsonl": '{"image": "a.png", "caption": [[1]]}',
    "null.jsonl": '{"image": null, "caption": null}',
    "no-columns.jsonl": "{}",
    "latin.jsonl": b'{"image": "caf\xe9.png"}',
    "yaml.jsonl": "image: a.png",
    "empty.parquet": b"",
    "text.parquet": b"image,caption",
    "magic.parquet": b"PAR1",
    "two-magics.parquet": b"PAR1PAR1",
    "noise.parquet": b"PAR1" + bytes(range(256)) + b"\x40\0\0\0PAR1",
    "long-footer.parquet": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_malformed_table_is_a_named_refusal(tmp_path: Path, name: str) -> None:
    content = BAD_TABLES[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_source(TableSource(table=str(tmp_path / name), caption="caption"), {})
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_corpus_is_large_enough() -> None:
    assert len(list(bad_images())) + len(BAD_TABLES) >= 100


@st.composite
def mutated(draw: st.DrawFn, originals: tuple[bytes, ...]) -> bytes:
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["set", "cut", "insert", "delete", "repeat"])):
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case "delete":
                del data[at : at + draw(st.integers(1, 20))]
            case "repeat":
                data[at:at] = data[at : at + 40]
    return bytes(data)


ANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(work: Callable[[], str]) -> str:
    """What it returns, or the sentence it refuses with; any other error is the test's."""
    try:
        return work()
    except InputError as error:
        return str(error)


@ANY
@given(data=mutated(tuple(WHOLE.values())))
def test_a_mutated_image_is_rgb_or_a_fault(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    told = outcome(lambda: read_image(str(tmp_path / "a.jpg")).mode)
    assert told == "RGB" or str(tmp_path / "a.jpg") in told


LINES = tuple({"image": f"{i}.png", "caption": f"a “thing” {i}, or; more", "kind": ["x", i]} for i in range(4))
CSV = ("image,caption,kind\n" + "".join(f'{line["image"]},"{line["caption"]}",x\n' for line in LINES)).encode()
TSV = ("image\tcaption\tkind\n" + "".join(f"{line['image']}\t{line['caption']}\tx\n" for line in LINES)).encode()
JSONL = "\n".join(json.dumps(line, ensure_ascii=False) for line in LINES).encode()


@ANY
@given(data=mutated((CSV, TSV, JSONL)), suffix=st.sampled_from(["csv", "tsv", "jsonl"]))
def test_a_mutated_table_is_rows_or_a_refusal(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    path.write_bytes(data)
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(WHOLE["png"])
    source = TableSource(table=str(path), caption="a {kind}: {caption}", label="kind")
    told = outcome(lambda: f"{len(read_source(source, {}))} rows")
    assert told in {f"{n} rows" for n in range(1, 9)} or f"table.{suffix}" in told

"""The map's two forms and what the terminal says, on a run and its base."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from clipft.data.columns import TextColumn
from clipft.data.rows import FileImages, Rows
from clipft.embed.features import Embeddings, Features, figures
from clipft.embed.maps import Map, draw_map
from clipft.embed.outfile import check_out
from clipft.report.embed_view import embed_view, shapes
from clipft.report.map_file import thumbnails_for, write_map
from clipft.report.map_page import THUMBNAILS, page_data
from clipft.report.map_picture import DPI, _mark, write_picture

CLASSES = ("a cat", "_hidden", "$5 or $6", "<script>alert('x')</script>")


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    """Two models, twelve images of four classes with odd names, one image without; a caption for each."""
    rng = torch.Generator().manual_seed(0)

    def some(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 8, generator=rng), dim=1)

    numbers = np.arange(12)
    labels = numbers % 4
    labels[5] = -1
    rows = Rows(
        "folder some/<b>where",
        FileImages("photos", TextColumn.of(f"{i}.jpg" for i in numbers)),
        TextColumn.of(f"caption {i} </script> of {'ä' * i}" for i in numbers // 2),
        labels,
        CLASSES,
        numbers,
        numbers,
    )
    sides = {side: Features(f"the {side}", 50.0, some(12), some(6), some(4)) for side in ("base", "tuned")}
    thumbnails = tuple(b"jpeg" if i % 2 == 0 else None for i in numbers)
    return Embeddings(
        "runs/x",
        rows,
        numbers,
        numbers // 2,
        ("a {}.",),
        "fp32",
        sides,
        thumbnails,
        (),
        ("a note",),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def drawn(embeddings: Embeddings) -> Map:
    return draw_map(embeddings, ["pca"])


def measured(embeddings: Embeddings) -> dict[Any, dict[str, float]]:
    return {side: figures(embeddings, side) for side in embeddings.sides}


def data_in(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    content = json.loads(found)
    assert isinstance(content, dict)
    return content


def test_the_page_holds_every_item_once_and_needs_no_network(
    embeddings: Embeddings, drawn: Map, tmp_path: Path
) -> None:
    path = tmp_path / "map.html"
    words, notes = write_map(embeddings, drawn, measured(embeddings), path)
    assert words == "PCA, to be opened in a browser"
    assert notes == ("The page holds small pictures of 6 of its 12 images.",)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|@import|url\(", page)
    assert not re.search(r"\{\{\w+\}\}", page)
    data = data_in(page)
    assert [image["name"] for image in data["images"]] == [f"photos/{i}.jpg" for i in range(12)]
    assert [image["label"] for image in data["images"]] == embeddings.labels().tolist()
    assert sum("thumbnail" in image for image in data["images"]) == 6
    assert [caption["name"][:9] for caption in data["captions"]] == [f"caption {i}" for i in range(6)]
    assert data["classes"] == list(CLASSES)
    assert sorted(map(tuple, data["pairs"])) == [(i, i // 2) for i in range(12)]
    assert [side["heading"] for side in data["sides"]] == ["base · the base", "tuned · runs/x"]
    for side in data["sides"]:
        points = np.array(side["layouts"]["pca"]["points"])
        assert points.shape == (12 + 6 + 4, 2)
        assert points.min() >= 0
        assert points.max() <= 1
    assert check_out(str(path), "--plot", (".html",))  # another map may take its place


def test_the_page_keeps_the_shape_of_the_map(embeddings: Embeddings, drawn: Map) -> None:
    """The same scale both ways, up is up."""
    points = drawn.layout("tuned", "pca").points
    everything = np.concatenate([points[kind] for kind in ("image", "caption", "class")])  # type: ignore[index]
    shown = np.array(page_data(embeddings, drawn, measured(embeddings))["sides"][1]["layouts"]["pca"]["points"])
    differences = (shown - shown[0]) * [1, -1]
    assert differences == pytest.approx((everything - everything[0]) * np.ptp(shown) / np.ptp(everything), abs=1e-2)
    scale = np.linalg.norm(differences[1:], axis=1) / np.linalg.norm((everything - everything[0])[1:], axis=1)
    assert scale == pytest.approx(np.full(21, scale[0]), rel=1e-2)


def test_the_page_says_which_class_each_model_finds_nearest(embeddings: Embeddings, drawn: Map) -> None:
    data = page_data(embeddings, drawn, measured(embeddings))
    for side in data["sides"]:
        features = embeddings.sides[side["side"]]
        assert features.classes is not None
        assert side["nearest"] == (features.images @ features.classes.T).argmax(dim=1).tolist()
        assert side["figures"][0].startswith("zero-shot top-1 0.")


def test_the_picture_has_the_size_that_is_told(embeddings: Embeddings, drawn: Map, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "map.png"
    words, notes = write_map(embeddings, drawn, measured(embeddings), path)
    with Image.open(path) as picture:
        assert words == f"PCA, {picture.width:,} x {picture.height:,} pixels"
        assert picture.width == pytest.approx(2 * 7.45 * DPI, abs=1)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50  # type: ignore[arg-type]
    assert notes == ()
    assert check_out(str(path), "--plot", (".png",))


def test_letters_that_no_font_has_are_said(embeddings: Embeddings, drawn: Map, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    odd = replace(embeddings, rows=replace(embeddings.rows, classes=("\U00013000", *CLASSES[1:])))  # a hieroglyph
    (note,) = write_picture(odd, drawn, measured(embeddings), tmp_path / "map.png")
    assert "lack letters of some names" in note


def test_captions_alone_and_one_model_alone(embeddings: Embeddings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    features = replace(embeddings.sides["base"], classes=None)
    rows = replace(embeddings.rows, labels=None, classes=())
    alone = replace(embeddings, rows=rows, sides={"base": features})
    drawn = draw_map(alone, ["pca"])
    for name in ("map.png", "map.html"):
        write_map(alone, drawn, measured(alone), tmp_path / name)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width == pytest.approx(7.6 * DPI, abs=1)
    data = data_in((tmp_path / "map.html").read_text(encoding="utf-8"))
    assert (data["classes"], len(data["sides"]), len(data["captions"])) == ([], 1, 6)
    assert data["sides"][0]["figures"][0].startswith("image to text R@1")


@pytest.mark.parametrize("count", [61, 201])
def test_many_classes_fit(count: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    numbers = np.arange(count)
    paths = FileImages("", TextColumn.of(f"{i}.jpg" for i in numbers))
    rows = Rows("many", paths, None, numbers, tuple(f"class {i}" for i in numbers), numbers, numbers)
    vectors = torch.nn.functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    sides: Any = {"base": Features("it", 1.0, vectors, None, vectors)}
    many = Embeddings("it", rows, numbers, None, ("{}",), "fp32", sides, (None,) * count, (), ())
    write_map(many, draw_map(many, ["pca"]), measured(many), tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 20_000


def test_only_a_page_takes_thumbnails() -> None:
    assert [thumbnails_for(path) for path in (None, Path("a.png"), Path("a.HTML"))] == [0, 0, THUMBNAILS]


def test_the_terminal_names_figures_and_files_in_80_columns(embeddings: Embeddings, tmp_path: Path) -> None:
    (tmp_path / "v.safetensors").write_bytes(b"x" * 1234)
    written = [(tmp_path / "v.safetensors", shapes(embeddings))]
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(embed_view(embeddings, measured(embeddings), written, ("another note",)))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "12 images · 4 classes · 6 captions · 0 unreadable",
        '"a a cat."',
        "base and tuned: images 12 x 8, captions 12 x 8, classes 4 x 8",
        "cosine of image and own caption",
        "1.2 kB",
        "another note",
    ):
        assert words in " ".join(text.split()), words


def test_neighbouring_classes_differ_in_shape_and_colour(embeddings: Embeddings) -> None:
    """A map in grey print can still be read."""
    marks = [_mark(label, embeddings) for label in range(90)]
    assert len(set(marks)) == 90
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in pairwise(marks))

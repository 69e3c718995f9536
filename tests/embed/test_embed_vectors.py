from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clipft.data.columns import TextColumn
from clipft.data.rows import FileImages
from clipft.embed.features import Embeddings
from clipft.embed.outfile import check_out, write_whole
from clipft.embed.vectors import checks, refuse_too_much_text, write_safetensors, write_vectors
from clipft.errors import ClipftError, InputError


def test_safetensors_hold_a_vector_a_row_and_what_they_are(captioned: Embeddings, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    write_vectors(captioned, path)
    tensors = load_file(path)
    kinds = ("image_features", "caption_features", "class_features")
    assert set(tensors) == {"labels", *(f"{side}.{kind}" for side in ("base", "tuned") for kind in kinds)}
    assert tensors["labels"].tolist() == captioned.labels().tolist()
    for side, features in captioned.sides.items():
        assert torch.equal(tensors[f"{side}.image_features"], features.images[captioned.image_of])
        assert features.captions is not None
        assert torch.equal(tensors[f"{side}.caption_features"], features.captions[captioned.caption_of])
        assert tensors[f"{side}.class_features"].shape == (3, 32)
    assert all(t.norm(dim=1).sub(1).abs().max() < 1e-5 for name, t in tensors.items() if name != "labels")
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["clipft"])
    assert facts["images"] == [captioned.rows.images[row] for row in range(9)]
    assert facts["captions"] == list(captioned.rows.captions or ())
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["templates"] == ["a {} square.", "{}"]
    assert facts["models"]["base"].startswith("local-dir:")
    assert facts["precision"] == "fp32"
    assert facts["unreadable"] == []


def test_without_classes_there_are_no_labels(unlabelled: Embeddings, tmp_path: Path) -> None:
    write_safetensors(unlabelled, tmp_path / "v.safetensors")
    assert set(load_file(tmp_path / "v.safetensors")) == {"base.image_features", "base.caption_features"}


def test_parquet_has_a_line_an_item(captioned: Embeddings, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_vectors(captioned, tmp_path / "v.parquet")
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["model", "kind", "path", "text", "label", "class", "feature"]
    lines = table.to_pylist()
    assert len(lines) == 2 * (9 + 9 + 3)
    tuned = [line for line in lines if line["model"] == "tuned"]
    images = [line for line in tuned if line["kind"] == "image"]
    features = captioned.sides["tuned"]
    assert np.array_equal([line["feature"] for line in images], features.images[captioned.image_of].numpy())
    assert images[0] == images[0] | {"path": captioned.rows.images[0], "text": None, "label": 0, "class": "blue"}
    assert (images[4]["label"], images[4]["class"]) == (None, None)
    captions = [line for line in tuned if line["kind"] == "caption"]
    assert [line["text"] for line in captions] == list(captioned.rows.captions or ())
    assert [line["path"] for line in captions] == [line["path"] for line in images]
    classes = [(line["text"], line["label"], line["path"]) for line in tuned if line["kind"] == "class"]
    assert classes == [("blue", 0, None), ("green", 1, None), ("red", 2, None)]
    assert json.loads(table.schema.metadata[b"clipft"])["target"] == captioned.target


def test_a_file_name_of_odd_bytes_is_written_in_characters(unlabelled: Embeddings, tmp_path: Path) -> None:
    names = TextColumn.of([os.fsdecode(b"caf\xe9.jpg")] * 9)
    odd = replace(unlabelled, rows=replace(unlabelled.rows, images=FileImages("", names)))
    write_vectors(odd, tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", "pt") as file:
        assert os.fsencode(json.loads(file.metadata()["clipft"])["images"][0]) == b"caf\xe9.jpg"
    parquet = pytest.importorskip("pyarrow.parquet")
    write_vectors(odd, tmp_path / "v.parquet")
    assert parquet.read_table(tmp_path / "v.parquet")["path"][0].as_py() == "caf\\udce9.jpg"


def test_more_text_than_a_header_holds_is_refused_before_the_work(unlabelled: Embeddings) -> None:
    long = TextColumn.of(["x" * 11_000_000] * 9)
    rows = replace(unlabelled.rows, captions=long)
    with pytest.raises(InputError, match=r"--out: the 9 paths and captions take 99 MB, .* name a \.parquet file"):
        refuse_too_much_text(rows)
    checks(Path("a.parquet"))(rows)
    checks(None)(rows)


# --- where it goes -------------------------------------------------------------------------------


def test_an_earlier_result_is_replaced(captioned: Embeddings, unlabelled: Embeddings, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("v.safetensors", "v.parquet"):
        out = tmp_path / "new" / name
        for embeddings in (captioned, unlabelled):
            path = check_out(str(out), "--out", (".safetensors", ".parquet"))
            write_whole(path, lambda partial, e=embeddings: write_vectors(e, partial))  # type: ignore[misc]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"v.safetensors", "v.parquet"}


def test_what_is_not_ours_is_never_written_over(tiny_native: Path, tmp_path: Path) -> None:
    model = tiny_native / "open_clip_model.safetensors"
    (tmp_path / "folder.safetensors").mkdir()
    for there in (model, tmp_path / "folder.safetensors"):
        with pytest.raises(InputError, match=rf"--out: {there} is a .*; name another"):
            check_out(str(there), "--out", (".safetensors",))
    (tmp_path / "empty.safetensors").touch()
    assert check_out(str(tmp_path / "empty.safetensors"), "--out", (".safetensors",))
    with pytest.raises(InputError, match=r"open_clip_model\.safetensors is a file, not a folder"):
        check_out(str(model / "v.safetensors"), "--out", (".safetensors",))
    with pytest.raises(InputError, match=r"--plot: expected a file that ends in \.html or \.png, found 'map\.svg'"):
        check_out("map.svg", "--plot", (".html", ".png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match=r"--out: .*closed is not writable; name another folder"):
        check_out(str(tmp_path / "closed" / "new" / "v.safetensors"), "--out", (".safetensors",))


def test_others_may_read_what_the_umask_lets_them(captioned: Embeddings, tmp_path: Path) -> None:
    out = tmp_path / "v.safetensors"
    before = os.umask(0o027)
    try:
        write_whole(out, lambda partial: write_vectors(captioned, partial))
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def fill(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "v.html").write_text("clipft embed, before")
    with pytest.raises(ClipftError, match=r"v\.html: could not be written .*No space left.*; no part of it was left"):
        write_whole(tmp_path / "v.html", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["v.html"]
    assert (tmp_path / "v.html").read_text() == "clipft embed, before"

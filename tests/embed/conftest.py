"""What the tests of this room embed: a run and its base on labelled photos, and a table with captions."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipft.config.source_schema import FolderSource, TableSource
from clipft.embed.features import Embeddings, embed_target

CPU = torch.device("cpu")
CAPTIONS = ("the sea", "the sky", "the sea", "grass", "a leaf", "a frog", "a rose", "a tomato", "a rose")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, tiny_photos: Path) -> Path:
    """Nine rows: two rows show one photo, three captions are said twice, one row has no class."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    names = [f"{name}/{n}.png" for name in ("blue", "green", "red") for n in (0, 1, 2)]
    names[8] = names[7]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "colour"])
        for number, (name, caption) in enumerate(zip(names, CAPTIONS, strict=True)):
            writer.writerow([tiny_photos / name, caption, "" if number == 4 else name.split("/")[0]])
    return path


@pytest.fixture(scope="session")
def labelled(make_run: Callable[..., Path], tiny_native: Path, tiny_photos: Path) -> Embeddings:
    """A run beside its base, on twelve photos of three classes, a small picture of each."""
    return embed_target(
        str(make_run(tiny_native)), FolderSource(folder=str(tiny_photos)), device=CPU, workers=0, thumbnails=100
    )


@pytest.fixture(scope="session")
def captioned(make_run: Callable[..., Path], tiny_native: Path, table: Path) -> Embeddings:
    """The same run on the table's captions and classes."""
    source = TableSource(table=str(table), caption="caption", label="colour")
    return embed_target(str(make_run(tiny_native)), source, device=CPU, workers=0)


@pytest.fixture(scope="session")
def unlabelled(tiny_native: Path, table: Path) -> Embeddings:
    """A base alone on the captions alone."""
    source = TableSource(table=str(table), caption="caption")
    return embed_target(f"local-dir:{tiny_native}", source, device=CPU, workers=0)

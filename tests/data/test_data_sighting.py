"""A look at rows finds what is wrong with them, and says how much was opened."""

from __future__ import annotations

import shutil
from pathlib import Path

from clipft.config.data_schema import DataConfig
from clipft.config.source_schema import FolderSource
from clipft.data.sighting import Sighting, look
from clipft.data.sources import read_splits


def seen_in(folder: Path) -> Sighting:
    data = DataConfig(train=FolderSource(folder=str(folder)), val=None, max_bad_fraction=1.0)
    rows = read_splits(data, 0).train
    return look(rows, training=len(rows), validation=0)


def test_nothing_is_wrong(tiny_photos: Path) -> None:
    seen = seen_in(tiny_photos)
    assert (seen.rows, seen.counts, seen.opened) == (12, (4, 4, 4), 12)
    assert (seen.faults, seen.missing, seen.copies, seen.across) == ((), 0, 0, ())


def test_faults_are_found(tiny_photos: Path, tmp_path: Path) -> None:
    """P3, P10: what cannot be read and what is there twice is known before training."""
    folder = tmp_path / "photos"
    shutil.copytree(tiny_photos, folder)
    shutil.copy(folder / "red" / "0.png", folder / "green" / "copy.png")
    shutil.copy(folder / "red" / "0.png", folder / "red" / "copy.png")
    (folder / "blue" / "broken.png").write_bytes(b"no picture")
    (folder / "blue" / "empty.png").touch()
    seen = seen_in(folder)
    assert (seen.rows, seen.missing, seen.copies, seen.opened) == (16, 1, 2, 13)
    assert len(seen.faults) == 1
    assert "broken.png: not a JPEG" in seen.faults[0]
    assert [{Path(one).parent.name, Path(other).parent.name} for one, other in seen.across] == [{"green", "red"}]

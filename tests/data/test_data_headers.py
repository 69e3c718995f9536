"""What is no picture is found before the first step, by each file's first bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipft.config.source_schema import FolderSource
from clipft.data.headers import refuse_no_pictures
from clipft.data.sources import read_source
from clipft.errors import InputError


def folder(root: Path, good: int, bad: int) -> FolderSource:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
    for number in range(good):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(root / "cat" / f"{number}.png")
    for number in range(bad):
        (root / "dog" / f"{number}.jpg").write_text(f"no picture {number}")
    return FolderSource(folder=str(root))


def test_too_many_that_are_no_pictures_are_refused_at_once(tmp_path: Path) -> None:
    """P3: and a few are not, nor is what only decoding can find."""
    rows = read_source(folder(tmp_path, good=16, bad=4), {})
    with pytest.raises(
        InputError, match=r"4 of 20 images of folder .* \(20 %\) cannot be read, more than the 10 % .*0\.jpg: not a"
    ):
        refuse_no_pictures(rows, 0.1)
    refuse_no_pictures(rows, 0.2)
    for path in (tmp_path / "cat").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    refuse_no_pictures(rows, 0.2)


def test_the_first_three_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    rows = read_source(folder(tmp_path, good=1, bad=5), {})
    with pytest.raises(InputError, match=r"2\.jpg: not a .* and 2 more\. Mend"):
        refuse_no_pictures(rows, 0.01)


def test_all_of_them_are_refused_whatever_is_allowed(tmp_path: Path) -> None:
    rows = read_source(folder(tmp_path, good=0, bad=2), {})
    with pytest.raises(InputError, match="2 of 2 images"):
        refuse_no_pictures(rows, 1.0)

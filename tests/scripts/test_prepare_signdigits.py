"""The photos of one signer stay together, and the real photos fall as their published split says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prepare_signdigits

SHARED = Path(__file__).parents[3] / "shared" / "data" / "signdigits"


def make_clone(root: Path, photos: list[tuple[int, int]]) -> Path:
    for digit in range(10):
        (root / "Dataset" / str(digit)).mkdir(parents=True)
    for number, digit in photos:
        (root / "Dataset" / str(digit) / f"IMG_{number:04d}.JPG").write_bytes(b"%d" % number)
    return root


def digits_of(photos: list[tuple[int, int]], tmp_path: Path) -> list[str]:
    runs = prepare_signdigits.split_runs(prepare_signdigits.find_photos(make_clone(tmp_path / "clone", photos)))
    return ["".join(photo.digit for photo in run) for run in runs]


def test_a_run_may_lack_repeat_and_swap_digits(tmp_path: Path) -> None:
    runs = ["0123456789", "01234567889", "0213456789", "01234567891", "0234567", "0123456798", "012"]
    photos = [(1000 + place, int(digit)) for place, digit in enumerate("".join(runs))]
    assert digits_of(photos, tmp_path) == runs


def test_a_stray_photo_after_a_pause_goes_with_the_next_signer(tmp_path: Path) -> None:
    numbers = [*range(100, 110), *range(900, 910)]
    digits = [int(digit) for digit in "01234567895012346789"]
    assert digits_of(list(zip(numbers, digits, strict=True)), tmp_path) == ["0123456789", "5012346789"]


def test_a_leap_back_begins_a_run_and_a_leap_forward_does_not(tmp_path: Path) -> None:
    photos = [(100 + digit, digit) for digit in range(9)] + [(120 + digit, digit) for digit in (4, 5, 6, 7, 9)]
    assert digits_of(photos, tmp_path) == ["012345678", "45679"]
    skipping = [(100 + 10 * digit, digit) for digit in range(10)]
    assert digits_of(skipping, tmp_path / "forward") == ["0123456789"]


def test_the_copy_names_run_and_photo_and_keeps_the_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [(1000 + place, place % 10) for place in range(50)]
    clone = make_clone(tmp_path / "clone", photos)
    out = tmp_path / "out"
    assert prepare_signdigits.main(["--source", str(clone), "--out", str(out)]) == 0
    assert (out / "train" / "3" / "s000_IMG_1003.jpg").read_bytes() == b"1003"
    assert sorted(path.name for path in out.glob("val/*/*")) == [f"s004_IMG_10{number}.jpg" for number in range(40, 50)]
    printed = capsys.readouterr()
    assert printed.out.endswith("train 40 photos, val 10 photos of 5 signers\n")
    assert "50 photos; the clone that the split was made from has 2062" in printed.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gone", "no such folder"),
        ("no digit", "found none for 7"),
        ("no photo", "no photo named IMG_NNNN.JPG in"),
        ("twice", "IMG_1003 is there twice"),
        ("out", "already there and not empty"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    clone = make_clone(tmp_path / "clone", [(1000 + place, place % 10) for place in range(20)])
    out = tmp_path / "out"
    if change == "gone":
        clone = tmp_path / "elsewhere"
    elif change == "no digit":
        (clone / "Dataset" / "7").rename(clone / "seven")
    elif change == "no photo":
        for path in (clone / "Dataset" / "7").iterdir():
            path.unlink()
    elif change == "twice":
        (clone / "Dataset" / "4" / "IMG_1003.JPG").write_bytes(b"")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine", encoding="utf-8")
    assert prepare_signdigits.main(["--source", str(clone), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_the_real_photos_fall_as_published(tmp_path: Path) -> None:
    published = {path.relative_to(SHARED).as_posix() for path in SHARED.glob("*/*/*.jpg")}
    photos = []
    for name in published:
        match = re.fullmatch(r"(?:train|val)/(\d)/s\d{3}_IMG_(\d+)\.jpg", name)
        assert match is not None
        photos.append((int(match[2]), int(match[1])))
    out = tmp_path / "out"
    clone = make_clone(tmp_path / "clone", photos)
    assert prepare_signdigits.main(["--source", str(clone / "Dataset"), "--out", str(out)]) == 0
    assert {path.relative_to(out).as_posix() for path in out.glob("*/*/*.jpg")} == published
    assert len(published) == prepare_signdigits.PHOTOS

"""From a clone of the Sign-Language-Digits photos to data/signdigits/{train,val}/DIGIT, split by signer.

    git clone https://github.com/ardamavi/Sign-Language-Digits-Dataset
    python scripts/prepare_signdigits.py --source Sign-Language-Digits-Dataset

In camera order the photos run 0, 1, ..., 9 again and again: each such run is one signer's hand. Of 207 runs the
first 165 train and the last 42 validate, so that nobody's hand is on both sides. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DIGITS = tuple(str(digit) for digit in range(10))
PHOTO_NAME = re.compile(r"IMG_(\d+)\.jpe?g", re.IGNORECASE)
LONGEST_GAP = 5  # numbers that the camera skips within one signer's run (photos taken out by the makers)
PHOTOS = 2062
TRAIN_SHARE = 165 / 207  # of the runs


class SourceError(Exception):
    """The folder given is not what this script reads."""


@dataclass(frozen=True, order=True)
class Photo:
    """One photo; photos sort in camera order."""

    number: int
    digit: str
    path: Path


def main(arguments: list[str] | None = None) -> int:
    """Copy the photos; exit code 2 where `--source` or `--out` cannot be used."""
    parser = argparse.ArgumentParser(description="Make data/signdigits from a clone of Sign-Language-Digits-Dataset.")
    parser.add_argument("--source", type=Path, required=True, help="the clone, or its folder Dataset")
    parser.add_argument("--out", type=Path, default=Path("data/signdigits"), help="default: data/signdigits")
    options = parser.parse_args(arguments)
    try:
        runs = split_runs(find_photos(options.source))
        counts = copy_photos(runs, options.out)
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    photos = sum(counts.values())
    if photos != PHOTOS:
        print(f"note: {photos} photos; the clone that the split was made from has {PHOTOS}", file=sys.stderr)
    print(f"{options.out}: train {counts['train']} photos, val {counts['val']} photos of {len(runs)} signers")
    return 0


def find_photos(source: Path) -> list[Photo]:
    """All photos of a clone (or of its folder Dataset) in camera order.

    Raises:
        SourceError: a digit's folder is missing or empty, or a number is there twice.
    """
    if not source.is_dir():
        raise SourceError(f"--source {source}: no such folder; clone ardamavi/Sign-Language-Digits-Dataset first")
    root = source / "Dataset" if (source / "Dataset").is_dir() else source
    missing = [digit for digit in DIGITS if not (root / digit).is_dir()]
    if missing:
        raise SourceError(
            f"--source {source}: expected a folder for each digit in {root}, found none for {', '.join(missing)}; "
            "give the clone itself, or its folder Dataset"
        )
    photos = sorted(photo for digit in DIGITS for photo in _photos_of(root / digit))
    empty = sorted(set(DIGITS) - {photo.digit for photo in photos})
    if empty:
        raise SourceError(f"--source {source}: no photo named IMG_NNNN.JPG in {root / empty[0]}")
    twice = [number for number, times in Counter(photo.number for photo in photos).items() if times > 1]
    if twice:
        raise SourceError(f"--source {source}: IMG_{twice[0]} is there twice; camera order needs each number once")
    return photos


def split_runs(photos: Iterable[Photo]) -> list[list[Photo]]:
    """Photos in camera order, cut into runs of one signer each.

    A run begins at a 0, or where the camera skips numbers and the digits fall back. Runs may lack, repeat or swap
    digits; a single photo before a 0 belongs to the signer whose 0 follows.
    """
    runs: list[list[Photo]] = []
    for photo in photos:
        if not runs or _begins(photo, runs[-1]):
            runs.append([])
        runs[-1].append(photo)
    return runs


def copy_photos(runs: list[list[Photo]], out: Path) -> dict[str, int]:
    """Copy each run to train or val as DIGIT/sRUN_IMG_NUMBER.jpg; the number of photos in each.

    Raises:
        SourceError: `out` already has photos; they are left as they are.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SourceError(f"--out {out}: already there and not empty; remove it first, or name another folder")
    train_runs = round(len(runs) * TRAIN_SHARE)
    counts = {"train": 0, "val": 0}
    for index, run in enumerate(runs):
        split = "train" if index < train_runs else "val"
        for photo in run:
            target = out / split / photo.digit / f"s{index:03d}_{photo.path.stem}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(photo.path, target)
            counts[split] += 1
    return counts


def _photos_of(folder: Path) -> list[Photo]:
    matches = [(PHOTO_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return [Photo(int(match[1]), folder.name, path) for match, path in matches if match]


def _begins(photo: Photo, run: list[Photo]) -> bool:
    last = run[-1]
    leaps = photo.number - last.number > LONGEST_GAP and photo.digit < last.digit
    return leaps or (photo.digit == "0" and len(run) > 1)


if __name__ == "__main__":
    sys.exit(main())

"""What there is to choose from: read from tables in the package, without importing open_clip.

Building all models takes an hour and importing open_clip seconds, so the tables are written ahead by
`scripts/profile_models.py`. They hold for one version of open_clip. Where another is installed, names and tags come
from open_clip itself, and an architecture that the tables lack has no figures.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clipft.model.profiles import Architecture, Catalogue, Profile, Tag

TABLES = Path(__file__).with_name("tables")


def catalogue(folder: Path = TABLES) -> Catalogue:
    """All architectures of the installed open_clip, with the figures that the tables have.

    Args:
        folder: of the tables.
    """
    installed = version("open_clip_torch")
    table = json.loads((folder / "profiles.json").read_text(encoding="utf-8"))
    figures = _zero_shot(folder / "zero_shot.csv")
    profiles = {row["name"]: _profile(row["profile"]) for row in table["architectures"]}
    tags = {row["name"]: [Tag(**tag) for tag in row["tags"]] for row in table["architectures"]}
    if installed != table["open_clip"]:
        from clipft.model.registry import installed_tags  # brings open_clip and torch: seconds

        tags = installed_tags()
    found = (
        Architecture(name, tuple(_with_figure(tag, figures.get((name, tag.name))) for tag in own), profiles.get(name))
        for name, own in tags.items()
    )
    return Catalogue(table["open_clip"], installed, tuple(found))


def _profile(row: dict[str, Any]) -> Profile:
    height, width = row["image_size"]
    return Profile(**{**row, "image_size": (height, width)})


def _zero_shot(path: Path) -> dict[tuple[str, str], tuple[float, str]]:
    """Figure and source by architecture and tag."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {(row["architecture"], row["tag"]): (float(row["top1"]), row["source"]) for row in csv.DictReader(lines)}


def _with_figure(tag: Tag, figure: tuple[float, str] | None) -> Tag:
    return tag if figure is None else replace(tag, zero_shot_top1=figure[0], source=figure[1])

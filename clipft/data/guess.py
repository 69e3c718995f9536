"""From `--data` of `clipft init` to sources: what a plain path holds is told by looking into it.

A folder of class folders, a folder of images with a .txt beside each, a table; or splits of one of these.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipft.config.paths import missing_path
from clipft.config.source_schema import SOURCES, FolderSource, SidecarSource, Source, TableSource
from clipft.data.folders import SPLITS, hidden, walk
from clipft.data.images import SUFFIXES
from clipft.data.names import is_text, natural_key
from clipft.data.sources import parse_data_option
from clipft.data.table_guess import VAL, guess_table
from clipft.errors import InputError
from clipft.words import counted, some

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")
SAMPLE = 20
"""Images of a folder that are looked at for a .txt beside them."""


@dataclass(frozen=True)
class Guess:
    """What `--data` was taken for.

    Args:
        train: what to train on.
        val: what to measure on, where it was found.
        said: what was guessed, a sentence each.
    """

    train: Source
    val: Source | None = None
    said: tuple[str, ...] = ()


def guess_sources(text: str) -> Guess:
    """The sources that `--data` means: as other commands take it, or a plain path.

    Raises:
        InputError: nothing of this kind is there; the sentence says what is.
    """
    if not is_text(text):
        raise InputError(f"--data: {text!r} is not UTF-8, and a config is; rename the folder or file")
    kind, colon, rest = text.partition(":")
    if colon and kind in SOURCES and rest:
        return _named(text, kind, rest)
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix.lower() not in (*TABLES, ".txt", ".json", ".tab"):
            raise InputError(f"--data: {text} is no table ({', '.join(TABLES)}) and no folder")
        return _table(text)
    if path.is_dir():
        return _folder(text, path)
    raise InputError(f"--data: {missing_path(text)}")


def _named(text: str, kind: str, rest: str) -> Guess:
    """A source that says itself what it is; a table's columns may be left out, and what validates is looked for."""
    if kind == "table":
        named = any(f",{key}=" in rest for key in ("caption", "label"))
        given = parse_data_option(text if named else f"{text},label=-")  # one of them it must have
        assert isinstance(given, TableSource)
        keys = given.model_fields_set - {"table", *(() if named else ("label",))}
        return _table(given.table, given.model_dump(include=keys))
    source = parse_data_option(text)
    if not isinstance(source, FolderSource | SidecarSource):
        return Guess(source)
    return _with_val(source, rest)


def _table(text: str, known: Mapping[str, Any] = MappingProxyType({})) -> Guess:
    try:
        found = guess_table(text, known)
    except InputError as error:
        raise InputError(f"--data: {error}") from None
    if found.val is not None or "split" in known:
        return Guess(found.train, found.val, found.said)
    path = Path(text).expanduser()
    for other in VAL:
        beside = path.with_name(path.name.replace("train", other))
        if beside != path and beside.is_file():
            shown = os.path.join(os.path.dirname(text), beside.name)
            return Guess(found.train, found.train.model_copy(update={"table": shown}), found.said)
    return Guess(found.train, None, found.said)


def _folder(text: str, root: Path) -> Guess:
    """What a plain folder holds."""
    names = sorted((entry.name for entry in root.iterdir() if not hidden(entry.name)), key=natural_key)
    folders = [name for name in names if (root / name).is_dir()]
    if folders and all(name.lower() in SPLITS for name in folders):
        return _splits(text, root, folders)
    classes = [name for name in islice(folders, 1000) if any(_images(root / name))]
    tables = [name for name in names if Path(name).suffix.lower() in TABLES and name not in folders]
    if tables and len(classes) < 2:
        return _one_table(text, tables)
    captioned, images = _captioned(root)
    if captioned * 2 > images:
        return _with_val(SidecarSource(sidecar=text), text)
    if len(classes) >= 2:
        return _with_val(FolderSource(folder=text), text)
    raise InputError(_unknown(text, names, folders, classes, root))


def _splits(text: str, root: Path, folders: list[str]) -> Guess:
    """A folder of folders named train, val, test."""
    train = next((name for name in folders if name.lower().startswith("train")), None)
    if train is None:
        raise InputError(f"--data: {text} holds {some(folders)} but no train; name the folder to train on")
    found = _folder(os.path.join(text, train), root / train)
    return Guess(found.train, found.val, tuple(dict.fromkeys((*found.said, *_left_to_test(text, folders)))))


def _left_to_test(text: str, folders: Iterable[str]) -> tuple[str, ...]:
    """Of the folders in one, what is not trained on, nor chosen by."""
    rest = next((name for name in folders if name.lower() in ("test", "testing")), None)
    return () if rest is None else (f"left for clipft evaluate afterwards: {os.path.join(text, rest)}",)


def _one_table(text: str, tables: list[str]) -> Guess:
    train = [name for name in tables if "train" in name.lower()]
    if len(tables) > 1 and len(train) != 1:
        raise InputError(f"--data: {text} holds {counted(len(tables), 'table')}, {some(tables)}; name one of them")
    return _table(os.path.join(text, (train or tables)[0]))


def _with_val(source: FolderSource | SidecarSource, text: str) -> Guess:
    """The source, and where it is called train, the folders beside it to measure on and to test on."""
    place = Path(text).expanduser()
    if place.name.lower() not in ("train", "training"):
        return Guess(source)
    beside = {entry.name.lower(): entry.name for entry in place.parent.iterdir() if entry.is_dir()}
    above = os.path.dirname(text.rstrip("/"))
    said = _left_to_test(above, sorted(beside.values()))
    name = next((beside[word] for word in VAL if word in beside), None)
    if name is None:
        return Guess(source, None, said)
    key = "folder" if isinstance(source, FolderSource) else "sidecar"
    return Guess(source, source.model_copy(update={key: os.path.join(above, name)}), said)


def _images(root: Path) -> Iterator[str]:
    return (name for name in walk(root) if Path(name).suffix.lower() in SUFFIXES)


def _captioned(root: Path) -> tuple[int, int]:
    """Of the first images, how many have a .txt beside them; and how many these are."""
    first = list(islice(_images(root), SAMPLE))
    return sum((root / name).with_suffix(".txt").is_file() for name in first), len(first)


def _unknown(text: str, names: list[str], folders: list[str], classes: list[str], root: Path) -> str:
    images = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    if images or classes:
        saw = counted(len(images), "image") + (f" such as {images[0]}" if images else "")
        saw += f", one folder of images ({classes[0]})" if classes else ""
        saw += ", and neither a .txt beside them nor a table"
    else:
        saw = f"{counted(len(folders), 'folder')} and {counted(len(names) - len(folders), 'file')}, but no image"
        saw += f" ({some(names, 4)})" if names else ""
    return (
        f"--data: {text} holds {saw}; expected a folder of images a class, images with a .txt beside each, or a "
        "table (.csv, .tsv, .jsonl, .parquet) of image paths with captions or classes"
    )

"""Which columns of a table are images, captions, labels and splits: by their names, the images by their cells too."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipft.config.source_schema import TableSource
from clipft.data.images import SUFFIXES
from clipft.data.tables import Table, open_table
from clipft.errors import InputError
from clipft.words import some

SAMPLE = 20
"""Rows whose cells are looked at."""

_IMAGE = ("image", "image_path", "img_path", "filepath", "file_path", "path", "file_name", "filename", "file", "img")
_CAPTION = ("caption", "captions", "title", "text", "description", "alt", "alt_text", "sentence")
_LABEL = ("label", "labels", "class", "class_name", "category", "target", "species")
_SPLIT = ("split", "fold", "subset", "partition")
_TRAIN = ("train", "training")
VAL = ("val", "valid", "validation", "dev")


@dataclass(frozen=True)
class TableGuess:
    """What a table was taken for.

    Args:
        train: the rows to train on, with every column that was found: both caption and label where there are both.
        val: the rows to measure on, where a column names them.
        said: what was guessed, a sentence each.
    """

    train: TableSource
    val: TableSource | None
    said: tuple[str, ...]


def guess_table(path: str, known: Mapping[str, Any]) -> TableGuess:
    """Find the columns of a table by name.

    Args:
        path: as the user wrote it.
        known: keys of the source that the user named; they are kept.

    Raises:
        InputError: no table, or one whose columns do not tell what they are.
    """
    table = open_table(os.path.expanduser(path))
    columns = _columns(table, known)
    said = _in_words(table, {key: column for key, column in columns.items() if key not in known})
    root = known.get("root") or _root(table, columns["image"])
    if root and "root" not in known:
        said += (f"image paths are taken from the folder {root}",)
    keys: dict[str, Any] = {**columns, "root": root, **known, "table": path}
    if "split" in known:
        return TableGuess(TableSource(**keys), None, said)
    train, val, told = _splits(table)
    source = TableSource(**keys, split=train)
    return TableGuess(source, source.model_copy(update={"split": val}) if val else None, (*said, *told))


def _columns(table: Table, known: Mapping[str, Any]) -> dict[str, str | None]:
    """The columns of image, caption and label; None for one that is not there."""
    image = known.get("image") or _named(table.columns, _IMAGE) or _of_images(table)
    caption, label = known.get("caption"), known.get("label")
    if caption is None and label is None:
        caption, label = _named(table.columns, _CAPTION), _named(table.columns, _LABEL)
    if image is None or (caption is None and label is None):
        missing = "an image's path" if image is None else "a caption or a class"
        shown = some([repr(name) for name in table.columns], 12)
        raise InputError(
            f"{table.path} ({table.form}) has no column whose name tells that it holds {missing}; it has "
            f"{shown}. Name them: table:{table.path},image=COLUMN,caption=COLUMN or label=COLUMN"
        )
    return {"image": image, "caption": caption, "label": label}


def _named(columns: Sequence[str], names: Iterable[str]) -> str | None:
    """The column that has the first of these names that one has, however it is written."""
    plain = {re.sub(r"[\s-]+", "_", column.lower()): column for column in reversed(columns)}
    return next((plain[name] for name in names if name in plain), None)


def _of_images(table: Table) -> str | None:
    """The first column whose cells all end as images do."""
    rows = [record.cells for record in itertools.islice(table.records(table.columns), SAMPLE)]
    for column, cells in zip(table.columns, zip(*rows, strict=True), strict=False):
        if all(os.path.splitext(cell)[1].lower() in SUFFIXES for cell in cells):
            return column
    return None


def _in_words(table: Table, columns: dict[str, str | None]) -> tuple[str, ...]:
    found = [f"{key} = {column}" for key, column in columns.items() if column]
    return (f"columns guessed from their names: {', '.join(found)}",) if found else ()


def _root(table: Table, column: str | None) -> str | None:
    """The folder that image paths start from, where it is not the table's own: one beside it, or the current one."""
    assert column is not None
    cells = [record.cells[0] for record in itertools.islice(table.records((column,)), SAMPLE)]
    cells = [cell for cell in cells if cell]
    home = Path(table.path).parent

    def there(folder: Path) -> int:
        return sum((folder / cell).is_file() for cell in cells)

    if not cells or there(home):
        return None
    beside = [entry for entry in sorted(home.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    best = max((*beside, Path()), key=there)
    return str(best) if there(best) else None


def _splits(table: Table) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The equations for training and validation rows, and what to say of them."""
    column = _named(table.columns, _SPLIT)
    if column is None:
        return None, None, ()
    counts = Counter(record.cells[0] for record in table.records((column,)))
    by_word = {value.lower(): value for value in counts}
    train, val = (next((by_word[w] for w in words if w in by_word), None) for words in (_TRAIN, VAL))
    if train is None:
        return None, None, (f"column {column} names no rows train, so all rows are taken",)
    rest = [f"{value} ({counts[value]:,} rows)" for value in counts if value not in (train, val)]
    said = (f"rows with {column} = {some(rest, 3)} are left for clipft evaluate afterwards",) if rest else ()
    return f"{column}={train}", f"{column}={val}" if val else None, said

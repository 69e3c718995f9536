"""A table source to rows: captions from a column or a template over columns, labels, splits, groups.

Rows that lack what they should have are left out and named by line.
"""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipft.config.hints import nearest
from clipft.config.source_schema import TableSource
from clipft.data.columns import Ints, TextColumn, TextColumnBuilder
from clipft.data.names import natural_key
from clipft.data.rows import FileImages, Rows
from clipft.data.tables import SHOWN, Table, open_table
from clipft.errors import InputError
from clipft.words import counted, some

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class _Caption:
    """How a caption comes out of cells: a template over columns; "{title}" where the user named a column."""

    template: str

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(_FIELD.findall(self.template))

    def fill(self, cells: dict[str, str]) -> str:
        """The caption, or nothing where one of its cells is empty."""
        if not all(cells[column] for column in self.columns):
            return ""
        return " ".join(_FIELD.sub(lambda match: cells[match[1]], self.template).split())


class _Empty:
    """Rows left out or without a label, by what they lack."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, what: str, line: int) -> None:
        self.counts[what] += 1
        if len(self.lines[what]) < SHOWN:
            self.lines[what].append(line)

    def notes(self, name: str) -> tuple[str, ...]:
        said = []
        for what, count in self.counts.items():
            lines = ", ".join(str(line) for line in self.lines[what])
            more = f" and {count - SHOWN:,} more" if count > SHOWN else ""
            said.append(f"{name}: {counted(count, 'row')} {what} (line{'s' if count > 1 else ''} {lines}{more})")
        return tuple(said)


def read_table(source: TableSource, key: str) -> Rows:
    """The rows of a table that have all that the source asks for; the others are named in the notes."""
    path = str(Path(source.table).expanduser())
    table, caption, split = _opened(source, path, key)
    wanted = tuple(dict.fromkeys(_wanted(source, caption, split, key)))
    return _collect(table, wanted, source, caption, split, key)


def _opened(source: TableSource, path: str, key: str) -> tuple[Table, _Caption | None, tuple[str, str] | None]:
    split = None
    if source.split is not None:
        column, value = source.split.split("=", 1)
        split = (column.strip(), value.strip())
    plain = [column for column in (source.image, source.caption, source.label, split and split[0]) if column]
    fields = _FIELD.findall(source.caption or "")
    try:
        table = open_table(path, (*plain, *fields))
    except InputError as error:
        raise InputError(f"{key}.table: {error}") from None
    caption = None
    if source.caption is not None:
        is_column = source.caption in table.columns or not fields
        caption = _Caption("{" + source.caption + "}" if is_column else source.caption)
    table.require(_wanted(source, caption, split, key))
    return table, caption, split


def _wanted(source: TableSource, caption: _Caption | None, split: tuple[str, str] | None, key: str) -> dict[str, str]:
    """Each column the source needs, and the key that asks for it."""
    wanted = {source.image: f"{key}.image"}
    for column in caption.columns if caption else ():
        wanted.setdefault(column, f"{key}.caption")
    others = {"label": source.label, "split": split[0] if split else None, "group": source.group}
    for name, other in others.items():
        if other:
            wanted.setdefault(other, f"{key}.{name}")
    return wanted


def _collect(
    table: Table,
    wanted: tuple[str, ...],
    source: TableSource,
    caption: _Caption | None,
    split: tuple[str, str] | None,
    key: str,
) -> Rows:
    images, captions, labels, groups = (TextColumnBuilder() for _ in range(4))
    lines, empty, splits = array("q"), _Empty(), Counter[str]()
    for record in table.records(wanted):
        cells = dict(zip(wanted, record.cells, strict=True))
        if split:
            splits[cells[split[0]]] += 1
            if cells[split[0]] != split[1]:
                continue
        text = caption.fill(cells) if caption else ""
        lack = _lacks(cells, source, caption, text)
        if lack:
            empty.add(f"without {lack} left out", record.line)
            continue
        if source.label and not cells[source.label]:
            empty.add("without a label", record.line)
        images.append(cells[source.image])
        captions.append(text)
        labels.append(cells[source.label] if source.label else "")
        groups.append(cells[source.group] if source.group else "")
        lines.append(record.line)
    name = f"table {source.table}" + (f" {source.split}" if source.split else "")
    if not lines:
        raise InputError(f"{key}: {_why_none(name, split, splits, empty)}")
    codes, classes = _classes(labels.build()) if source.label else (None, ())
    numbers = np.arange(len(lines))
    return Rows(
        name=name,
        images=FileImages(_root(source, table.path, key), images.build()),
        captions=captions.build() if caption else None,
        labels=codes,
        classes=classes,
        identities=numbers,
        groups=_groups(groups.build()) if source.group else numbers,
        table=source.table,
        lines=np.array(lines, np.int64),
        notes=empty.notes(name),
    )


def _lacks(cells: dict[str, str], source: TableSource, caption: _Caption | None, text: str) -> str | None:
    if not cells[source.image]:
        return "an image"
    if caption:
        return None if text else "a caption"
    return None if cells[source.label or ""] else "a label"


def _why_none(name: str, split: tuple[str, str] | None, splits: Counter[str], empty: _Empty) -> str:
    if split and split[1] not in splits and splits:
        found = [f"{value or '(empty)'} ({count:,} rows)" for value, count in splits.most_common(7)]
        close = nearest(split[1], splits)
        hint = f"; did you mean {split[0]}={close[0]}?" if close else ""
        return f"{name}: no row with {split[0]}={split[1]}; the column has {some(found)}{hint}"
    return "; ".join(empty.notes(name)) or f"{name}: has no rows below its header"


def _root(source: TableSource, path: str, key: str) -> str:
    if source.root is None:
        return os.path.dirname(path)
    root = os.path.expanduser(source.root)
    if not os.path.isdir(root):
        raise InputError(f"{key}.root: {source.root} is not a folder")
    return root


def _classes(column: TextColumn) -> tuple[Ints, tuple[str, ...]]:
    """Labels as an index into the class names in natural order, -1 where empty; and the names."""
    names = sorted(set(column) - {""}, key=natural_key)
    position = {name: index for index, name in enumerate(names)}
    return np.array([position.get(text, -1) for text in column], np.int64), tuple(names)


def _groups(column: TextColumn) -> Ints:
    """Equal values together; a row without one is a group of its own."""
    codes = column.codes()
    alone = np.array([not text for text in column])
    codes[alone] = len(column) + np.arange(alone.sum())
    return codes

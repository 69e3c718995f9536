"""From a source in the config to rows, and from `data` to training and validation rows that belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import ValidationError

from clipft.config.data_schema import DataConfig
from clipft.config.hints import nearest
from clipft.config.source_schema import SOURCES, FolderSource, HandsSource, SidecarSource, Source, TableSource
from clipft.data.folders import read_folder, read_sidecar
from clipft.data.hands import read_hands
from clipft.data.identity import Identified, identify
from clipft.data.novel import NovelClasses, base_to_novel, with_strangers
from clipft.data.rows import Rows
from clipft.data.shots import few_shots
from clipft.data.splits import hold_out, overlap_note
from clipft.data.table_rows import read_table
from clipft.errors import InputError
from clipft.words import counted, some

__all__ = [
    "Rows",
    "Splits",
    "keep_overlap",
    "may_overlap",
    "parse_data_option",
    "read_keep",
    "read_source",
    "read_splits",
    "trained_on",
]


@dataclass(frozen=True, eq=False)
class Splits:
    """What a run trains on and what it is measured on; labels of both index the same classes.

    Args:
        notes: what reading them found worth saying.
        warnings: what makes figures doubtful.
    """

    train: Rows
    val: Rows | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_source(source: Source, class_names: Mapping[str, str], key: str = "data") -> Rows:
    """The rows of one source, images identified by content; `key` is what messages call it."""
    rows = _read(source, class_names, key)
    identified = identify([rows.images])[0]
    return _with_empty_named(_checked(rows, identified, max_bad_fraction=1.0))


def read_splits(data: DataConfig, seed: int, novel: NovelClasses | None = None) -> Splits:
    """Training and validation rows: classes matched by name, images in both found, a fraction held out by image.

    Novel classes then leave training, and few shots are drawn from what is left.
    """
    splits = _read_splits(data, seed, novel)
    if novel is not None:
        train, val = base_to_novel(splits.train, splits.val, novel, data.class_names)
        splits = replace(splits, train=train, val=val)
    if data.draw is not None:
        train, warnings = few_shots(splits.train, data.draw)
        splits = replace(splits, train=train, warnings=(*splits.warnings, *warnings))
    return replace(splits, warnings=(*splits.warnings, *_not_learnt(splits.train)))


def _not_learnt(train: Rows) -> tuple[str, ...]:
    """What to say of classes without a row to train on that were not meant to have none."""
    if not (empty := [name for name in _empty(train) if name not in train.novel]):
        return ()
    return (
        f"{train.name}: no image of {some(empty)} to train on, so {'it is' if len(empty) == 1 else 'they are'} not "
        "learnt, yet an image may be taken for one of them: the names stay among the classes; add images, or remove "
        "the folder",
    )


def _empty(rows: Rows) -> list[str]:
    return [] if rows.labels is None else [n for n, c in zip(rows.classes, rows.class_counts(), strict=True) if not c]


def _with_empty_named(rows: Rows) -> Rows:
    empty = _empty(rows)
    return replace(rows, notes=(*rows.notes, f"{rows.name}: no image in {some(empty)}")) if empty else rows


def read_keep(keep: Source, data: DataConfig) -> Rows:
    """The rows of evaluate.keep; data.class_names says its classes too, where it mentions them."""
    return read_source(keep, data.class_names, "evaluate.keep")


def keep_overlap(train: Rows, keep: Rows) -> tuple[str, ...]:
    """What to say where images to watch for forgetting are trained on, so that they are not forgotten (P62)."""
    before, now = identify([train.images, keep.images])
    train, keep = replace(train, identities=before.ids), replace(keep, identities=now.ids)
    return overlap_note(train, keep, f"images of evaluate.keep ({keep.name})")


def _read_splits(data: DataConfig, seed: int, novel: NovelClasses | None) -> Splits:
    train = _read(data.train, {}, "data.train")
    if data.val is None or isinstance(data.val, float):
        train = _checked(train, identify([train.images])[0], data.max_bad_fraction)
        _check_class_names(data.class_names, train.classes)
        train = train.renamed(data.class_names)
        return Splits(train, None, train.notes) if data.val is None else _divided(train, data.val, seed)

    val = _read(data.val, {}, "data.val")
    _check_class_names(data.class_names, tuple(dict.fromkeys((*train.classes, *val.classes))))
    in_train, in_val = identify([train.images, val.images])
    train = _checked(train.renamed(data.class_names), in_train, data.max_bad_fraction)
    val = _with_empty_named(_checked(val.renamed(data.class_names), in_val, data.max_bad_fraction))
    train = with_strangers(train, val, novel, data.class_names)
    if train.labels is not None:
        val = val.aligned(train.classes)
    return Splits(train, val, (*train.notes, *val.notes), overlap_note(train, val))


def _read(source: Source, class_names: Mapping[str, str], key: str) -> Rows:
    match source:
        case FolderSource():
            rows = read_folder(source, f"{key}.folder")
        case TableSource():
            rows = read_table(source, key)
        case SidecarSource():
            rows = read_sidecar(source, f"{key}.sidecar")
        case HandsSource():
            rows = read_hands(source)
    return rows.renamed(class_names)


def _divided(rows: Rows, fraction: float, seed: int) -> Splits:
    stay, outside = hold_out(rows, fraction, seed)
    by = "image" if np.array_equal(rows.groups, rows.identities) else "group"
    note = f"{rows.name}: {len(outside):,} of {counted(len(rows), 'row')} held out for validation, by {by}"
    train, val = rows.take(stay), rows.take(outside)
    notes = (*rows.notes, note)
    if val.labels is not None:
        lost = [name for name in _empty(val) if name not in _empty(rows)]
        if lost:
            notes += (f"{rows.name}: no row of {some(lost)} is held out",)
    return Splits(train, replace(val, name=f"{rows.name} (held out)"), notes)


def _checked(rows: Rows, identified: Identified, max_bad_fraction: float) -> Rows:
    """The rows with their images' identities; images without a file are said, or refused beyond the limit."""
    by_image = rows.groups is rows.identities
    rows = replace(rows, identities=identified.ids, groups=identified.ids if by_image else rows.groups)
    absent = identified.absent.tolist()
    if not absent:
        return rows
    shown = [
        rows.images[row] if rows.table is None else f"{rows.images[row]} ({rows.place(row)})" for row in absent[:3]
    ]
    what = f"{len(absent):,} of {counted(len(rows), 'image')} missing or empty: {some(shown, 3, len(absent))}"
    if len(absent) == len(rows) or len(absent) > max_bad_fraction * len(rows):
        raise InputError(f"{rows.name}: {what}. {_advice(rows, absent, max_bad_fraction)}")
    return replace(rows, notes=(*rows.notes, f"{rows.name}: {what}"))


def _advice(rows: Rows, absent: list[int], max_bad_fraction: float) -> str:
    if rows.images[absent[0]].partition("://")[1]:
        return "Images must be local files; download them first"
    if len(absent) == len(rows) and rows.table is not None:
        return "Paths are relative to the table's own folder unless its `root` names another"
    if len(absent) == len(rows):
        return "Copy the files here anew"
    return f"data.max_bad_fraction allows {100 * max_bad_fraction:g} %; mend the files or raise it"


def _check_class_names(class_names: Mapping[str, str], classes: Sequence[str]) -> None:
    unknown = [name for name in class_names if name not in classes]
    if not unknown:
        return
    if not classes:
        raise InputError("data.class_names: the rows have no classes; a table needs `label` for them")
    close = nearest(unknown[0], classes)
    raise InputError(
        f"data.class_names: no class {some([repr(name) for name in unknown])}"
        f"{f' (did you mean {close[0]!r}?)' if close else ''}; the classes are {some(classes, 12)}"
    )


def trained_on(
    rows: Rows, source: Source, data: DataConfig, seed: int, novel: NovelClasses | None = None
) -> tuple[str, ...]:
    """What to say where a run has trained on these rows: by where they come from, else by their images' content."""
    if may_overlap(source, data.train):
        return (f"{rows.name}: has rows that the run trained on, so these are no held-out figures",)
    try:
        seen = read_splits(data, seed, novel).train
    except InputError as error:
        return (f"the run's training data cannot be read ({error}), so whether it has these images is not known",)
    before, now = identify([seen.images, rows.images])
    seen, rows = replace(seen, identities=before.ids), replace(rows, identities=now.ids)
    return overlap_note(seen, rows, f"images of {rows.name}")


def may_overlap(one: Source, other: Source) -> bool:
    """Whether two sources take rows from the same place, however its path is written; no image is read."""
    if _place(one) != _place(other):
        return False
    splits = [source.split for source in (one, other) if isinstance(source, TableSource) and source.split]
    parts = [[word.strip() for word in split.split("=", 1)] for split in splits]
    apart = len(parts) == 2 and parts[0][0] == parts[1][0] and parts[0][1] != parts[1][1]
    return not apart  # two values of one column share no row; anything else may


def _place(source: Source) -> tuple[str, str]:
    match source:
        case TableSource(table=path):
            return "table", _resolved(path)
        case FolderSource(folder=path) | SidecarSource(sidecar=path):
            return "folder", _resolved(path)
        case HandsSource(seed=seed):  # the fewer hands of a seed are the first of the more
            return "hands", str(seed)


def _resolved(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


# --- --data on the command line ------------------------------------------------------------------

_FORMS = "folder:DIR, table:FILE,image=COLUMN,caption=COLUMN, sidecar:DIR or builtin:hands"


def parse_data_option(text: str) -> Source:
    """A source written in one word, such as table:a.csv,image=filepath,caption=title,split=test.

    `split=test` means the column named split; another is written `split=fold=3`.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in SOURCES or not rest:
        hint = f"; write folder:{text}" if os.path.isdir(text) else ""
        raise InputError(f"--data: expected {_FORMS}, found {text!r}{hint}")
    main, *options = re.split(r",(?=\w+=)", rest)
    values: dict[str, object] = {kind: main}
    for option in options:
        name, _, value = option.partition("=")
        if name not in SOURCES[kind].model_fields or name == kind:
            known = [field for field in SOURCES[kind].model_fields if field != kind]
            close = nearest(name, known)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"--data: {kind} has no {name!r}{hint} ({some(known) or 'it takes no further keys'})")
        if name == "split" and "=" not in value:
            value = f"split={value}"
        values[name] = int(value) if name in ("count", "size", "seed") and value.isdecimal() else value or None
    try:
        source = SOURCES[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"--data: {where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}, in {text!r}"
        ) from None
    assert isinstance(source, FolderSource | TableSource | SidecarSource | HandsSource)
    return source

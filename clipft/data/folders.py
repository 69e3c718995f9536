"""Sources that are folders: a folder a class, or images beside their captions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipft.config.paths import missing_path
from clipft.config.source_schema import FolderSource, SidecarSource
from clipft.data.columns import TextColumn, TextColumnBuilder
from clipft.data.images import SUFFIXES
from clipft.data.names import natural_key
from clipft.data.rows import FileImages, Rows
from clipft.errors import InputError
from clipft.words import counted, some

SPLITS = frozenset({"train", "val", "valid", "validation", "test", "training", "testing"})
MAX_CAPTION_BYTES = 1 << 16


@dataclass
class _Found:
    """Files below a folder: the names that count, and how many were passed over by suffix."""

    images: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, text_suffix: str | None = None) -> None:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            self.images.append(name)
        elif suffix == text_suffix:
            self.texts.add(name)
        else:
            self.others[suffix or "no suffix"] += 1


def hidden(name: str) -> bool:
    """Whether a file or folder is none of the data, by its name."""
    # .DS_Store, ._photo.jpg, .ipynb_checkpoints; macOS archives add __MACOSX
    return name.startswith(".") or name == "__MACOSX"


def walk(root: Path) -> Iterator[str]:
    """Relative names of all files below, in natural order; links are followed, rings of them once round at most."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted((name for name in folders if not hidden(name)), key=natural_key)
        relative = os.path.relpath(folder, root)
        for name in sorted(files, key=natural_key):
            if not hidden(name):
                yield name if relative == "." else os.path.join(relative, name)


def _refuse_unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})")


def _find(root: Path, text_suffix: str | None = None) -> _Found:
    found = _Found()
    for name in walk(root):
        found.add(name, text_suffix)
    return found


def _left_out(name: str, others: Counter[str]) -> tuple[str, ...]:
    if not others:
        return ()
    kinds = some([f"{suffix} {count}" for suffix, count in others.most_common()])
    return (f"{name}: {counted(others.total(), 'file')} left out, no image by suffix ({kinds})",)


def _existing_folder(path: str, key: str) -> Path:
    root = Path(path).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise InputError(
            f"{key}: {path} is a file; expected a folder (a table is written {written(key, 'table', path)})"
        )
    raise InputError(f"{key}: {missing_path(str(root))}")


def written(key: str, kind: str, path: str) -> str:
    """A source as it is written where `key` is: in a config, or behind an option."""
    if not key.startswith("--"):
        return f"{{{kind}: {path}}}"
    return f"{kind}:{path}" + (",caption=COLUMN" if kind == "table" else "")


def read_folder(source: FolderSource, key: str) -> Rows:
    """A folder with one folder of images a class; images may lie deeper in a class's folder."""
    root, name = _existing_folder(source.folder, key), f"folder {source.folder}"
    classes, loose = _entries(root)
    _refuse_without_classes(key, root, source.folder, classes, loose.images)

    images, labels, others = TextColumnBuilder(), [], loose.others
    for label, class_name in enumerate(classes):
        found = _find(root / class_name)
        for image in found.images:
            images.append(os.path.join(class_name, image))
        labels += [label] * len(found.images)
        others += found.others
    if not labels:
        raise InputError(f"{key}: {source.folder} has {counted(len(classes), 'class folder')} but no image in them")
    notes = _left_out(name, others)
    if loose.images:
        beside = counted(len(loose.images), "image")
        notes += (f"{name}: {beside} beside the class folders left out, of no class: {some(loose.images, 3)}",)
    numbers = np.arange(len(labels))
    return Rows(
        name=name,
        images=FileImages(str(root), images.build()),
        captions=None,
        labels=np.array(labels, np.int64),
        classes=tuple(classes),
        identities=numbers,
        groups=numbers,
        notes=notes,
    )


def _entries(root: Path) -> tuple[list[str], _Found]:
    """Class folders, and the files that lie loose beside them."""
    try:
        entries = [entry for entry in root.iterdir() if not hidden(entry.name)]
    except OSError as error:
        raise InputError(f"{root}: cannot be listed ({error.strerror})") from None
    entries.sort(key=lambda entry: natural_key(entry.name))
    loose = _Found()
    for entry in entries:
        if not entry.is_dir():
            loose.add(entry.name)
    return [entry.name for entry in entries if entry.is_dir()], loose


def _refuse_without_classes(key: str, root: Path, shown: str, classes: list[str], images: list[str]) -> None:
    if not classes and not images:
        raise InputError(f"{key}: {shown} holds no class folder and no image")
    if not classes:
        raise InputError(
            f"{key}: {shown} holds no class folder, only {counted(len(images), 'image')} such as {images[0]}; expected "
            f"one folder of images a class. With a .txt beside each image write {written(key, 'sidecar', shown)}, "
            f"with a table {written(key, 'table', 'FILE.csv')}"
        )
    splits = [name for name in classes if name.lower() in SPLITS]
    if len(splits) == len(classes) and any(entry.is_dir() for name in splits for entry in (root / name).iterdir()):
        train = next((name for name in splits if name.lower().startswith("train")), splits[0])
        fits = train if key.startswith("data.train") else next((name for name in splits if name != train), train)
        raise InputError(
            f"{key}: {shown} holds the splits {some(splits)}, not classes; write {os.path.join(shown, fits)}"
        )


def read_sidecar(source: SidecarSource, key: str) -> Rows:
    """A folder of images, at any depth, each beside a .txt file of the same stem with its caption."""
    root, name = _existing_folder(source.sidecar, key), f"sidecar {source.sidecar}"
    found = _find(root, text_suffix=".txt")
    texts = {os.path.splitext(text)[0]: text for text in found.texts}
    images, captions = TextColumnBuilder(), TextColumnBuilder()
    lonely, empty, used = [], [], set()
    for image in found.images:
        stem = os.path.splitext(image)[0]
        if stem not in texts:
            lonely.append(image)
            continue
        used.add(stem)
        caption = _read_caption(root / texts[stem])
        if not caption:
            empty.append(texts[stem])
            continue
        images.append(image)
        captions.append(caption)
    unused = sorted((text for stem, text in texts.items() if stem not in used), key=natural_key)
    notes = _left_out(name, found.others)
    for what, names in (("images without a .txt", lonely), ("empty .txt", empty), (".txt without an image", unused)):
        if names:
            notes += (f"{name}: {len(names):,} {what} left out: {some(names, 3)}",)
    column = images.build()
    if not len(column):
        raise InputError(
            f"{key}: {source.sidecar} holds no image with a caption ({counted(len(found.images), 'image')}, "
            f"{len(found.texts):,} .txt); expected photo.jpg beside photo.txt"
        )
    return _captioned(name, FileImages(str(root), column), captions.build(), notes)


def _captioned(name: str, images: FileImages, captions: TextColumn, notes: tuple[str, ...]) -> Rows:
    numbers = np.arange(len(images))
    return Rows(name, images, captions, None, (), identities=numbers, groups=numbers, notes=notes)


def _read_caption(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_CAPTION_BYTES or b"\0" in raw:
        raise InputError(f"{path}: is no caption ({'over 64 KB' if len(raw) > MAX_CAPTION_BYTES else 'a NUL byte'})")
    try:
        return " ".join(raw.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None

"""Files and folders: the config file itself, and those that its sources name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from clipft.config.hints import nearest
from clipft.config.source_schema import SOURCE_PLACES
from clipft.errors import ConfigError, Problem

MAX_BYTES = 1_000_000

# Data sets that the shipped configs name, and how to get them.
HOW_TO_GET = {
    "signdigits": "python scripts/prepare_signdigits.py --source CLONE --out data/signdigits",
}


def read_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: it is missing, no regular file, above 1 MB, or not UTF-8.
    """
    try:
        if not path.exists():
            raise _refused(path, _does_not_exist(str(path)))
        if not path.is_file():
            raise _refused(path, "is a folder, not a config file" if path.is_dir() else "is not a regular file")
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise _refused(path, f"has {size:,} bytes; a config has at most {MAX_BYTES:,}")
            return _decode(path, file.read(MAX_BYTES + 1))
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror or error}") from None


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused(path, "is UTF-16, not UTF-8; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _refused(path, f"is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8", line) from None


def _refused(path: Path, message: str, line: int | None = None) -> ConfigError:
    return ConfigError(str(path), (Problem(line, "", message),))


# --- what the sources name -----------------------------------------------------------------------


def missing(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Key and sentence for each path of a source in a raw config, valid or not, that is not there."""
    for section, place in SOURCE_PLACES:
        keys = values.get(section)
        source = keys.get(place) if isinstance(keys, Mapping) else None
        for key in ("folder", "table", "sidecar", "root"):
            value = source.get(key) if isinstance(source, Mapping) else None
            if isinstance(value, str) and (message := _absent(value, folder=key != "table")):
                yield (section, place, key), message


def missing_path(path: str) -> str:
    """The sentence for a path that is not there."""
    return f"{path[:300] or repr(path)} {_does_not_exist(path)}"


def _absent(path: str, *, folder: bool) -> str | None:
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return None if folder else f"{path} is a folder, expected a file"
    if os.path.exists(path):
        return f"{path} is a file, expected a folder" if folder else None
    return missing_path(path)


def _does_not_exist(path: str) -> str:
    """... with the nearest path that does and, where known, how to make this one."""
    near = nearest_path(path)
    known = next((HOW_TO_GET[part] for part in Path(path).parts if part in HOW_TO_GET), None)
    return f"does not exist{f' ({near} does)' if near else ''}{f'; to make it: {known}' if known else ''}"


def nearest_path(path: str) -> str | None:
    """An existing path whose first wrong part looks like the one given; None if there is none."""
    parts = Path(path).parts
    for index in range(len(parts)):
        if not os.path.exists(Path(*parts[: index + 1])):
            parent = Path(*parts[:index])
            break
    else:
        return None
    try:
        names = sorted(entry.name for entry in islice(os.scandir(parent), 10_000))
    except OSError:
        return None
    for name in nearest(parts[index], names, count=3):
        whole = parent.joinpath(name, *parts[index + 1 :])
        return str(whole if os.path.exists(whole) else parent / name)
    return None

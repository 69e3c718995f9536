"""Where results go: checked before hours of work, written whole or not at all, over nothing but their own kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from clipft.errors import ClipftError, InputError

T = TypeVar("T")

MARK = "clipft embed"
"""Stands near the beginning or the end of every file that is written here."""

_NEAR = 1 << 22  # bytes: a Parquet footer lists each class and each unreadable file
_NEEDS = {
    ".parquet": ("pyarrow", "pip install 'clipft[parquet]'"),
    ".png": ("matplotlib", "pip install 'clipft[plot]' (.html needs nothing)"),
}


def check_out(out: str, option: str, suffixes: Sequence[str], *, mark: str = MARK) -> Path:
    """The file to write, once it is known that it can be.

    Args:
        out: as the user wrote it; an earlier result of this command there will be replaced.
        option: what messages call it.
        suffixes: the kinds of file that are known.
        mark: what stands in the files that this command writes, which may be replaced.

    Raises:
        InputError: of no known kind, a library for it is missing, something else is there, or its folder cannot be
            written to.
    """
    path = Path(out).expanduser()
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"{option}: expected a file that ends in {' or '.join(suffixes)}, found {out!r}")
    library, install = _NEEDS.get(suffix, ("", ""))
    if library and find_spec(library) is None:
        raise InputError(f"{option}: {suffix} needs {library}; install it with: {install}")
    if path.exists() and not _is_ours(path, mark):
        found = "a folder" if path.is_dir() else f"a file that {mark} did not write"
        raise InputError(f"{option}: {out} is {found}; name another")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{option}: {above} is a file, not a folder; name another")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{option}: {above} is not writable; name another folder")
    return path


def write_whole(path: Path, write: Callable[[Path], T]) -> T:
    """Let `write` fill a file beside `path`, then give it its name; the folder is made where it is missing.

    Raises:
        ClipftError: the disk is full or the folder cannot be written to.
    """
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # as the user's umask has it; safetensors makes files for their owner alone
        written = write(partial)
        partial.chmod(mode)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise ClipftError(f"{path}: could not be written ({error}); no part of it was left") from error
    finally:
        partial.unlink(missing_ok=True)
    return written


def _is_ours(path: Path, mark: str) -> bool:
    """Whether nothing is lost with the file: it is empty, or an earlier result."""
    try:
        with path.open("rb") as file:
            head = file.read(_NEAR)
            file.seek(max(0, path.stat().st_size - _NEAR))
            return not head or mark.encode() in head or mark.encode() in file.read()
    except OSError:  # a folder, or not ours to read
        return False

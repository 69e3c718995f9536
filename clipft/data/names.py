"""Names as people write and read them: natural order, the nearest known one, a few out of many."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts "2" before "10"; equal numbers ("1", "01") by their spelling."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part], name


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like this one, if any is close."""
    lower = {candidate.lower(): candidate for candidate in reversed(list(known))}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return lower[close[0]] if close else None


def some(names: Sequence[str], limit: int = 6) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def counted(count: int, noun: str) -> str:
    """1 image, 2 images, 1,200 images."""
    plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def missing_path(path: str) -> str:
    """Why a path is not there: what does exist nearby, or the script that makes it."""
    sentence = f"{path} does not exist"
    for part in Path(path).parts:
        script = Path("scripts") / f"prepare_{part}.py"
        if script.is_file():
            return f"{sentence}; to make it: python {script}"
    found = _nearest_path(Path(path))
    return f"{sentence} ({found} does)" if found else sentence


def _nearest_path(path: Path) -> str | None:
    """The path with each part that is not there replaced by the nearest that is; None where nothing is near."""
    here = Path(path.anchor) if path.is_absolute() else Path()
    for part in path.relative_to(path.anchor).parts:
        if not (here / part).exists():
            try:
                entries = sorted(os.listdir(here))
            except OSError:
                return None
            close = nearest(part, entries)
            if close is None:
                return None
            part = close
        here = here / part
    return str(here)

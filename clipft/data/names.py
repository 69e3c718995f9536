"""Names as people write and read them: natural order, a few out of many."""

from __future__ import annotations

import re
from collections.abc import Sequence


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts "2" before "10"; equal numbers ("1", "01") by their spelling."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part], name


def some(names: Sequence[str], limit: int = 6, total: int | None = None) -> str:
    """The first few names, and how many more there are; of so many in all, where only the first are given."""
    total = len(names) if total is None else total
    more = f" and {total - limit:,} more" if total > limit else ""
    return ", ".join(names[:limit]) + more


def counted(count: int, noun: str) -> str:
    """1 image, 2 images, 1,200 images."""
    plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def is_text(name: str) -> bool:
    """Whether a name from the file system is text, not bytes that no encoding explains."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)

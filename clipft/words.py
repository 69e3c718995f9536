"""Names and numbers in a sentence."""

from __future__ import annotations

from collections.abc import Iterable


def some(names: Iterable[str], limit: int = 6, total: int | None = None) -> str:
    """The first few names, and how many more there are; of so many in all, where only the first are given."""
    names = list(names)
    total = len(names) if total is None else total
    more = f" and {total - limit:,} more" if total > limit else ""
    return ", ".join(names[:limit]) + more


def counted(count: int, noun: str) -> str:
    """1 image, 2 images, 1,200 images."""
    plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"

"""Names as people write and sort them."""

from __future__ import annotations

import re


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts "2" before "10"; equal numbers ("1", "01") by their spelling."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part], name


def is_text(name: str) -> bool:
    """Whether a name from the file system is text, not bytes that no encoding explains."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)

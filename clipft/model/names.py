"""Names in a sentence."""

from __future__ import annotations

from collections.abc import Iterable


def listed(words: Iterable[str], most: int = 5) -> str:
    """The first `most` words with commas between, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def of_tensors(count: int) -> str:
    """1 tensor, 2 tensors."""
    return "1 tensor" if count == 1 else f"{count:,} tensors"

"""What a message suggests in place of a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that look most like `word`, best first; case and - for _ do not count.

    Of names that are alike but for these the first stands for all.
    """
    plain: dict[str, str] = {}
    for name in known:
        plain.setdefault(_plain(name), name)
    # difflib takes time with the square of the length
    return [plain[name] for name in get_close_matches(_plain(word[:80]), plain, count, cutoff)]


def one_of(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")

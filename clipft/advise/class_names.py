"""Words for class names that read badly in a prompt: numbers, underscores, CamelCase, indices in front."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clipft.data.names import is_text

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)


@dataclass(frozen=True)
class Wording:
    """What to call the classes.

    Args:
        names: class to words, only where they differ.
        why: what was changed; empty where nothing was.
        codes: names that no rule can put into words, such as n01440764.
    """

    names: dict[str, str]
    why: str = ""
    codes: tuple[str, ...] = ()


def wording(classes: Sequence[str]) -> Wording:
    """Words for classes whose names read badly, none of them twice."""
    if classes and all(name.isascii() and name.isdigit() for name in classes):
        if all(int(name) < len(NUMBERS) for name in classes):
            names = {name: NUMBERS[int(name)] for name in classes}
            if len(set(names.values())) == len(names):
                return Wording(names, "numbers", ())
        return Wording({}, "", tuple(classes))
    words = _without_index(classes)
    spoken = {name: _spoken(word) for name, word in zip(classes, words, strict=True)}
    if len(set(spoken.values())) < len(spoken):
        spoken = {}
    changed = {name: word for name, word in spoken.items() if word != name and is_text(name)}
    codes = tuple(name for name in classes if re.fullmatch(r"[A-Za-z]{0,6}[ _-]?\d+", spoken.get(name, name)))
    changed = {name: word for name, word in changed.items() if name not in codes}
    return Wording(changed, "words" if changed else "", codes)


def _without_index(classes: Sequence[str]) -> list[str]:
    """Names without the number that each begins with, as in 001.Black_footed_Albatross, where they stay different."""
    rest = [re.sub(r"^\d+[._ -]+", "", name) for name in classes]
    indexed = all(short != name for short, name in zip(rest, classes, strict=True))
    return rest if indexed and len(set(rest)) == len(rest) and all(rest) else list(classes)


def _spoken(name: str) -> str:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ").replace("+", " "))
    return " ".join(apart.split()) or name

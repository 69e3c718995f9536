"""Numbers as a person reads them: thousands separated, shares, bytes, FLOPs."""

from __future__ import annotations

import re

from clipft.errors import InputError


def grouped(number: int) -> str:
    """A whole number with its thousands separated: 151,277,313."""
    return f"{number:,}"


def share(part: int, whole: int) -> str:
    """A share in per cent with one decimal; what is there but small is below 0.1, not 0."""
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1 %"
    if part < whole and percent >= 99.95:
        return ">99.9 %"
    return f"{percent:.1f} %" if part < whole else "100 %"


def read_bytes(words: str, key: str) -> int:
    """Bytes of a size such as 8GB, 7.5 GB or 24GiB.

    Args:
        key: where it was written, as the message calls it.

    Raises:
        InputError: it is no such size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b?", words.strip().lower())
    if not found or float(found[1]) == 0:
        raise InputError(f"{key}: expected a size such as 8GB, 7.5GB or 24GiB, found {words!r}")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** (1 + "kmgt".index(found[2])))


def in_bytes(count: float) -> str:
    """Bytes in powers of ten: 605 MB, 2.3 GB."""
    return _scaled(count, "B", "kMG")


def in_flops(count: float) -> str:
    """Floating-point operations in powers of ten: 41 GFLOP, 2.8 TFLOP."""
    return _scaled(count, "FLOP", "kMGTP")


def _scaled(count: float, unit: str, prefixes: str) -> str:
    """The largest of the prefixes, each a thousand times the one before, that leaves at least 1."""
    for power in range(len(prefixes), 0, -1):
        value = count / 1000**power
        if value >= 1:
            return f"{value:.{1 if value < 9.95 else 0}f} {prefixes[power - 1]}{unit}"
    return f"{count:.0f} {unit}"

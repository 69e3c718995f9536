"""Numbers as a person reads them: thousands separated, shares, bytes."""

from __future__ import annotations


def counted(number: int) -> str:
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


def in_bytes(count: float) -> str:
    """Bytes in powers of ten: 605 MB, 2.3 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{count:.0f} B"

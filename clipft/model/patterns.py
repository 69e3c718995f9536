"""Regular expressions over parameter names, under the number rule: a match may not begin or end inside a number."""

from __future__ import annotations

import difflib
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from clipft.errors import InputError

# not between two digits: after a non-digit, or before one
_NUMBER_EDGE = r"(?:(?<![0-9])|(?![0-9]))"
_LEADING_FLAGS = re.compile(r"(?:\(\?[aiLmsux]+\))*")
_LIMIT_S = 2.0


def names_matching(pattern: str, names: Sequence[str], *, key: str) -> tuple[str, ...]:
    """Those of `names` in which the pattern has a match that neither begins nor ends between two digits.

    Any possible match counts: `(1|11)` takes 11, though the expression would stop at 1 of its own accord.

    Args:
        key: the config key that the pattern stands under, for the error.

    Raises:
        InputError: the pattern backtracks without end.
    """
    expression = bounded(pattern)
    with _time_limit(f"{key}: {pattern!r} takes for ever on names of {max(map(len, names), default=0)} characters"):
        return tuple(name for name in names if expression.search(name))


def bounded(pattern: str) -> re.Pattern[str]:
    """The pattern under the number rule, as one expression.

    Lookarounds inside it, rather than a look at what was found, make it try further matches of a name.
    """
    flags = re.compile(pattern).flags
    body = pattern[_LEADING_FLAGS.match(pattern).end() :]  # type: ignore[union-attr]  # it matches the empty string
    end = "\n" if flags & re.VERBOSE else ""  # a comment at the end would swallow the bracket
    return re.compile(f"{_NUMBER_EDGE}(?:{body}{end}){_NUMBER_EDGE}", flags)


def matches_nothing(pattern: str, names: Sequence[str], *, key: str, where: str) -> str:
    """The sentence for a pattern that took none of `names`, with those it may have meant (P14)."""
    inside = any(re.search(pattern, name) for name in names)
    why = " except inside a number" if inside else ""
    near = ", ".join(nearest_names(pattern, names))
    return f"{key}: {pattern!r} matches none of the {len(names)} {where}{why}. Nearest: {near}"


def nearest_names(pattern: str, names: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """The names that hold something most like the pattern's plain letters; of those in alike places the first."""
    wanted = re.sub(r"\\.|\[[^]]*\]|[^\w.]", "", pattern).strip(".").lower() or pattern.lower()
    best: dict[str, tuple[float, str]] = {}
    for name in names:
        kind = re.sub(r"\d+", "#", name.rpartition(".")[0])
        if kind not in best:
            best[kind] = (_likeness(wanted, name.lower()), name)
    ranked = sorted(best.values(), key=lambda scored: -scored[0])
    return tuple(name for score, name in ranked[:count] if score >= 0.9 * ranked[0][0])


def _likeness(wanted: str, name: str) -> float:
    """The best ratio of `wanted` with a piece of the name that begins where a path part begins."""
    starts = [0, *(found.end() for found in re.finditer(r"\.", name))]
    return max(difflib.SequenceMatcher(None, wanted, name[i : i + len(wanted)]).ratio() for i in starts)


@contextmanager
def _time_limit(complaint: str) -> Iterator[None]:
    """InputError when the body runs longer than a few seconds.

    Python's `re` has no limit of its own but lets signals through, which only the main thread of a Unix process gets;
    elsewhere a pattern such as `(.+)+x` still has to be stopped by hand.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise InputError(f"{complaint}; write it without a repeat inside a repeat")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

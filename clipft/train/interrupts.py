"""Ctrl-C that no part of the program can swallow: it is raised at once, and again at the next step if it got lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupts:
    """Whether Ctrl-C was pressed."""

    came: bool = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where one came and was lost.

        Python drops an exception that a signal raises inside a callback, such as those that run when a data worker
        is forked.
        """
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def remember_interrupts() -> Iterator[Interrupts]:
    """Note each SIGINT beside raising KeyboardInterrupt for it; outside of the main thread nothing is caught."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.came = True
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)

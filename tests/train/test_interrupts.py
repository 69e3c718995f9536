"""Ctrl-C at any moment."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from clipft.train.interrupts import remember_interrupts


def test_a_lost_interrupt_is_raised_at_the_next_check() -> None:
    """P38: a signal during the fork of a data worker, say, whose callbacks drop exceptions."""
    before = signal.getsignal(signal.SIGINT)
    with remember_interrupts() as interrupts:
        interrupts.check()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before

"""Ctrl-C at any moment."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest
from train_runs import Write
from typer.testing import CliRunner

from clipft.cli import app
from clipft.train.interrupts import remember_interrupts
from clipft.train.keeper import Keeper


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


@pytest.mark.parametrize(
    ("after", "told"),
    [(0, "no epoch had ended, so the same command begins again"), (2, "the same command goes on after epoch 2")],
)
def test_a_stopped_run_says_where_it_stands(
    write: Write, monkeypatch: pytest.MonkeyPatch, after: int, told: str
) -> None:
    """P38: it knows whether an epoch had ended."""
    real = Keeper.save

    def save(self: Keeper, *, epoch_end: bool = True) -> None:
        if self.progress.epoch > after:
            raise KeyboardInterrupt
        real(self, epoch_end=epoch_end)

    monkeypatch.setattr(Keeper, "save", save)
    done = CliRunner().invoke(app, ["train", str(write())])
    assert done.exit_code == 130
    assert done.output.splitlines()[-1] == f"stopped; {told}"

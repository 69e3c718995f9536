"""Rates over a run's steps."""

import math

import pytest

from clipft.train.optim import Schedule, warmup_steps


def test_cosine_is_open_clip_trains() -> None:
    """The formula of open_clip_train 3.3's scheduler, written out."""
    schedule = Schedule("cosine", steps=100, warmup=10, min_lr=0.0)
    for step in range(100):
        expected = (step + 1) / 10 if step < 10 else 0.5 * (1 + math.cos(math.pi * (step - 10) / 90))
        assert schedule.rate(1.0, step) == pytest.approx(expected)


def test_each_kind_starts_at_its_peak_after_the_warmup() -> None:
    """P30: the planned rate is reached."""
    for kind in ("cosine", "linear", "constant"):
        schedule = Schedule(kind, steps=50, warmup=5, min_lr=0.0)
        assert schedule.rate(3e-4, 4) == pytest.approx(3e-4)
        assert schedule.rate(3e-4, 5) == pytest.approx(3e-4)


def test_it_falls_to_min_lr_and_never_above_a_groups_peak() -> None:
    schedule = Schedule("linear", steps=10, warmup=0, min_lr=1e-5)
    assert schedule.rate(1e-3, 9) == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.1)
    assert schedule.rate(1e-6, 9) == pytest.approx(1e-6)


@pytest.mark.parametrize(("warmup", "expected"), [(0.05, 5), (0.0, 0), (0.5, 50), (1, 1), (20, 20)])
def test_warmup_is_a_fraction_below_one_and_a_count_from_there(warmup: float, expected: int) -> None:
    """P30."""
    assert warmup_steps(warmup, 100) == expected

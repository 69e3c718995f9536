"""Random numbers that depend on what is asked alone: (seed, epoch, row, purpose), never on who asks or when.

So the same run with 0 or 8 workers, or resumed at an epoch's end, sees the same data.
"""

from __future__ import annotations

import numpy as np

from clipft.data.columns import Ints

_MASK = (1 << 64) - 1

# What a number is for: two purposes never share one.
TEMPLATE, AUGMENT, REPLACE, ORDER, HOLD_OUT, SHOTS = range(6)


def draw(purpose: int, *keys: int) -> int:
    """A number from 0 to 2^63 - 1, evenly spread over different keys (SplitMix64: Steele et al., OOPSLA 2014)."""
    state = 0
    for key in (purpose, *keys):
        state = _mix((state ^ (key & _MASK)) + 0x9E3779B97F4A7C15)
    return state >> 1


def _mix(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def shuffled(count: int, purpose: int, *keys: int) -> Ints:
    """(count,) 0 to count - 1 in an order that the keys alone decide."""
    return np.random.Generator(np.random.PCG64(draw(purpose, *keys))).permutation(count)

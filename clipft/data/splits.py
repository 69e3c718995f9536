"""Training and validation apart: by image or group, never by row (P10); the same for the same seed."""

from __future__ import annotations

import numpy as np

from clipft.data.columns import Ints
from clipft.data.draws import HOLD_OUT, shuffled
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.words import counted, some


def hold_out(rows: Rows, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Indices that stay and indices held out: whole components, each class in its proportion.

    A component is all rows tied together by a shared image or a shared group.
    """
    members = _members(_components(rows))
    if len(members) < 2:
        raise InputError(
            f"data.val: {fraction} of {rows.name} cannot be held out: its {counted(len(rows), 'row')} "
            "all share one image or group"
        )
    order = shuffled(len(members), HOLD_OUT, seed)
    stratum = [0 if rows.labels is None else int(rows.labels[members[number][0]]) for number in order]
    targets = _targets(stratum, [len(members[number]) for number in order], fraction)
    taken = dict.fromkeys(targets, 0)
    held: list[int] = []
    for name, number in zip(stratum, order.tolist(), strict=True):
        size = len(members[number])
        # A component may overshoot by at most half of itself, so that the share is right on average.
        if taken[name] + size / 2 <= targets[name] and taken[name] < targets[name]:
            taken[name] += size
            held.append(number)
    if not held:
        held = [min(order.tolist(), key=lambda number: len(members[number]))]
    outside = np.sort(np.concatenate([members[number] for number in held]))
    if len(outside) == len(rows):
        raise InputError(f"data.val: {fraction} of {rows.name} leaves no row to train on ({counted(len(rows), 'row')})")
    return np.setdiff1d(np.arange(len(rows)), outside), outside


def _components(rows: Rows) -> Ints:
    """(N,) the lowest row that a row is tied to through images and groups, over any number of steps."""
    ties = [np.unique(codes, return_inverse=True)[1] for codes in (rows.identities, rows.groups)]
    component = np.arange(len(rows))
    while True:
        before = component
        for tie in ties:
            lowest = np.full(len(rows), len(rows))
            np.minimum.at(lowest, tie, component)
            component = lowest[tie]
        if np.array_equal(before, component):
            return component


def _members(component: Ints) -> list[Ints]:
    """Rows of each component, in order of its first row."""
    order = np.argsort(component, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(component[order])) + 1)


def _targets(stratum: list[int], sizes: list[int], fraction: float) -> dict[int, int]:
    """Rows to hold out of each class: the fraction, rounded so that the sum is right (largest remainders first)."""
    totals: dict[int, int] = {}
    for name, size in zip(stratum, sizes, strict=True):
        totals[name] = totals.get(name, 0) + size
    targets = {name: int(total * fraction) for name, total in totals.items()}
    short = max(1, round(fraction * sum(sizes))) - sum(targets.values())
    by_remainder = sorted(totals, key=lambda name: targets[name] - totals[name] * fraction)
    for name in by_remainder[:short]:
        targets[name] += 1
    return targets


def overlap_note(train: Rows, val: Rows, what: str = "validation images") -> tuple[str, ...]:
    """Which images to measure on are in training too, byte for byte; identities must come from one identification."""
    first = {identity: row for row, identity in reversed(list(enumerate(train.identities.tolist())))}
    twice = [row for row, identity in enumerate(val.identities.tolist()) if identity in first]
    if not twice:
        return ()
    pairs = [f"{val.images[row]} = {train.images[first[int(val.identities[row])]]}" for row in twice[:3]]
    share = f"{len(twice):,} of {len(val):,} {what}"
    return (f"{share} are in training too, byte for byte: {some(pairs, 3, len(twice))}",)

"""Flat text, and draws that depend on their keys alone."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipft.data.columns import TextColumn
from clipft.data.draws import AUGMENT, ORDER, draw, shuffled
from clipft.data.names import natural_key
from clipft.words import counted, some

TEXTS = st.lists(st.text(st.characters(exclude_categories=())), max_size=20)


@given(TEXTS)
def test_a_column_is_its_strings(texts: list[str]) -> None:
    column = TextColumn.of(texts)
    assert list(column) == texts
    assert list(pickle.loads(pickle.dumps(column))) == texts
    assert [column[-1 - i] for i in range(len(texts))] == texts[::-1]


@given(TEXTS, st.data())
def test_taking_rows(texts: list[str], data: st.DataObject) -> None:
    count = len(texts)
    indices = data.draw(st.lists(st.integers(0, count - 1), max_size=30)) if count else []
    column = TextColumn.of(texts)
    assert list(column.take(np.array(indices, np.int64))) == [texts[i] for i in indices]
    assert list(column[1:-1]) == texts[1:-1]


def test_memory_is_flat() -> None:
    """P7: a column costs its bytes and 8 more a row, in two arrays and no Python object a row."""
    column = TextColumn.of(f"caption {i:07d}" for i in range(100_000))
    assert column.nbytes == 100_000 * 15 + 8 * 100_001
    assert len(pickle.dumps(column)) < column.nbytes + 1000


def test_codes_are_equal_for_equal_strings() -> None:
    assert TextColumn.of(["b", "a", "b", ""]).codes().tolist() == [0, 1, 0, 2]


def test_draws_spread_and_repeat() -> None:
    numbers = {draw(AUGMENT, seed, epoch, row) for seed in range(10) for epoch in range(10) for row in range(100)}
    assert len(numbers) == 10_000
    assert all(0 <= number < 2**63 for number in numbers)
    assert abs(np.mean([number % 10 for number in numbers]) - 4.5) < 0.15
    assert draw(AUGMENT, 1, 2) != draw(ORDER, 1, 2) != draw(ORDER, 2, 1)
    assert draw(AUGMENT, 3, 4, 5) == draw(AUGMENT, 3, 4, 5)


def test_an_order_is_a_permutation() -> None:
    assert sorted(shuffled(50, ORDER, 1, 2)) == list(range(50))
    assert (
        shuffled(50, ORDER, 1, 2).tolist() == shuffled(50, ORDER, 1, 2).tolist() != shuffled(50, ORDER, 1, 3).tolist()
    )


@given(st.lists(st.text()))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_names_as_people_read_them() -> None:
    assert sorted(["10", "2", "b10", "b2", "01", "1"], key=natural_key) == ["01", "1", "2", "10", "b2", "b10"]
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert [counted(1, "image"), counted(2, "entry"), counted(1200, "row")] == ["1 image", "2 entries", "1,200 rows"]

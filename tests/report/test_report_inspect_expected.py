"""Inspect of a model of each kind of family, as text that a person can read beside this test."""

from __future__ import annotations

import pytest

from write_inspect_expected import FOLDER, NAMES, expected_file, inspected


@pytest.mark.parametrize("name", NAMES)
def test_inspect_shows_what_is_written_down(name: str) -> None:
    """Where a change is meant, `python scripts/write_inspect_expected.py` writes the files anew."""
    found = inspected(name)
    assert found == expected_file(name).read_text(encoding="utf-8")
    assert max(map(len, found.splitlines())) <= 80


def test_no_text_is_left_over() -> None:
    assert sorted(FOLDER.glob("inspect-*")) == sorted(map(expected_file, NAMES))

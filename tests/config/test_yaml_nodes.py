"""YAML text to values: what scalars mean, where keys stand, and what is refused with a sentence."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipft.config.dump import dump_yaml
from clipft.config.yaml_nodes import UnreadableError, read_yaml, resolve

NUMBERS = {
    "1e-5": 1e-5,
    "5E-6": 5e-6,
    ".1": 0.1,
    "1.": 1.0,
    "-3": -3,
    "+4": 4,
    "010": 10,
    "0x1F": 31,
    "0o17": 15,
    "1.0e+3": 1000.0,
    "9" * 400: float("inf"),
    "-.inf": float("-inf"),
}
WORDS = ("on", "off", "yes", "no", "On", "NO", "1_000", "12:30:00", "2001-01-01", "x0.5", "1e", "e5", ".", "0x", "none")


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_numbers(text: str, number: float) -> None:
    """P68: `1e-5` is a number, however it is written."""
    assert resolve(text) == number
    assert type(resolve(text)) is type(number)


@pytest.mark.parametrize("text", WORDS)
def test_words_stay_words(text: str) -> None:
    assert resolve(text) == text


def test_quoted_scalars_are_text() -> None:
    tree, _ = read_yaml("a: '1e-5'\nb: \"true\"\nc: |\n  7\n")
    assert tree is not None
    assert tree.plain() == {"a": "1e-5", "b": "true", "c": "7\n"}


def test_keys_are_text() -> None:
    tree, _ = read_yaml("0: a\nnull: b\ntrue: c\n1e-5: d\n~: e\n")
    assert tree is not None
    assert tree.plain() == {"0": "a", "null": "b", "true": "c", "1e-5": "d", "~": "e"}


def test_lines_of_keys() -> None:
    tree, _ = read_yaml("# first\na:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n")
    assert tree is not None
    assert [tree.find(path).line for path in (("a",), ("a", "b"), ("a", "c", 1), ("a", "c", 1, "d"))] == [2, 3, 6, 6]
    assert tree.find(("a", "unknown")).line == 2


def test_aliases_are_read() -> None:
    tree, _ = read_yaml("a: &x {b: 1}\nc: *x\n")
    assert tree is not None
    assert tree.plain() == {"a": {"b": 1}, "c": {"b": 1}}
    assert tree.find(("c",)).line == 2


def test_doubled_keys_are_all_told() -> None:
    _, problems = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert [(p.line, p.key, p.message) for p in problems] == [
        (2, "b.c", "stands here twice, first on line 2"),
        (3, "a", "stands here twice, first on line 1"),
    ]


REFUSED = {
    "a:\n\tb: 1": (2, "a tab indents this line; YAML wants spaces"),
    "text: {freeze_pattern: encoder.layer.[0-3]}": (1, "must be quoted: 'encoder.layer.[0-3]'"),
    "a: {b: embeddings|encoder.layer.[0-1], c: 1}": (1, "must be quoted: 'embeddings|encoder.layer.[0-1]'"),
    "a: {b: x{2}y, c: 1}": (1, "must be quoted: 'x{2}y'"),
    "a: [a photo of a {}., x]": (1, "must be quoted"),
    "a: [a-z]+x": (1, "must be quoted"),
    "a: *.attn": (1, "a text that begins with *, & or ! must be quoted"),
    "a: *attn": (1, "must be quoted: '*attn'"),
    "a: b: c": (1, "must be quoted"),
    "a: @x": (1, "a text that begins with '@' must be quoted"),
    'a: "\\d+"': (1, "single quotes keep it"),
    "a: 1\nb: 'x\nc: 1\n": (2, "a quote opens here and does not close"),
    "a: 1\nb: [1, 2\n": (2, "a bracket opens here and does not close"),
    "a: {b: 1\nc: 2\n": (2, "the bracket that opens on line 1 does not close"),
    "a: 1\n b: 2": (2, "the indentation is off"),
    "- a\nb: 1": (2, "the indentation is off"),
    "a: !!python/object:os.system x": (1, "!!python/object:os.system"),
    "!!str a: 1": (1, "tags"),
    "a:\n  <<: {b: 1}": (2, "merge keys"),
    "? [a]\n: b": (1, "a key must be a word"),
    "a: 1\n---\nb: 1": (2, "a second document begins here"),
    "a: 1\nb: \x00": (2, r"'\x00'"),
    "a: x\nb: \x1b[31m": (2, r"'\x1b'"),
    "a: '\ud800'": (1, r"'\ud800'"),
    "a: &x [*x]": (1, "refers to no &x above"),
    "[" * 500_000: (1, "nested more than 32 deep"),
    "{a: " * 200_000: (1, "nested more than 32 deep"),
    "- " * 5_000: (1, "nested more than 32 deep"),
    "".join(f"k{i}: 1\n" for i in range(60_000)): (50_000, "more than 50,000 values"),
    "a: {b: " + "x" * 900_000 + "[0]}": (1, "must be quoted"),
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_refused_with_line_and_sentence(text: str) -> None:
    line, words = REFUSED[text]
    started = time.perf_counter()
    with pytest.raises(UnreadableError) as caught:
        read_yaml(text)
    assert time.perf_counter() - started < 10
    assert caught.value.problem.line == line
    assert words in caught.value.problem.message


def test_alias_bombs_do_not_explode() -> None:
    wide = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    wide += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    deep = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 20_000))
    with pytest.raises(UnreadableError, match="aliases counted in full"):
        read_yaml(wide)
    with pytest.raises(UnreadableError, match="32 deep"):
        read_yaml(deep)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UnreadableError):
        read_yaml(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["1e-5", "on", "null", "0x1F", "1_000", "[a", "a: b", "#", "<<", "=", "~", "- a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["<<", "0", "null", "? a"]), VALUES, min_size=1))
def test_what_is_dumped_is_read_back(values: dict[str, object]) -> None:
    tree, problems = read_yaml(dump_yaml(values))
    assert tree is not None
    assert (tree.plain(), problems) == (values, ())

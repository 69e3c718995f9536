"""YAML text to values that remember their line.

PyYAML parses; what a scalar means is settled here, after YAML 1.2's core schema: `1e-5` is a number, `on` and `no`
are words, keys are always text. Bounds on size, depth and aliases hold while reading, so no file makes it hang.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from clipft.config.yaml_syntax import explain_syntax
from clipft.errors import Problem

MAX_VALUES = 50_000  # aliases counted at their full size
MAX_DEPTH = 32
MOST_DOUBLED = 20  # duplicate keys told at once

# At most 18 digits: a longer one becomes a float, so that no later conversion overflows.
INTEGER = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# What YAML forbids in its text: control characters, lone surrogates, non-characters.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value, its parts as nodes, and the line its key stands on (None: it came from `--set`)."""

    value: Scalar | dict[str, Node] | list[Node]
    line: int | None

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def find(self, path: tuple[str | int, ...]) -> Node:
        """The node at `path`, or the last one on the way there."""
        node = self
        for part in path:
            if isinstance(node.value, dict) and part in node.value:
                node = node.value[str(part)]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                break
        return node


class UnreadableError(Exception):
    """The text is not the YAML that a config may be."""

    def __init__(self, line: int | None, message: str, key: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(line, key, message)


def resolve(text: str) -> Scalar:
    """What an unquoted word means: null, true or false, a number, or itself."""
    if text in _WORDS:
        return _WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read_yaml(text: str) -> tuple[Node | None, tuple[Problem, ...]]:
    """The one document in `text`, None if there is none, and what can be read but must not stand there.

    Raises:
        UnreadableError: for what cannot be read at all.
    """
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise UnreadableError(line, f"the character {found.group()!r} may not stand in a text file")
    try:
        return _Reader(yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        line, message = explain_syntax(error, text)
        raise UnreadableError(line, message) from None
    except yaml.YAMLError as error:
        raise UnreadableError(None, f"is not valid YAML: {error}") from None


@dataclass
class _Reader:
    """Builds nodes from parser events; duplicate keys are collected, all else ends the reading."""

    events: Iterator[Any]
    anchors: dict[str, Node] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values: int = 0

    def document(self) -> tuple[Node | None, tuple[Problem, ...]]:
        root = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise UnreadableError(_line(event), "a second document begins here; a config is one document")
                root = self.build(next(self.events), ())
        if root is not None and root.value is None:
            root = None
        return root, tuple(self.problems)

    def build(self, event: Any, path: tuple[str, ...]) -> Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                hint = f"a text that begins with * must be quoted: '*{event.anchor}'"
                raise UnreadableError(
                    line, f"*{event.anchor} refers to no &{event.anchor} above; {hint}", ".".join(path)
                )
            self.count(self.anchors[event.anchor], len(path), line)
            return replace(self.anchors[event.anchor], line=line)
        if event.tag is not None:
            raise UnreadableError(line, f"YAML tags such as {_tag(event.tag)} are not read; write the plain value")
        self.count(None, len(path), line)
        node = Node(self.content(event, path), line)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def content(self, event: Any, path: tuple[str, ...]) -> Scalar | dict[str, Node] | list[Node]:
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        return resolve(event.value) if event.implicit[0] else str(event.value)

    def mapping(self, path: tuple[str, ...]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise UnreadableError(line, "a key must be a word; a text that begins with [, { or * must be quoted")
            if event.tag is not None:
                raise UnreadableError(line, f"YAML tags such as {_tag(event.tag)} are not read; write the plain key")
            key, here = event.value, (*path, event.value)
            if key == "<<" and event.implicit[0]:
                raise UnreadableError(line, "merge keys (<<) are not read; write the keys out", ".".join(path))
            value = replace(self.build(next(self.events), here), line=line)
            if key in found and len(self.problems) < MOST_DOUBLED:
                self.problems.append(
                    Problem(line, ".".join(here), f"stands here twice, first on line {found[key].line}")
                )
            found.setdefault(key, value)
        return found

    def sequence(self, path: tuple[str, ...]) -> list[Node]:
        found: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            found.append(self.build(event, (*path, str(len(found)))))
        return found

    def count(self, node: Node | None, depth: int, line: int) -> None:
        """Count a new value, or all that an alias repeats."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise UnreadableError(line, f"more than {MAX_VALUES:,} values up to here, aliases counted in full")
        if depth > MAX_DEPTH:
            raise UnreadableError(line, f"values are nested more than {MAX_DEPTH} deep")
        if node is not None and isinstance(node.value, (dict, list)):
            for child in node.value.values() if isinstance(node.value, dict) else node.value:
                self.count(child, depth + 1, line)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")[:60]

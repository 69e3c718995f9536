"""`--set a.b=c`, the level above the file: what it replaces, and what it clears."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from clipft.config.mistakes import show
from clipft.config.schema import FREEZE_KEYS
from clipft.config.source_schema import SOURCE_PLACES, SOURCES
from clipft.config.yaml_nodes import MAX_DEPTH, Node, UnreadableError, read_yaml
from clipft.errors import Problem

_EMPTY = Node({}, None)


def read_overrides(overrides: Sequence[str]) -> tuple[Node, list[Problem]]:
    """All overrides as one tree, a later one over an earlier, and those that cannot be read."""
    tree, problems = _EMPTY, []
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > MAX_DEPTH:
            problems.append(Problem(None, "", f"expected key=value such as optim.lr=3e-5, found {override!r}", "--set"))
            continue
        try:
            value, doubled = read_yaml(text)
        except UnreadableError as error:
            problems.append(Problem(None, key.strip(), str(error), "--set"))
            continue
        problems += [replace(p, line=None, key=f"{key.strip()}.{p.key}", place="--set") for p in doubled]
        leaf = _without_lines(value) if value is not None else Node(None, None)
        tree = merge(tree, node_at(parts, leaf))
    return tree, problems


def node_at(path: Sequence[str], leaf: Node) -> Node:
    """A tree that has nothing but this leaf, at this path, on no line."""
    return reduce(lambda below, part: Node({part: below}, None), reversed(path), leaf)


@dataclass(frozen=True)
class Levels:
    """What two levels are called: the upper one's keys win."""

    upper: str
    lower: str


SET_OVER_FILE = Levels("--set", "the file")
FILE_OVER_STRATEGY = Levels("the file", "the strategy")


def lay_over(tree: Node, changes: Node, levels: Levels = SET_OVER_FILE) -> tuple[Node, tuple[str, ...]]:
    """The lower level with the upper one over it, and a note for each key that the upper one clears.

    A freeze key that says something clears the tower's freeze keys below it, since precedence rules within one level
    only; another kind of source clears the old source.
    """
    notes: list[str] = []
    for tower in ("image", "text"):
        path = ("model", tower)
        if levels == FILE_OVER_STRATEGY:  # null in a file is no word against a strategy
            silent = {k for k, node in _section(changes, path).items() if k in FREEZE_KEYS and node.value is None}
            changes = _without(changes, path, silent) if silent else changes
        there = _section(changes, path)
        if written := {key for key in FREEZE_KEYS if key in there and there[key].value is not None}:
            tree = _clear(tree, path, set(FREEZE_KEYS) - there.keys(), written, levels, notes)
    for path in SOURCE_PLACES:
        kind, old = _section(changes, path).keys() & set(SOURCES), _section(tree, path).keys()
        if kind and not kind & old and old & set(SOURCES):
            tree = _clear(tree, path, old, kind, levels, notes)
    return merge(tree, changes), tuple(notes)


def merge(base: Node, over: Node) -> Node:
    """Sections are laid over one another key by key; anything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, base.line)


def _section(tree: Node, path: tuple[str, ...]) -> dict[str, Node]:
    """The keys written at `path`; none where there is no such section."""
    for part in path:
        children = tree.value if isinstance(tree.value, dict) else {}
        if part not in children:
            return {}
        tree = children[part]
    return tree.value if isinstance(tree.value, dict) else {}


def _clear(
    tree: Node, path: tuple[str, ...], keys: Collection[str], by: Collection[str], levels: Levels, notes: list[str]
) -> Node:
    """`tree` without `keys` of the section at `path`; a note tells those that said something."""
    gone = {key: node for key, node in _section(tree, path).items() if key in keys}
    if said := ", ".join(f"{key}: {show(node.plain())}" for key, node in gone.items() if node.value is not None):
        notes.append(f"{'.'.join(path)}: {', '.join(sorted(by))} of {levels.upper} clears {said} of {levels.lower}")
    return _without(tree, path, gone) if gone else tree


def _without(tree: Node, path: tuple[str, ...], keys: Collection[str]) -> Node:
    children = _section(tree, ())
    if not path:
        return Node({key: node for key, node in children.items() if key not in keys}, tree.line)
    return Node({**children, path[0]: _without(children[path[0]], path[1:], keys)}, tree.line)


def _without_lines(node: Node) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _without_lines(child) for key, child in node.value.items()}, None)
    if isinstance(node.value, list):
        return Node([_without_lines(child) for child in node.value], None)
    return Node(node.value, None)

"""Pydantic's errors as problems with line, key, what is allowed and what was found, in our own sentences."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

from pydantic import ValidationError

from clipft.config.dump import inline_yaml
from clipft.config.hints import nearest, one_of
from clipft.config.source_schema import SOURCES
from clipft.config.strategy_schema import STRATEGIES, NoOptionError
from clipft.config.vocabulary import (
    KeyPath,
    Schemas,
    allowed,
    dotted,
    keys_of,
    locate,
    one_in_list,
    option_homes,
    section_named,
    unknown_key,
)
from clipft.config.yaml_nodes import Node, resolve
from clipft.errors import Problem

_NO_BRANCH = ("literal_error", "int_type", "model_type", "model_attributes_type", "dict_type")
MOST = 50  # mistakes told at once


def explain(error: ValidationError, tree: Node) -> list[Problem]:
    """One problem for each place that is wrong."""
    found: dict[KeyPath, str] = {}
    unions: set[KeyPath] = set()
    for item in error.errors(include_url=False)[:MOST]:
        for path, message in _sentences(item):
            found.setdefault(path, message)
        if item["type"] in _NO_BRANCH and isinstance(item["input"], (dict, list)):
            unions.add(locate(item["loc"])[0])  # the other branch, a section or a list, says more about what is in it
    told = {path for path in found if path not in unions or not any(_below(other, path) for other in found)}
    more = error.error_count() - MOST
    rest = [Problem(None, "", f"{more:,} more mistakes are not told here")] if more > 0 else []
    return [problem_at(tree, path, message) for path, message in found.items() if path in told] + rest


def wrong_keys(error: ValidationError) -> list[KeyPath]:
    """The places that an error is about."""
    return [path for item in error.errors(include_url=False) for path, _ in _sentences(item)]


def explain_strategy(error: ValidationError) -> str:
    """What is wrong with the first strategy that is: our own sentence, or the option with what is allowed there."""
    items = error.errors(include_url=False)
    for item in items:
        if item["type"] == "value_error":
            return _of_strategy(item)
    deepest = max(items, key=lambda item: (item["loc"][0] == items[0]["loc"][0], len(item["loc"])))
    _, name, *place = deepest["loc"]
    root = section_named(STRATEGIES[str(name)].__name__)
    if deepest["type"] == "extra_forbidden":
        section, schemas = locate(tuple(place[:-1]), branch=True, root=root)
        path = (*section, place[-1])
        return f"{name}: {dotted(path)}: unknown key; known here: {', '.join(keys_of(schemas))}"
    path, schemas = locate(tuple(place), root=root)
    value = deepest["input"]
    return f"{name}: {dotted(path)}: expected {allowed(schemas)}, found {show(value)}{_hint(value, schemas)}"


def _of_strategy(item: Any) -> str:
    """Our own sentence; of an option that does not exist also where such a key is."""
    own = item["ctx"]["error"]
    homes = option_homes(own.strategy, own.option) if isinstance(own, NoOptionError) else []
    where = [str(part) for part in item["loc"][2:] if str(part).islower()]
    key = f"{item['loc'][1]}: {'.'.join(where)}: " if where else ""
    return f"{key}{own}" + (f"; write {one_of([dotted(home) for home in homes])}" if homes else "")


def explain_own(error: ValidationError, tree: Node, *, but: Container[KeyPath]) -> list[Problem]:
    """The sentences of the schema's own validators alone, without those about a key in one of these sections."""
    own = [item for item in error.errors(include_url=False) if item["type"] == "value_error"]
    told = [(path, message) for item in own for path, message in _sentences(item)]
    return [problem_at(tree, path, message) for path, message in told if path[:-1] not in but]


def problem_at(tree: Node, path: KeyPath, message: str) -> Problem:
    """A problem with the line of its key, or of the section it is missing in."""
    node = tree.find(path)
    place = "--set" if node is not tree and node.line is None else ""
    return Problem(None if node is tree else node.line, dotted(path), message, place)


def show(value: Any) -> str:
    """A value as it stands in YAML, kept short."""
    if isinstance(value, dict):
        return f"the keys {', '.join(dotted((key,)) for key in list(value)[:4])}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(show, value[:4]))}{', ...' if len(value) > 4 else ''}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _below(path: KeyPath, section: KeyPath) -> bool:
    return len(path) > len(section) and path[: len(section)] == section


def _sentences(item: Any) -> Iterator[tuple[KeyPath, str]]:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        section, schemas = locate(item["loc"][:-1], branch=True)
        path = (*section, item["loc"][-1])
        yield path, unknown_key(path, keys_of(schemas))
        return
    if kind == "too_short" and isinstance(value, list) and len(value) >= item["ctx"]["min_length"]:
        return  # what is wrong with its items is told of them
    path, schemas = locate(item["loc"])
    if kind == "value_error":
        yield from _own_sentences(path, schemas, item)
    elif kind == "missing" and isinstance(path[-1], str):
        yield path, f"is missing; expected {allowed(schemas)}"
    elif kind == "missing":  # a list that is too short: told at the list
        path, schemas = locate(item["loc"][:-1])
        yield path, f"expected {allowed(schemas)}, found {show(value)}"
    else:
        yield path, f"expected {allowed(schemas)}, found {show(value)}{_hint(value, schemas)}"


def _own_sentences(path: KeyPath, schemas: Schemas, item: Any) -> Iterator[tuple[KeyPath, str]]:
    """The sentences of the schema's own validators; one about a key below begins with that key."""
    for sentence in str(item["ctx"]["error"]).split("\n"):
        key = re.match(r"([a-z_]+(?:\.[a-z_]+)*): ", sentence)
        if key and key.group(1).split(".")[0] in keys_of(schemas):
            yield (*path, *key.group(1).split(".")), sentence[key.end() :]
        elif sentence.startswith("expected") and "found" not in sentence:
            yield path, f"{sentence}, found {show(item['input'])}{_hint(item['input'], schemas)}"
        else:
            yield path, sentence


def _hint(value: Any, schemas: Schemas) -> str:
    """What to write instead, where that can be guessed."""
    kinds = {schema.get("type") for schema in schemas}
    words = [word for schema in schemas for word in schema.get("enum", [schema.get("const")]) if isinstance(word, str)]
    text_allowed = any(s.get("type") == "string" and not {"const", "enum", "examples"} & set(s) for s in schemas)
    if sum("required" in schema for schema in schemas) > 1:
        return _source_hint(value)
    if isinstance(value, str):
        if not isinstance(resolve(value.strip()), str) and value.strip():
            return "; write it without quotes"
        if close := nearest(value, words):
            return f"; did you mean {close[0]}?"
        lists = (schema for schema in schemas if schema.get("type") == "array")
        as_list = next(filter(None, (one_in_list(value, schema) for schema in lists)), None)
        return f"; write {inline_yaml(as_list)}" if as_list else ""
    if value is None and "object" in kinds:
        return "; write keys below it or leave it out"
    if text_allowed and isinstance(value, (list, dict)):
        return "; a text that begins with [ or { must be quoted"
    if text_allowed and value is not None:
        return f"; a text that looks like another value must be quoted: '{show(value)}'"
    return ""


def _source_hint(value: Any) -> str:
    if isinstance(value, str):
        return f"; write {{folder: {show(value)}}} for a folder of images a class"
    close = [kind for key in value for kind in nearest(key, SOURCES)] if isinstance(value, dict) else []
    return f"; did you mean {close[0]}?" if close else ""

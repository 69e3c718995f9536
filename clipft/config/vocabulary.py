"""What the schema allows, in words: the value at a place, and the key a person may have meant.

All of it is read off the JSON schema, so a new key needs nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from clipft.config.dump import inline_yaml
from clipft.config.hints import nearest, one_of
from clipft.config.schema import Config
from clipft.config.source_schema import SOURCES

KeyPath = tuple[str | int, ...]
Schemas = list[dict[str, Any]]

# Names that other training tools have for our keys.
FOREIGN_KEYS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("optim", "lr"),
    "weight_decay": ("optim", "weight_decay"),
    "wd": ("optim", "weight_decay"),
    "optimizer": ("optim", "name"),
    "warmup_steps": ("optim", "warmup"),
    "scheduler": ("optim", "schedule"),
    "lr_scheduler": ("optim", "schedule"),
    "gradient_clip_val": ("optim", "clip_norm"),
    "max_grad_norm": ("optim", "clip_norm"),
    "max_epochs": ("train", "epochs"),
    "num_epochs": ("train", "epochs"),
    "batch_size": ("train", "batch_size"),
    "precision": ("train", "precision"),
    "num_workers": ("data", "workers"),
    "seed": ("run", "seed"),
    "output_dir": ("run", "dir"),
}


def dotted(path: KeyPath) -> str:
    """A place as a person writes it: `optim.groups[0].lr`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() and len(part) <= 60 else repr(part[:60]))
    return text


# --- places in the schema ------------------------------------------------------------------------


@cache
def _json_schema() -> dict[str, Any]:
    return Config.model_json_schema()


def _branches(schema: dict[str, Any]) -> Schemas:
    """The alternatives that `schema` is made of, references followed."""
    if "$ref" in schema:
        return _branches(_json_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return [branch for option in schema[union] for branch in _branches(option)]
    return [schema]


def _inside(schemas: Schemas, part: str | int) -> Schemas:
    """What may stand at `part` of a value that one of `schemas` describes."""
    for schema in schemas:
        if isinstance(part, int) and schema.get("type") == "array":
            fixed = schema.get("prefixItems", [])
            return _branches(fixed[part] if part < len(fixed) else schema.get("items", {}))
        if part in schema.get("properties", {}):
            return _branches(schema["properties"][part])
        if isinstance(schema.get("additionalProperties"), dict):
            return _branches(schema["additionalProperties"])
    return []


def locate(location: KeyPath, *, branch: bool = False, root: Schemas | None = None) -> tuple[KeyPath, Schemas]:
    """The place a person wrote, and what is allowed there, from a pydantic location.

    Pydantic puts the branch of a union that it tried into the location, as if it were a key. Where the location ends
    in one, all of the union is allowed; with `branch`, only that branch. The location is below `root`, by default the
    whole config.
    """
    path: list[str | int] = []
    here = whole = root or _branches(_json_schema())
    chosen = False
    for part in location:
        options = [schema for schema in here if schema.get("type") != "null"]
        if len(options) > 1 and not chosen:
            here = [s for s in options if part == s.get("title") or part in s.get("required", ())] or here
            chosen = True
            continue
        path.append(part)
        here = whole = _inside(options, part)
        chosen = False
    return tuple(path), here if branch else whole


def section_named(name: str) -> Schemas:
    """What a section holds, by its class's name."""
    return _branches({"$ref": f"#/$defs/{name}"})


@cache
def _known_paths() -> tuple[tuple[str, ...], ...]:
    """Every key of the schema but those inside lists, shallow ones first."""

    def walk(schemas: Schemas, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for schema in schemas:
            for key, below in schema.get("properties", {}).items():
                yield (*path, key)
                yield from walk(_branches(below), (*path, key))

    return tuple(sorted(dict.fromkeys(walk(_branches(_json_schema()), ())), key=len))


# --- words ---------------------------------------------------------------------------------------


def keys_of(schemas: Schemas) -> list[str]:
    """The keys that a section may have."""
    return [key for schema in schemas for key in schema.get("properties", {})]


def allowed(schemas: Schemas) -> str:
    """What may stand at a place: `adamw, adam or sgd`, `a number above 0 or null`."""
    kinds = [schema["required"][0] for schema in schemas if schema.get("type") == "object" and "required" in schema]
    several = len(kinds) > 1
    words = [f"one of the keys {', '.join(kinds)}"] if several else []
    for schema in schemas:
        if not (several and schema.get("type") == "object"):
            words += _words(schema)
    return one_of(words)


def _words(schema: dict[str, Any]) -> list[str]:
    if "const" in schema:
        return [str(schema["const"])]
    if "enum" in schema:
        return [str(value) for value in schema["enum"]]
    if "examples" in schema:
        example = schema["examples"][0]
        return [f"text such as {example}" if isinstance(example, str) else inline_yaml(example)]
    match schema.get("type"):
        case "boolean":
            return ["true", "false"]
        case "integer" | "number":
            return [_number(schema)]
        case "array":
            return [_list(schema)]
        case "object" if "properties" in schema:
            return [f"keys such as {', '.join(list(schema['properties'])[:3])}"]
        case "object":
            return [f"names, each with {allowed(_inside([schema], ''))}"]
        case kind:
            return [{"string": "text", "null": "null"}.get(str(kind), "another value")]


def _number(schema: dict[str, Any]) -> str:
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if above is not None:
        return f"{kind} between {above:g} and {below:g}" if below is not None else f"{kind} above {above:g}"
    if low is None:
        return kind
    if below is not None:
        return f"{kind} from {low:g} to below {below:g}"
    return f"{kind} from {low:g} to {high}" if high is not None else f"{kind} of at least {low:g}"


def _list(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])} numbers"
    items = _branches(schema["items"])
    if words := _listed_words(schema):
        return f"a list of {'one or more of ' if schema.get('minItems') else ''}({', '.join(words)})"
    return "a list of " + ("texts" if items[0].get("type") == "string" else f"sections with {allowed(items)}")


def one_in_list(value: str, schema: dict[str, Any]) -> list[str]:
    """The list that a lone word was meant for; empty where the list holds nothing like it."""
    if words := _listed_words(schema):
        return nearest(value, words)
    items = _branches(schema.get("items", {}))
    return [value] if items[0].get("type") == "string" else []


def _listed_words(schema: dict[str, Any]) -> list[str]:
    """The words that a list's items are chosen from; none where they are anything else."""
    items = _branches(schema.get("items", {}))
    return [str(word) for item in items for word in item.get("enum", [])]


def unknown_key(path: KeyPath, siblings: list[str]) -> str:
    """A sentence for a key that is not one of its section's: where it belongs, or what it may be meant for."""
    *section, last = path
    key = str(last).lower().replace("-", "_")
    kinds = [kind for kind in SOURCES if kind in siblings]
    if kinds and last in SOURCES:
        return f"stands beside {kinds[0]}; a source has one of the keys {', '.join(SOURCES)}"
    if kinds and (others := [kind for kind, source in SOURCES.items() if last in source.model_fields]):
        return f"is a key of a {one_of(others)} source, not of a {kinds[0]} source"
    if key in siblings:
        return f"unknown key; did you mean {key}?"
    homes = _homes(key, tuple(section))
    if homes:
        return f"unknown key here; it belongs at {one_of([dotted(home) for home in homes[:4]])}"
    if close := nearest(key, siblings):
        return f"unknown key; did you mean {close[0]}?"
    if close := nearest(key, [known[-1] for known in _known_paths()], cutoff=0.8):
        return f"unknown key here; did you mean {one_of([dotted(home) for home in _homes(close[0], ())[:4]])}?"
    return f"unknown key; known here: {', '.join(siblings)}"


def option_homes(strategy: str, key: str) -> list[KeyPath]:
    """Where a key is known that a strategy does not have as an option: in what the strategy sets up, else anywhere."""
    known = [path for path in _known_paths() if path[-1] == key]
    own = [path for path in known if strategy in path[:-1] and path[0] == "model"]
    return list(own) or _homes(key, ())[:4]


def _homes(key: str, section: KeyPath) -> list[KeyPath]:
    """Where `key` is known: the shallowest places, and those below the section it was written in."""
    known = [path for path in _known_paths() if path[-1] == key]
    depth = len(known[0]) if known else 0
    found = [path for path in known if len(path) == depth or path[: len(section)] == section != ()]
    return list(found) or ([FOREIGN_KEYS[key]] if key in FOREIGN_KEYS else [])

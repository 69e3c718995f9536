"""The config back as text: the resolved YAML of a run, and the JSON schema that editors read."""

from __future__ import annotations

import json
from typing import Any

import yaml

from clipft.config.schema import Config
from clipft.config.yaml_nodes import INTEGER, NUMBER

SCHEMA_LINE = "# yaml-language-server: $schema=./clipft.schema.json"


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either YAML 1.1 or clipft's own reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML leaves Unicode's line breaks bare in its other styles, and folds them when it reads.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)
for _tag, _words in (("int", INTEGER), ("float", NUMBER)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _words, list("-+.0123456789"))


def dump_config(config: Config) -> str:
    """The whole config as YAML that loads to an equal one, but for `run.dir`: the same file can be run again."""
    values = config.model_dump(mode="json")
    values["run"]["dir"] = None
    if config.stages:  # which say it themselves
        del values["train"]["epochs"]
    return dump_yaml(values)


def dump_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML that `yaml_nodes.read_yaml` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))


def inline_yaml(value: Any) -> str:
    """A plain value as YAML on one line, such as {folder: data/train}."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("...\n").rstrip("\n")


def json_schema() -> str:
    """The JSON schema (draft 2020-12) of a config file, each key with its sentence."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_one_line(Config.model_json_schema()),
        "title": "clipft config",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _one_line(schema: Any) -> Any:
    """`schema` with every description on one line, whatever the wrapping of its docstring."""
    if isinstance(schema, list):
        return [_one_line(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: " ".join(part.split()) if key == "description" and isinstance(part, str) else _one_line(part)
        for key, part in schema.items()
    }

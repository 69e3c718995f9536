"""The older form of the config (`encoder_configs: ...`), answered with a whole file in today's keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from clipft.config.dump import SCHEMA_LINE, dump_yaml
from clipft.config.mistakes import show
from clipft.config.schema import Config
from clipft.config.vocabulary import FOREIGN_KEYS, dotted

Path = tuple[str, ...]

# What a valid file needs and the older form may not say.
_START = {
    "model": {
        "name": None,
        "embed_dim": 512,  # encoders of any two widths meet
        "image": {"encoder": "timm:vit_base_patch16_224"},
        "text": {"encoder": "hf:sentence-transformers/all-MiniLM-L6-v2"},
    },
    "data": {"train": {"folder": "data/train"}},
}
# Keys of encoder_configs.TOWER: those of model.TOWER today, and those of model.
_TOWER_KEYS = {"model_name": "encoder", "pooling_strategy": "pooling"} | {
    key: key for key in ("freeze_pattern", "freeze_layers", "freeze_backbone", "dropout")
}
_MODEL_KEYS = {"embed_dim": "embed_dim", "max_length": "context_length"}
_PRECISIONS = {"32": "fp32", "16": "fp16", "16-mixed": "fp16", "bf16-mixed": "bf16"}


def is_legacy(values: dict[str, Any]) -> bool:
    """Whether a file is in the older form, with the encoders or the trainer's keys at its top."""
    flat = {"learning_rate", "max_epochs", "batch_size"}
    return "encoder_configs" in values or ("model" not in values and len(values.keys() & flat) > 1)


def in_todays_keys(old: dict[str, Any]) -> str:
    """A valid config with all that the old one says; what has no counterpart stands in it as a comment."""
    draft = _Draft()
    left = [
        f"#   {dotted(path)}: {show(value)}"
        for path, value in _leaves(old)
        if not draft.takes(_today(path), _todays_value(path, value))
    ]
    header = [SCHEMA_LINE, "# Set data.train to your images: folder, table, sidecar or builtin."]
    for tower in ("image", "text"):
        if ("model", tower, "encoder") not in draft.written:
            header.append(f"# Set model.{tower}.encoder: the older file names none.")
    if left:
        header += ["# Without a counterpart, or with a value that is not allowed today:", *left]
    return "\n".join([*header, dump_yaml(draft.values)])


@dataclass
class _Draft:
    """A config in the making that stays valid."""

    values: dict[str, Any] = field(default_factory=lambda: dict(_START))
    written: set[Path] = field(default_factory=set)

    def takes(self, path: Path | None, value: Any) -> bool:
        """Write a value, unless it would break the config or another one stands there."""
        if path is None:
            return False
        candidate = _with(self.values, path, value)
        if path in self.written:  # both towers may say the same of the model
            return candidate == self.values
        try:
            Config.model_validate(candidate)
        except ValidationError:
            return False
        self.values = candidate
        self.written.add(path)
        return True


def _leaves(old: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Every old key with its value, those of the two encoders one by one."""
    for key, value in old.items():
        if key != "encoder_configs" or not isinstance(value, dict):
            yield (key,), value
            continue
        for tower, section in value.items():
            if isinstance(section, dict):
                yield from (((key, tower, below), setting) for below, setting in section.items())
            else:
                yield (key, tower), section


def _today(path: Path) -> Path | None:
    """The place of an old key in today's file; None if it has none."""
    match path:
        case (key,):
            return FOREIGN_KEYS.get(key)
        case (_, "image" | "text" as tower, key) if key in _TOWER_KEYS:
            return ("model", tower, _TOWER_KEYS[key])
        case (_, _, key) if key in _MODEL_KEYS:
            return ("model", _MODEL_KEYS[key])
    return None


def _todays_value(path: Path, value: Any) -> Any:
    if path[-1] == "model_name":
        kind = "timm:" if path[1] == "image" else "hf:"
        return kind + str(value).removeprefix(kind)
    return _PRECISIONS.get(str(value), value) if path == ("precision",) else value


def _with(values: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy of `values` with `value` at `path`, sections made on the way."""
    if len(path) == 1:
        return {**values, path[0]: value}
    return {**values, path[0]: _with(values.get(path[0], {}), path[1:], value)}

"""What a strategy stands for: its keys, their values, why, and which of them gave way to what was written."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from rich.console import Console
from rich.text import Text

from clipft.config.load import Loaded
from clipft.config.mistakes import show
from clipft.config.schema import FREEZE_KEYS, Config
from clipft.config.strategies import StrategyKey

_INDENT = 10
_BOTH = "model.image/text."


@dataclass(frozen=True)
class StrategyLine:
    """A key of the strategy, or the same key of both towers.

    Args:
        key: dotted; `model.image/text.` for both.
        value: as YAML has it.
        why: the strategy's reason.
        instead: the value that stands, where what was written won; else empty.
    """

    key: str
    value: str
    why: str
    instead: str = ""

    @property
    def setting(self) -> str:
        """The key and its value."""
        return f"{self.key}: {self.value}"

    @property
    def reason(self) -> str:
        """Why, or what stands in its place."""
        return f"not used: {self.instead} is written" if self.instead else self.why


def strategy_lines(keys: Sequence[StrategyKey], config: Config) -> list[StrategyLine]:
    """The strategy's keys beside what the config came to be, equal ones of both towers as one line."""
    alike: dict[StrategyLine, list[StrategyLine]] = {}
    for line in (_line(key, config) for key in keys):
        of_either = line.key.replace("model.image.", _BOTH).replace("model.text.", _BOTH)
        alike.setdefault(replace(line, key=of_either), []).append(line)
    return [both if len(lines) == 2 else lines[0] for both, lines in alike.items()]


def print_strategy(loaded: Loaded, console: Console) -> None:
    """The strategy by name and the keys that it stands for; nothing where there is none."""
    lines = strategy_lines(loaded.strategy, loaded.config)
    if not lines:
        return
    names = " + ".join(_named(strategy) for strategy in loaded.config.strategy)
    console.print(Text(f"strategy  {names}", style="bold"))
    width = max(len(line.setting) for line in lines)
    for line in lines:
        room = console.width - _INDENT - width - 2
        reason = textwrap.wrap(line.reason, max(room, 20)) or [""]
        console.print(
            Text(f"{'':<{_INDENT}}{line.setting:<{width}}  {reason[0]}".rstrip(), style="dim" if line.instead else ""),
            soft_wrap=True,
        )
        for more in reason[1:]:
            console.print(Text(f"{'':<{_INDENT + width + 2}}{more}"), soft_wrap=True)
    console.print()


def _line(key: StrategyKey, config: Config) -> StrategyLine:
    section: Any = reduce(getattr, key.path[:-1], config)
    last = key.path[-1]
    found = getattr(section, last)
    same = found == key.value
    if isinstance(key.value, dict):  # a section, of which the strategy may set some keys
        same = found is not None and all(getattr(found, name, None) == value for name, value in key.value.items())
    return StrategyLine(".".join(key.path), _plain(key.value), key.why, "" if same else _written(section, last))


def _written(section: Any, key: str) -> str:
    """What stands in the place of a strategy's key; a freeze key may have given way to another one."""
    others = [k for k in FREEZE_KEYS if getattr(section, k, None) is not None] if key in FREEZE_KEYS else [key]
    return ", ".join(f"{k}: {_plain(getattr(section, k))}" for k in others) or f"{key}: null"


def _named(strategy: Any) -> str:
    options = strategy.model_dump(exclude={"name"}, exclude_defaults=True)
    said = ", ".join(f"{key}: {_plain(value)}" for key, value in options.items())
    return f"{strategy.name} ({said})" if said else str(strategy.name)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_plain(v)}' for k, v in value.items() if v is not None)}}}"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else show(list(value) if isinstance(value, tuple) else value)

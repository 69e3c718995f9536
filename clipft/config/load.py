"""A config file and `--set` to a Config: every mistake at once, each with file, line and key."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from clipft.config.contradictions import contradictions
from clipft.config.legacy import in_todays_keys, is_legacy
from clipft.config.mistakes import MOST, explain, explain_own, explain_strategy, problem_at, show, wrong_keys
from clipft.config.overrides import FILE_OVER_STRATEGY, lay_over, merge, node_at, read_overrides
from clipft.config.paths import missing, read_text
from clipft.config.schema import Config
from clipft.config.strategies import StrategyKey, keys_for
from clipft.config.strategy_schema import Strategies, Strategy
from clipft.config.vocabulary import KeyPath
from clipft.config.yaml_nodes import Node, UnreadableError, read_yaml
from clipft.errors import ConfigError, InputError, Problem

_STRATEGIES: TypeAdapter[tuple[Strategy, ...]] = TypeAdapter(Strategies)
_NO_DATA = {"train": {"builtin": "hands"}}


@dataclass(frozen=True)
class Loaded:
    """A config and where it came from.

    Args:
        notes: what is to be said about how it came to be.
        source: the file as the user named it.
        tree: its values with their lines, `--set` laid over.
        strategy: the keys that its strategy stands for.
    """

    config: Config
    notes: tuple[str, ...]
    source: str
    tree: Node
    strategy: tuple[StrategyKey, ...] = ()

    @contextmanager
    def places(self) -> Iterator[None]:
        """Give a mistake that only the model or the data can show its file and line, where it begins with a key.

        Raises:
            ConfigError: in place of such an InputError.
        """
        try:
            yield
        except InputError as error:
            sentence = str(error)
            key = re.match(r"([a-z_]+(?:\.[a-z_]+|\[\d+\])*): ", sentence)
            path = tuple(int(p) if p.isdecimal() else p for p in re.findall(r"\w+", key[1])) if key else ()
            if isinstance(error, ConfigError) or key is None or path[0] not in Config.model_fields:
                raise
            problem = problem_at(self.tree, path, sentence[key.end() :])
            written = self.tree.find(path) is not self.tree.find(path[:-1])
            if problem.place and not (written or any(path[: len(each.path)] == each.path for each in self.strategy)):
                problem = replace(problem, place="")  # not written by --set: a default
            raise ConfigError(self.source, (problem,)) from error


def load_config(path: Path, overrides: Sequence[str] = (), *, need_data: bool = True) -> Loaded:
    """Read and check a config.

    Args:
        path: the YAML file.
        overrides: `--set` options, each `a.b=value` with a YAML value.
        need_data: whether the data must be there; without, the data section may even be left out.

    Raises:
        ConfigError: with all mistakes.
    """
    tree, problems = read_tree(path)
    if is_legacy(old := tree.plain()):
        raise _legacy(path, tree, old)
    changes, bad_overrides = read_overrides(overrides)
    asked = merge(tree, changes)
    stands_for, bad_strategies = _strategy(asked)
    problems += bad_overrides + bad_strategies
    tree, said = lay_over(_tree_of(stands_for, asked.find(("strategy",)).line), tree, FILE_OVER_STRATEGY)
    tree, notes = lay_over(tree, changes)
    notes = (*said, *notes)
    values = tree.plain()
    if bad_strategies:
        del values["strategy"]
    if not need_data and "data" not in values:
        values["data"] = _NO_DATA
        notes += ("data: not given; training needs data.train",)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += explain(error, tree)
        problems += _between_keys(values, error, tree)
    else:
        problems += [problem_at(tree, key, message) for key, message in contradictions(config.strategy, config)]
    if need_data:
        problems += [problem_at(tree, key, message) for key, message in missing(values)]
    if problems:
        raise ConfigError(str(path), _in_order(problems))
    return Loaded(config, notes, str(path), tree, stands_for)


def _strategy(tree: Node) -> tuple[tuple[StrategyKey, ...], list[Problem]]:
    """The keys that the strategy stands for, or what is wrong with it."""
    asked = tree.value.get("strategy") if isinstance(tree.value, dict) else None
    if asked is None:
        return (), []
    try:
        return keys_for(_STRATEGIES.validate_python(asked.plain())), []
    except ValidationError as error:
        return (), [problem_at(tree, ("strategy",), explain_strategy(error))]
    except ValueError as error:
        return (), [problem_at(tree, ("strategy",), str(error))]


def _tree_of(keys: Iterable[StrategyKey], line: int | None) -> Node:
    """The level below the file, all of it on the strategy's line."""
    return reduce(merge, (node_at(key.path, _leaf(key.value, line)) for key in keys), Node({}, None))


def _leaf(value: Any, line: int | None) -> Node:
    return Node({key: _leaf(below, line) for key, below in value.items()} if isinstance(value, dict) else value, line)


def _between_keys(values: dict[str, Any], error: ValidationError, tree: Node) -> list[Problem]:
    """What is wrong between sections, which pydantic looks at only where each is right: the wrong keys left out.

    A section that a key is left out of is not what its writer meant, so nothing more is said of it.
    """
    values, found = deepcopy(values), []
    sections: set[KeyPath] = set()
    while error.error_count() <= MOST and _leave_out(values, wrong := wrong_keys(error)):
        sections |= {key[:-1] for key in wrong}
        try:
            Config.model_validate(values)
        except ValidationError as next_error:
            error = next_error
            found += explain_own(error, tree, but=sections)
        else:
            break
    return found


def _leave_out(values: dict[str, Any], keys: Iterable[KeyPath]) -> bool:
    """Delete keys (of what is wrong inside a list, the list); whether any was there."""
    left_out = False
    for key in keys:
        *way, last = ["", *itertools.takewhile(lambda part: isinstance(part, str), key)]
        section: Any = values
        for part in way[1:]:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and last in section:
            del section[last]
            left_out = True
    return left_out


def read_tree(path: Path) -> tuple[Node, list[Problem]]:
    """The values of a config file with their lines, not yet looked at; and what is wrong with them as YAML."""
    try:
        tree, problems = read_yaml(read_text(path))
    except UnreadableError as error:
        raise ConfigError(str(path), (error.problem,)) from None
    if tree is None:
        raise ConfigError(str(path), (Problem(None, "", "is empty; a config has at least the keys model and data"),))
    if not isinstance(tree.value, dict):
        message = f"expected keys such as model, data, optim, found {show(tree.plain())}"
        raise ConfigError(str(path), (Problem(tree.line, "", message),))
    return tree, list(problems)


def _legacy(path: Path, tree: Node, old: dict[str, object]) -> ConfigError:
    key = next(key for key in ("encoder_configs", "learning_rate", "max_epochs", "batch_size") if key in old)
    message = "is of the older form; the same in today's keys stands below, ready to paste"
    return ConfigError(str(path), (problem_at(tree, (key,), message),), in_todays_keys(old))


def _in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    """In file order; what has no line comes last, and the count of those not told at the very end."""
    return tuple(sorted(problems, key=lambda p: (p.line is None, p.line or 0, not (p.key or p.place))))

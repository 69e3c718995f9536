"""An older file in today's keys, for `clipft init --from`."""

from __future__ import annotations

from pathlib import Path

from clipft.config.legacy import in_todays_keys, is_legacy
from clipft.config.load import read_tree
from clipft.errors import ConfigError, InputError


def renewed(path: Path) -> str:
    """The text of a config that says the same today.

    Raises:
        ConfigError: the file cannot be read.
        InputError: it is of today's form already.
    """
    tree, problems = read_tree(path)
    if problems:
        raise ConfigError(str(path), tuple(problems))
    old = tree.plain()
    if not is_legacy(old):
        raise InputError(
            f"--from: {path} is of today's form already (the older one begins with encoder_configs); "
            f"clipft freeze-report {path} checks it"
        )
    return in_todays_keys(old)

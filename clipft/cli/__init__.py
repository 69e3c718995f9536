"""The commands: parse, call, print. torch is imported inside a command, once its config is valid.

To add one, write it in a file of this folder as a plain function with a docstring, and enter it in COMMANDS.
"""

from __future__ import annotations

from collections.abc import Callable

from clipft.cli import looking, measuring, mixing, starting, training, using
from clipft.cli.app import app, main

__all__ = ["app", "main"]

COMMANDS: tuple[Callable[..., None], ...] = (
    starting.init,
    training.train,
    training.overfit,
    training.freeze_report,
    looking.inspect,
    looking.models,
    looking.schema,
    measuring.evaluate,
    measuring.embed,
    using.predict,
    using.export,
    mixing.interpolate,
    mixing.soup,
)
"""In the order of the help; the function's name is the command's, `_` written `-`."""

for command in COMMANDS:
    app.command()(command)

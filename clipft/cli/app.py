"""The program: its own options, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from clipft import __version__
from clipft.errors import ClipftError

app = typer.Typer(
    name="clipft",
    help="Fine-tune any CLIP model from one YAML file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune any CLIP model from one YAML file."""


def main() -> NoReturn:
    """Run the command line: a person's mistake is a sentence and an exit code, a bug keeps its traceback."""
    try:
        app(standalone_mode=True)
    except ClipftError as error:
        from clipft.report.console import mistake

        mistake(str(error))
        sys.exit(error.exit_code)
    sys.exit(0)

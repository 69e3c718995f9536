"""The commands: parse, call, print. torch is imported inside a command, once its config is valid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from clipft import __version__
from clipft.errors import ClipftError, InputError

app = typer.Typer(
    name="clipft",
    help="Fine-tune any CLIP model from one YAML file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; `clipft schema` lists its keys.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  # typer reads this form in every Python
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config, such as optim.lr=3e-5. Repeatable."),
]


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


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run (the default where there is one).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything up to one step and one evaluation batch; write nothing.")
    ] = False,
) -> None:
    """Fine-tune a CLIP model.

    Example: clipft train configs/handclip.yaml --set optim.lr=3e-5
    """
    from clipft.config.load import load_config

    loaded = load_config(config, overrides or ())

    from clipft.report.console import talk
    from clipft.report.train_view import TrainView
    from clipft.train.run import dry_run as rehearse
    from clipft.train.run import train as run

    view = TrainView(talk())
    if dry_run:
        rehearse(loaded, config.stem, view)
    else:
        run(loaded, config.stem, view, resume=resume)


@app.command("freeze-report")
def freeze_report(
    config: ConfigFile,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all", help="List every parameter: name, shape, state, rule.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what a config trains, and why, without loading weights.

    Example: clipft freeze-report configs/handclip.yaml --set model.image.freeze_layers=8
    """
    from clipft.config.load import load_config

    loaded = load_config(config, overrides or (), need_data=False)

    import json

    from clipft.report.console import result
    from clipft.report.freeze_table import print_every_parameter, print_freeze_report
    from clipft.train.prepare import report_plan

    report = report_plan(loaded.config)
    if as_json:
        typer.echo(json.dumps(report.plan.to_json(), indent=1))
        return
    console = result()
    if every:
        print_every_parameter(report.plan, console)
        return
    print_freeze_report(report.plan, console, base=report.base, optimizer=loaded.config.optim.name)
    for note in (*loaded.notes, *report.notes):
        console.print(f" note     {note}", markup=False, highlight=False)


@app.command()
def inspect(
    model: Annotated[str, typer.Option("--model", help="An open_clip architecture or local-dir:PATH.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show what a model is made of, without loading weights.

    Example: clipft inspect --model ViT-B-32
    """
    import json

    from clipft.config.schema import ModelConfig
    from clipft.model.build import build_meta
    from clipft.model.describe import describe
    from clipft.report.console import result
    from clipft.report.inspect_view import print_inspection

    meta = build_meta(ModelConfig(name=model))
    facts = describe(meta.model, meta.image, meta.text, name=meta.name)
    if as_json:
        typer.echo(json.dumps(facts.to_json(), indent=1))
    else:
        print_inspection(facts, result())


@app.command()
def schema() -> None:
    """Print the JSON schema of a config, for editors.

    Example: clipft schema > clipft.schema.json
    """
    from clipft.config.dump import json_schema

    typer.echo(json_schema(), nl=False)


def main() -> NoReturn:
    """Run the command line: a person's mistake is a sentence and an exit code, a bug keeps its traceback."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        _fail(error)
    except ClipftError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on from the last checkpoint", err=True)
        sys.exit(130)
    sys.exit(0)


def _fail(error: ClipftError) -> NoReturn:
    typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
    sys.exit(error.exit_code)

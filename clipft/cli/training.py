"""The commands that train, or say what would train."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from clipft.cli.options import ConfigFile, Overrides
from clipft.errors import InputError

if TYPE_CHECKING:
    from clipft.config.load import Loaded


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run (the default where there is one).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything up to two steps and one evaluation batch; write nothing.")
    ] = False,
) -> None:
    """Fine-tune a CLIP model.

    Example: clipft train configs/handclip.yaml --set optim.lr=3e-5
    """
    from clipft.config.load import load_config

    if resume and dry_run:
        raise InputError("--resume and --dry-run: a rehearsal begins with the base; give one of them")
    loaded = load_config(config, overrides or ())

    try:
        with loaded.places():
            _train(loaded, config.stem, resume=resume, dry_run=dry_run)
    except KeyboardInterrupt as interrupt:
        typer.echo(f"\nstopped; {interrupt or 'nothing was written'}", err=True)
        raise typer.Exit(130) from None


def _train(loaded: Loaded, name: str, *, resume: bool, dry_run: bool) -> None:
    from clipft.report.console import talk
    from clipft.report.train_view import TrainView
    from clipft.train.rehearsal import dry_run as rehearse
    from clipft.train.run import train as run

    view = TrainView(talk())
    if dry_run:
        rehearse(loaded, name, view)
    else:
        run(loaded, name, view, resume=resume)


def overfit(
    config: ConfigFile,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Give up after this many.")] = 100,
) -> None:
    """Train on one batch again and again, to see whether a config can learn its data at all; write nothing.

    Exit code 1 where the loss does not come down to half of its start, or of chance where that is lower.

    Example: clipft overfit configs/handclip.yaml --set optim.lr=1e-4
    """
    from clipft.config.load import load_config

    loaded = load_config(config, overrides or ())

    from clipft.report.console import talk
    from clipft.report.train_view import TrainView
    from clipft.train.overfit import overfit as run

    with loaded.places():
        found = run(loaded, TrainView(talk()), steps=steps)
    if not found.learns:
        raise typer.Exit(1)


def freeze_report(
    config: ConfigFile,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all", help="List every parameter: name, shape, state, rule.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan and the cost as JSON.")] = False,
) -> None:
    """Show what a config trains, why, and what a step costs, without loading weights.

    Example: clipft freeze-report configs/handclip.yaml --set model.image.freeze_layers=8
    """
    from clipft.config.load import load_config

    loaded = load_config(config, overrides or (), need_data=False)

    from clipft.report.console import result
    from clipft.report.freeze_table import print_every_parameter, print_freeze_report, print_note
    from clipft.report.strategy_view import print_strategy, strategy_lines
    from clipft.train.plan_report import report_plans
    from clipft.words import counted

    with loaded.places():
        reports = report_plans(loaded.config, with_cost=as_json or not every)
    if as_json:
        strategy = [asdict(line) for line in strategy_lines(loaded.strategy, loaded.config)]
        stages = [report.to_json() for report in reports]
        several = {"stages": stages} if len(stages) > 1 else {}
        typer.echo(json.dumps({**stages[0], "strategy": strategy, **several}, indent=1))
        return
    console = result()
    if not every:
        print_strategy(loaded, console)
    for number, report in enumerate(reports, 1):
        if len(reports) > 1:
            epochs = loaded.config.stages[number - 1].epochs
            console.rule(f"stage {number} of {len(reports)} · {counted(epochs, 'epoch')}", characters="-", align="left")
        if every:
            print_every_parameter(report.plan, console)
        else:
            optimizer = loaded.config.optim.name
            base, cost, searches = report.base, report.cost, report.searches
            print_freeze_report(report.plan, console, base=base, optimizer=optimizer, cost=cost, searches=searches)
    notes = dict.fromkeys((*loaded.notes, *(note for report in reports for note in report.notes)))
    for note in () if every else notes:
        print_note(console, note)

"""The command that writes a first config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipft.errors import InputError

if TYPE_CHECKING:
    from clipft.config.schema import Config

Goal = Literal["classify", "retrieve"]


def init(
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="A folder or table; folder:DIR, table:FILE, sidecar:DIR too."),
    ] = None,
    goal: Annotated[
        Goal | None,
        typer.Option("--goal", help="Name what images show, or find them by text; without, by what the data have."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="An open_clip architecture, local-dir:PATH or hf-hub:NAME."),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option("--pretrained", metavar="TAG|FILE|RUN", help="Its weights; without, the best known."),
    ] = None,
    old: Annotated[
        Path | None,
        typer.Option("--from", metavar="OLD", help="In place of --data: an older config, to write in today's keys."),
    ] = None,
) -> None:
    """Look at data and print a first config for them, with its reasons; save it with > config.yaml.

    Example: clipft init --data my/photos > config.yaml
    """
    if old is not None:
        others = {"--data": data, "--goal": goal, "--model": model, "--pretrained": pretrained}
        if given := [option for option, value in others.items() if value is not None]:
            raise InputError(f"--from and {given[0]}: an older file says all itself; give one of them")

        from clipft.config.renew import renewed

        typer.echo(renewed(old), nl=False)
        return
    if data is None:
        raise InputError("--data: name a folder of images or a table; or an older config with --from")
    if pretrained is not None and model is None:
        raise InputError("--pretrained: are weights of a model; name it with --model")
    typer.echo(_first_config(data, goal, model, pretrained), nl=False)


def _first_config(data: str, goal: Goal | None, model: str | None, pretrained: str | None) -> str:
    from clipft.advise.base import Machine
    from clipft.advise.draft import draft, look_at
    from clipft.report.console import say

    say([f"looking at {data}"])
    with _options_named():
        found = look_at(data, goal)
    say([f"{found.seen.rows:,} images, to {found.goal}; counting what a step costs"])

    from clipft.train.free_memory import free_memory
    from clipft.train.precision import choose_device, choose_precision

    device = choose_device("auto", "--data")
    machine = Machine(device.type, choose_precision("auto", device).name, free_memory(device))
    with _options_named():
        text = draft(found, machine, _peak, model, pretrained)
    say(["with this saved as config.yaml, next: clipft freeze-report config.yaml"])
    return text


def _peak(config: Config) -> int:
    """Bytes of a step's tensors at the most."""
    from clipft.train.plan_report import report_plan

    cost = report_plan(config).cost
    assert cost is not None
    return cost.peak


@contextmanager
def _options_named() -> Iterator[None]:
    """Within, what is wrong with the model or the data is said of the option that named them."""
    try:
        yield
    except InputError as error:
        key, _, said = str(error).partition(":")
        options = {"model.name": "--model", "model.pretrained": "--pretrained", "data.train": "--data"}
        option = next((option for start, option in options.items() if key.startswith(start)), None)
        if option is None:
            raise
        raise InputError(f"{option}:{said}") from None

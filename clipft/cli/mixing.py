"""The commands that mix weights: a run's with its base's, and several runs'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipft.cli.compute import choose_compute
from clipft.cli.options import BatchSize, ComputeIn, Data, Device, Force, RunName, Which
from clipft.errors import InputError

if TYPE_CHECKING:
    from clipft.export import Written

_MOST = 1001  # points of a curve


def interpolate(
    run: RunName,
    alpha: Annotated[
        str,
        typer.Option(
            "--alpha", metavar="FROM:TO:STEP", help="Shares of the tuned weights, or 0.2,0.5; 0 and 1 are always there."
        ),
    ] = "0:1:0.1",
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="SOURCE", help="As for evaluate; the run's data.val if left out. Repeatable."),
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            "--choose",
            metavar="ALPHA|FIGURE",
            help="An alpha, or the figure whose mean chooses one; else evaluate.best.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Where the chosen model and the curve go; RUN's name with -mixed."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Measure evaluate.keep of the run's config too, if it names some.")
    ] = True,
    write: Annotated[bool, typer.Option("--write/--no-write", help="Export the chosen model, or only measure.")] = True,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE", help="Draw the curve here too: a .svg.")] = None,
    which: Which = None,
    force: Force = False,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Mix a run's weights with its base's, and find how much of the tuning is best.

    What was learnt often stays, and what was forgotten comes back, between the two (WiSE-FT).

    Example: clipft interpolate runs/handclip --alpha 0:1:0.1 --data folder:my/val --data folder:other
    """
    from clipft.data.sources import parse_data_option
    from clipft.embed.outfile import check_out, write_whole

    alphas = read_alphas(alpha)
    sources = [parse_data_option(source) for source in data or ()]
    chooser = None if choose is None else _read_choice(choose)
    picture = None if plot is None else check_out(plot, "--plot", (".svg",), mark="clipft interpolate")

    from clipft.evaluate.interpolate import interpolate as run_through
    from clipft.evaluate.interpolate import open_between
    from clipft.evaluate.sweep import Compute
    from clipft.export.write import export_model, refuse_to_overwrite
    from clipft.report.console import result
    from clipft.report.export_view import export_view
    from clipft.report.interpolate_curve import write_curve
    from clipft.report.interpolate_view import interpolation_view
    from clipft.report.progress import show_steps

    if out is not None and not write:
        raise InputError("--out: stands beside --no-write, under which nothing is exported; leave one out")
    folder = (Path(f"{_name_of(run)}-mixed") if out is None else Path(out).expanduser()) if write else None
    if folder is not None:
        try:
            refuse_to_overwrite(folder, force)
        except InputError as error:
            raise (error if out is not None else InputError(f"{error}; --no-write only measures")) from None
    chosen = choose_compute(device, precision)
    between = open_between(run, which, device=chosen.device, autocast=chosen.autocast)
    compute = Compute(chosen.device, chosen.autocast, batch_size)
    with show_steps(" looking at images") as watch:
        found = run_through(between, alphas, sources, compute=compute, choose=chooser, with_keep=keep, watch=watch)
    console = result()
    if not as_json:
        console.print(interpolation_view(found))  # first, so that no export that fails takes it along
    if picture is not None:
        write_whole(picture, lambda path: write_curve(found, path))
    written: Written | None = None
    if folder is not None:
        point = found.points[found.chosen]
        written = export_model(between.at(point.alpha, point.measured), run, folder, to="open_clip")
        write_whole(folder / "interpolation.svg", lambda path: write_curve(found, path))
    if as_json:
        typer.echo(json.dumps({**found.to_json(), "out": None if folder is None else str(folder)}, indent=1))
        return
    if picture is not None:
        console.print(f" wrote {picture}", markup=False, soft_wrap=True)
    if written is not None:
        console.print(export_view(written), soft_wrap=True)


def soup(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Runs or checkpoints of one base.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="The folder to export the soup into.")],
    data: Data = None,
    greedy: Annotated[
        bool, typer.Option("--greedy/--uniform", help="Take in what does not make it worse, or average all.")
    ] = True,
    which: Which = None,
    force: Force = False,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was tried as JSON.")] = False,
) -> None:
    """Average the weights of several runs of one base (Model soups).

    What it is chosen by must not be the test set: its figure there would flatter it. A table's columns are named:
    table:FILE,image=COLUMN,caption=COLUMN,label=COLUMN,split=COLUMN=VALUE

    Example: clipft soup runs/a runs/b runs/c --data folder:my/val --out soup-model
    """
    from clipft.data.sources import parse_data_option

    source = None if data is None else parse_data_option(data)

    from clipft.evaluate.pot import open_pot
    from clipft.evaluate.soup import cook, serve
    from clipft.evaluate.sweep import Compute
    from clipft.export.write import export_model, refuse_to_overwrite
    from clipft.report.console import result
    from clipft.report.export_view import export_view
    from clipft.report.progress import show_steps
    from clipft.report.soup_view import soup_view

    folder = Path(out).expanduser()
    refuse_to_overwrite(folder, force)
    chosen = choose_compute(device, precision)
    pot = open_pot(runs, which, chosen.device)
    compute = Compute(chosen.device, chosen.autocast, batch_size)
    with show_steps(" looking at images") as watch:
        found = cook(pot, source, recipe="greedy" if greedy else "uniform", compute=compute, watch=watch)
    console = result()
    if not as_json:
        console.print(soup_view(found))
    written = export_model(serve(pot, found), runs[found.taken[0]], folder, to="open_clip")
    if as_json:
        typer.echo(json.dumps({**found.to_json(), "out": str(folder)}, indent=1))
    else:
        console.print(export_view(written), soft_wrap=True)


def read_alphas(words: str) -> list[float]:
    """The alphas of FROM:TO:STEP, or of a list with commas.

    Raises:
        InputError: not of this form, or not from 0 to 1.
    """
    try:
        if ":" in words:
            start, stop, step = (float(word) for word in words.split(":"))
            if not (step > 0 and 0 <= start <= stop <= 1 and (stop - start) / step < _MOST):
                raise ValueError
            # 0:1:0.1 ends at 1, though 10 * 0.1 in floating point might pass it
            found = [round(start + i * step, 10) for i in range(int((stop - start) / step + 1e-6) + 1)]
        else:
            found = [float(word) for word in words.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= each <= 1 for each in found):
        raise InputError(
            f"--alpha: expected numbers from 0 to 1 as FROM:TO:STEP (0:1:0.1) or with commas (0.2,0.5), found {words!r}"
        )
    return found


def _name_of(run: str) -> str:
    """A run's own name, for a checkpoint of it too."""
    from clipft.model.runfiles import CHECKPOINTS

    path = Path(run).expanduser().resolve()
    return path.parent.parent.name if path.parent.name == CHECKPOINTS else path.name


def _read_choice(words: str) -> float | str:
    try:
        number = float(words)
    except ValueError:
        return words
    if not 0 <= number <= 1:
        raise InputError(f"--choose: expected an alpha from 0 to 1, or a figure such as zero_shot_top1, found {words}")
    return number

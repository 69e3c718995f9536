"""The commands that put a model to use: ask it, and write it for others."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from clipft.cli.compute import choose_compute
from clipft.cli.options import Adapter, AsJson, BatchSize, ComputeIn, Device, Force, Layout, RunName, Which
from clipft.errors import InputError


def predict(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, a checkpoint or an exported model.")],
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE|FOLDER...", help="What to look at.")] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", help="A text to choose between, in place of the run's classes. Repeatable."),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", help="Find the images nearest to this text, in --data.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="With --query: where to look. Repeatable.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes an image, or images a query.")] = 3,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="Show only classes at least this probable.")
    ] = 0.0,
    adapter: Adapter = None,
    which: Which = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = "auto",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print as CSV.")] = False,
) -> None:
    """Say what images show, or find the images nearest to a text.

    Example: clipft predict runs/handclip photos/ --threshold 0.5
    """
    if as_json and as_csv:
        raise InputError("--json and --csv: give one of them")
    looked_at = [*(images or ()), *(place.removeprefix("folder:") for place in data or ())]  # as evaluate has it
    if not looked_at:
        raise InputError("IMAGE|FOLDER: name at least one image or folder" + (" with --data" if query else ""))
    if query is not None and texts:
        raise InputError("--query finds images, --text chooses between texts: give one of them")

    from clipft.evaluate.target import open_target
    from clipft.predict import Compute, Nearest, nearest_images, predict_classes
    from clipft.report.console import result, say, talk
    from clipft.report.prediction_view import nearest_view, prediction_view
    from clipft.report.progress import show_progress

    chosen = choose_compute(device, precision)
    compute = Compute(chosen.device, chosen.autocast, batch_size, watch=show_progress)
    target = open_target(model, which, adapter=adapter)
    say(target.notes)
    found = (
        nearest_images(target, query, looked_at, compute, top=top)
        if query is not None
        else predict_classes(target, looked_at, compute, texts=texts or (), top=top, threshold=threshold)
    )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    elif as_csv:
        found.write_csv(sys.stdout)
    else:
        result().print(nearest_view(found) if isinstance(found, Nearest) else prediction_view(found))
    for fault in found.faults:
        talk().print(f"unreadable: {fault}", style="yellow", markup=False)
    if found.faults:
        raise typer.Exit(1)


def export(
    run: RunName,
    out: Annotated[
        str,
        typer.Option("--out", help="The folder to write (with --to pt also a .pt file, with --adapter-only a file)."),
    ],
    to: Annotated[
        Layout,
        typer.Option("--to", help="open_clip: a folder for local-dir:; pt: a bare state dict; hf: for transformers."),
    ] = "open_clip",
    which: Which = None,
    adapter_only: Annotated[
        bool,
        typer.Option(
            "--adapter-only",
            help="Write one .safetensors file with what the run changed of its base; predict --adapter takes it.",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Write a run's model so that plain open_clip, or transformers, loads it.

    Example: clipft export runs/handclip --out handclip-model
    """
    if adapter_only and to != "open_clip":
        raise InputError(f"--adapter-only: writes a file of clipft's own; leave out --to {to}")

    from clipft.export import export as write
    from clipft.export import export_adapter
    from clipft.report.console import result
    from clipft.report.export_view import export_view

    if adapter_only:
        written = export_adapter(run, out, which=which, force=force)
    else:
        written = write(run, out, which=which, to=to, force=force)
    result().print(export_view(written), soft_wrap=True)

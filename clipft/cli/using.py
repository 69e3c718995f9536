"""The commands that use a model: measure it, keep its features, ask it, write it for others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipft.cli.compute import choose_compute
from clipft.cli.options import (
    Adapter,
    AsJson,
    BatchSize,
    ComputeIn,
    Data,
    Device,
    Force,
    Layout,
    MapMethod,
    RunName,
    Which,
)
from clipft.errors import InputError

if TYPE_CHECKING:
    from clipft.config.source_schema import Source


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT|CONFIG|EXPORT", help="What to measure, local-dir:PATH too; of a CONFIG, its base."
        ),
    ],
    data: Data = None,
    adapter: Adapter = None,
    which: Which = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Measure the base beside the tuned model.")] = True,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Measure evaluate.keep of the config too, if it names some.")
    ] = True,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print {base, tuned} as JSON.")] = False,
) -> None:
    """Measure a model, its base beside it.

    A table's columns are named: table:FILE,image=COLUMN,caption=COLUMN,label=COLUMN,split=COLUMN=VALUE

    Example: clipft evaluate runs/handclip --data folder:my/test
    """
    import json

    source = _source(target, data)

    from clipft.evaluate.compare import evaluate_target
    from clipft.report.console import result
    from clipft.report.evaluation_table import evaluation_table
    from clipft.report.progress import show_progress

    chosen = choose_compute(device, precision)
    evaluation = evaluate_target(
        target,
        source,
        which=which,
        device=chosen.device,
        autocast=chosen.autocast,
        batch_size=batch_size,
        with_base=base,
        with_keep=keep,
        adapter=adapter,
        watch=show_progress,
    )
    if as_json:
        typer.echo(json.dumps(evaluation.to_json(), indent=1))
    else:
        result().print(evaluation_table(evaluation))


def _source(target: str, data: str | None) -> Source | None:
    """What --data names; a config's mistakes are told before torch is imported."""
    from clipft.config.load import load_config
    from clipft.data.sources import parse_data_option

    source = None if data is None else parse_data_option(data)
    path = Path(target).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        load_config(path, need_data=source is None)
    return source


def embed(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT|CONFIG|EXPORT", help="The model, local-dir:PATH too; of a CONFIG, its base."
        ),
    ],
    data: Data = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Keep the features: .safetensors or .parquet.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw them as a map: .html (to point at) or .png (a picture)."),
    ] = None,
    method: Annotated[
        MapMethod | None,
        typer.Option("--method", help="Beside PCA: tsne or umap; auto takes what is installed; pca is PCA alone."),
    ] = None,
    adapter: Adapter = None,
    which: Which = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Put the base beside the tuned model.")] = True,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = "auto",
) -> None:
    """Write the features of images and texts, and draw them as a map, the base beside the tuned model.

    A table's columns are named: table:FILE,image=COLUMN,caption=COLUMN,label=COLUMN,split=COLUMN=VALUE

    Example: clipft embed runs/handclip --data folder:my/test --out vectors.safetensors --plot map.html
    """
    from clipft.embed.methods import choose_methods
    from clipft.embed.outfile import check_out, write_whole

    if out is None and plot is None:
        raise InputError("--out, --plot: name at least one: --out vectors.safetensors, or --plot map.html")
    if method is not None and plot is None:
        raise InputError("--method: is how a map is drawn; add --plot map.html")
    vectors = None if out is None else check_out(out, "--out", (".safetensors", ".parquet"))
    picture = None if plot is None else check_out(plot, "--plot", (".html", ".png"))
    methods = () if picture is None else choose_methods(method or "auto")
    source = _source(target, data)

    from clipft.embed.features import embed_target, figures
    from clipft.embed.maps import draw_map
    from clipft.embed.vectors import checks, write_vectors
    from clipft.report.console import result
    from clipft.report.embed_view import embed_view, shapes
    from clipft.report.map_file import thumbnails_for, write_map
    from clipft.report.progress import show_progress, show_work

    chosen = choose_compute(device, precision)
    embeddings = embed_target(
        target,
        source,
        which=which,
        device=chosen.device,
        autocast=chosen.autocast,
        precision=chosen.precision.name,
        batch_size=batch_size,
        with_base=base,
        check=checks(vectors),
        thumbnails=thumbnails_for(picture),
        adapter=adapter,
        watch=show_progress,
    )
    measured = {side: figures(embeddings, side) for side in embeddings.sides}
    written: list[tuple[Path, str]] = []
    notes: tuple[str, ...] = ()
    if vectors is not None:
        write_whole(vectors, lambda path: write_vectors(embeddings, path))
        written.append((vectors, shapes(embeddings)))
    if picture is not None:
        with show_work("laying out the map"):
            drawn = draw_map(embeddings, methods)
        content, more = write_whole(picture, lambda path: write_map(embeddings, drawn, measured, path))
        written.append((picture, content))
        notes = (*drawn.notes, *more)
    result().print(embed_view(embeddings, measured, written, notes))


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
    import json

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

"""The commands that run data through a model: its figures, and its features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipft.cli.compute import choose_compute
from clipft.cli.options import Adapter, BatchSize, ComputeIn, Data, Device, MapMethod, Which
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

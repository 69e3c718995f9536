"""The commands: parse, call, print. torch is imported inside a command, once its config is valid."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from clipft import __version__
from clipft.errors import ClipftError, InputError

if TYPE_CHECKING:
    from clipft.config.load import Loaded
    from clipft.config.source_schema import Source
    from clipft.train.prepare import PlanReport

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

BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images encoded at once.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]


class Checkpoint(Enum):
    """Which checkpoint of a run."""

    best = "best"
    last = "last"


class Precision(Enum):
    """What to compute in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Layout(Enum):
    """How to write a model."""

    open_clip = "open_clip"
    pt = "pt"
    hf = "hf"


class MapMethod(Enum):
    """How to lay out a map."""

    auto = "auto"
    pca = "pca"
    tsne = "tsne"
    umap = "umap"


Data = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="folder:DIR, sidecar:DIR or table:FILE,caption=COLUMN (see above); the run's data.val if left out.",
    ),
]
TOPICS = (
    "block",
    "embeddings",
    "projection",
    "similarity",
    "logit_scale",
    "alignment",
    "quickgelu",
    "pooling",
    "freezing",
    "strategies",
)
"""What `inspect --explain` explains; the texts are in `report/explain`, which needs torch."""

Which = Annotated[
    Optional[Checkpoint],  # noqa: UP045
    typer.Option("--which", help="A run's best or last checkpoint; the best where the run chose one."),
]

ComputeIn = Annotated[Precision, typer.Option("--precision", help="auto is bf16 where the hardware has it, else fp32.")]


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

    if resume and dry_run:
        raise InputError("--resume and --dry-run: a rehearsal begins with the base; give one of them")
    loaded = load_config(config, overrides or ())

    try:
        with loaded.places():
            _train(loaded, config.stem, resume=resume, dry_run=dry_run)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on from the last epoch that ended, if one did", err=True)
        raise typer.Exit(130) from None


def _train(loaded: Loaded, name: str, *, resume: bool, dry_run: bool) -> None:
    from clipft.report.console import talk
    from clipft.report.train_view import TrainView
    from clipft.train.run import dry_run as rehearse
    from clipft.train.run import train as run

    view = TrainView(talk())
    if dry_run:
        rehearse(loaded, name, view)
    else:
        run(loaded, name, view, resume=resume)


@app.command()
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


@app.command("freeze-report")
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

    import json

    from clipft.report.console import result
    from clipft.report.freeze_table import print_every_parameter, print_freeze_report
    from clipft.train.prepare import report_plan

    with loaded.places():
        report = report_plan(loaded.config, with_cost=as_json or not every)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=1))
        return
    console = result()
    if every:
        print_every_parameter(report.plan, console)
        return
    print_freeze_report(report.plan, console, base=report.base, optimizer=loaded.config.optim.name, cost=report.cost)
    for note in (*loaded.notes, *report.notes):
        console.print(f" note     {note}", markup=False, highlight=False)


@app.command()
def inspect(
    model: Annotated[
        str | None, typer.Option("--model", help="An open_clip architecture, local-dir:PATH or hf-hub:NAME.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="The model of a config, and what trains in it.")
    ] = None,
    overrides: Overrides = None,
    pretrained: Annotated[
        str | None, typer.Option("--pretrained", metavar="TAG|FILE|RUN", help="Load these weights; without, none are.")
    ] = None,
    walkthrough: Annotated[
        bool, typer.Option("--walkthrough", help="The shape at each step from an image and a text to their logit.")
    ] = False,
    image: Annotated[str | None, typer.Option("--image", help="With --text: an image to walk through.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="With --image: its text.")] = None,
    tree: Annotated[bool, typer.Option("--tree", help="The modules, repeated ones folded.")] = False,
    full: Annotated[bool, typer.Option("--full", help="With --tree: every module, nothing folded.")] = False,
    block: Annotated[
        int | None, typer.Option("--block", min=0, help="With --tree: block N of each tower alone.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="MODEL", help="Another model beside it, with the cost of each.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="TOPIC", help=f"An idea with its numbers: {', '.join(TOPICS)}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts, and what was asked, as JSON.")] = False,
) -> None:
    """Look inside a model, without loading weights unless they are named.

    Example: clipft inspect --model ViT-B-32 --walkthrough
    """
    import json
    from contextlib import nullcontext

    from clipft.config.load import load_config
    from clipft.config.schema import ModelConfig
    from clipft.report.inspect_options import Asked

    asked = Asked(
        model=model,
        config=config,
        overrides=tuple(overrides or ()),
        pretrained=pretrained,
        walkthrough=walkthrough,
        image=image,
        text=text,
        tree=tree,
        full=full,
        block=block,
        compare=compare,
        explain=explain,
    )
    asked.check(TOPICS)
    loaded = None if config is None else load_config(config, overrides or (), need_data=False)
    section = ModelConfig(name=model, pretrained=pretrained) if loaded is None else loaded.config.model

    from clipft.model.build import build_meta
    from clipft.model.subject import with_weights, without_weights
    from clipft.report import inspection
    from clipft.report.console import result, say

    option = "--model" if loaded is None else "model.name"
    with nullcontext() if loaded is None else loaded.places():
        picture = None if image is None else inspection.read_picture(image)  # before any weights, which take longer
        report = None if loaded is None or not tree else _report_plan(loaded)
        plan = None if report is None else report.plan
        if asked.needs_weights:
            with _naming(option):
                subject = with_weights(section)
            say(subject.notes)
        elif report is None:
            with _naming(option):
                subject = without_weights(build_meta(section))
        else:
            subject = without_weights(report.meta)
        say(() if report is None else report.notes)
        other = None
        if compare is not None:
            with _naming("--compare"):
                other = without_weights(build_meta(ModelConfig(name=compare)))
        views = inspection.views(asked, subject, other, plan, picture)
    if as_json:
        facts = inspection.summary(subject).value
        typer.echo(json.dumps(facts | {view.key: view.value for view in views}, indent=1))
        return
    console = result()
    for number, view in enumerate(views or [inspection.summary(subject)]):
        if number:
            console.print()
        view.show(console)


def _report_plan(loaded: Loaded) -> PlanReport:
    from clipft.train.prepare import report_plan  # it takes a while, and only a config needs it

    return report_plan(loaded.config, with_cost=False)


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """Within, what is wrong with a model's name is said of the option that gave it."""
    try:
        yield
    except InputError as error:
        key, colon, said = str(error).partition(":")
        if key != "model.name":
            raise
        raise InputError(f"{option}{colon}{said}") from None


@app.command()
def models(
    words: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="FILTER", help="A part of a name or tag, such as SigLIP, ViT-B or laion2b."),
    ] = None,
    fits: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--fits", metavar="SIZE", help="Show what trains in this much memory, such as 8GB."),
    ] = None,
    precision: Annotated[
        Optional[Precision],  # noqa: UP045
        typer.Option("--precision", help="With --fits: what a step computes in; auto is bf16."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List open_clip's architectures and pretrained tags: size, cost, zero-shot accuracy.

    Example: clipft models SigLIP
    """
    import json

    from clipft.model.catalogue import catalogue
    from clipft.report.amounts import read_bytes
    from clipft.report.console import result
    from clipft.report.models_view import print_fits, print_models

    if precision is not None and fits is None:
        raise InputError("--precision: is for --fits; a listing has none")
    size = None if fits is None else read_bytes(fits, "--fits")
    found = catalogue() if words is None else catalogue().search(words)
    if size is None:
        if as_json:
            typer.echo(json.dumps(found.to_json(), indent=1))
        else:
            print_models(found, result(), with_tags=words is not None)
        return
    kind = "fp32" if precision is Precision.fp32 else "bf16"  # fp16 takes as many bytes
    fitting = found.fitting(size, kind)
    if as_json:
        typer.echo(json.dumps({"bytes": size, "precision": kind, "fits": [fit.to_json() for fit in fitting]}, indent=1))
    else:
        print_fits(found, fitting, result(), size=size, precision=kind)


@app.command()
def schema() -> None:
    """Print the JSON schema of a config, for editors.

    Example: clipft schema > clipft.schema.json
    """
    from clipft.config.dump import json_schema

    typer.echo(json_schema(), nl=False)


@app.command()
def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT|CONFIG|EXPORT", help="What to measure, local-dir:PATH too; of a CONFIG, its base."
        ),
    ],
    data: Data = None,
    which: Which = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Measure the base beside the tuned model.")] = True,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = Precision.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print {base, tuned} as JSON.")] = False,
) -> None:
    """Measure a model, its base beside it.

    A table's columns are named: table:FILE,image=COLUMN,caption=COLUMN,label=COLUMN,split=COLUMN=VALUE

    Example: clipft evaluate runs/handclip --data folder:my/test
    """
    import json

    source = _source(target, data)

    from clipft.evaluate.compare import evaluate_target
    from clipft.report.console import result, say
    from clipft.report.evaluation_table import evaluation_table
    from clipft.report.progress import show_progress
    from clipft.train.precision import choose_device, choose_precision

    place = choose_device(device, "--device")
    chosen = choose_precision(precision.value, place, "--precision")
    say(chosen.notes)
    evaluation = evaluate_target(
        target,
        source,
        which=which.value if which else None,
        device=place,
        autocast=lambda: chosen.autocast(place),
        batch_size=batch_size,
        with_base=base,
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


@app.command()
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
    which: Which = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Put the base beside the tuned model.")] = True,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = Precision.auto,
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
    methods = () if picture is None else choose_methods((method or MapMethod.auto).value)
    source = _source(target, data)

    from clipft.embed.features import embed_target, figures
    from clipft.embed.maps import draw_map
    from clipft.embed.vectors import checks, write_vectors
    from clipft.report.console import result, say
    from clipft.report.embed_view import embed_view, shapes
    from clipft.report.map_file import thumbnails_for, write_map
    from clipft.report.progress import show_progress, show_work
    from clipft.train.precision import choose_device, choose_precision

    place = choose_device(device, "--device")
    chosen = choose_precision(precision.value, place, "--precision")
    say(chosen.notes)
    embeddings = embed_target(
        target,
        source,
        which=which.value if which else None,
        device=place,
        autocast=lambda: chosen.autocast(place),
        precision=chosen.name,
        batch_size=batch_size,
        with_base=base,
        check=checks(vectors),
        thumbnails=thumbnails_for(picture),
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


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, a checkpoint or an exported model.")],
    images: Annotated[Optional[list[str]], typer.Argument(metavar="IMAGE|FOLDER...", help="What to look at.")] = None,  # noqa: UP045
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
    which: Which = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: ComputeIn = Precision.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
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
    from clipft.train.precision import choose_device, choose_precision

    place = choose_device(device, "--device")
    chosen = choose_precision(precision.value, place, "--precision")
    compute = Compute(place, lambda: chosen.autocast(place), batch_size, watch=show_progress)
    target = open_target(model, which.value if which else None)
    say((*target.notes, *chosen.notes))
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


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run or a checkpoint.")],
    out: Annotated[str, typer.Option("--out", help="The folder to write (with --to pt also a .pt file).")],
    to: Annotated[
        Layout,
        typer.Option("--to", help="open_clip: a folder for local-dir:; pt: a bare state dict; hf: for transformers."),
    ] = Layout.open_clip,
    which: Which = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export there.")] = False,
) -> None:
    """Write a run's model so that plain open_clip, or transformers, loads it.

    Example: clipft export runs/handclip --out handclip-model
    """
    from clipft.export import export as write
    from clipft.report.console import result
    from clipft.report.export_view import export_view

    written = write(run, out, which=which.value if which else None, to=to.value, force=force)
    result().print(export_view(written), soft_wrap=True)


def main() -> NoReturn:
    """Run the command line: a person's mistake is a sentence and an exit code, a bug keeps its traceback."""
    try:
        app(standalone_mode=True)
    except ClipftError as error:
        from clipft.report.console import mistake

        mistake(str(error))
        sys.exit(error.exit_code)
    sys.exit(0)

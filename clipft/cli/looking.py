"""The commands that look at models, and at what a config may say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipft.cli.options import AsJson, Overrides, Precision
from clipft.errors import InputError
from clipft.report.topic_names import TOPICS

if TYPE_CHECKING:
    from clipft.config.load import Loaded
    from clipft.train.plan_report import PlanReport


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
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="RUN", help="The words nearest to a run's prompt vectors.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts, and what was asked, as JSON.")] = False,
) -> None:
    """Look inside a model, without loading weights unless they are named.

    Example: clipft inspect --model ViT-B-32 --walkthrough
    """
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
        prompts=prompts,
    )
    asked.check()
    if prompts is not None:
        _show_prompts(prompts, as_json=as_json)
        return
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


def _show_prompts(run: Path, *, as_json: bool) -> None:
    from clipft.model.describe import describe
    from clipft.model.prompt_words import nearest_words, prompt_example
    from clipft.model.saved import load_saved
    from clipft.report.console import result, say
    from clipft.report.prompt_view import print_prompt_words

    saved = load_saved(run)
    clip = saved.clip
    found = nearest_words(clip, saved.classes, name=str(run))
    say(clip.notes)
    if as_json:
        facts = describe(clip.model, clip.image, clip.text, name=clip.name, model_cfg=clip.model_cfg).to_json()
        typer.echo(json.dumps(facts | {"prompts": [asdict(vector) for vector in found]}, indent=1))
        return
    print_prompt_words(found, prompt_example(clip, saved.classes, saved.templates), result())


def _report_plan(loaded: Loaded) -> PlanReport:
    from clipft.train.plan_report import report_plans  # it takes a while, and only a config needs it

    return report_plans(loaded.config, with_cost=False)[0]


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


def models(
    words: Annotated[
        str | None,
        typer.Argument(metavar="FILTER", help="A part of a name or tag, such as SigLIP, ViT-B or laion2b."),
    ] = None,
    fits: Annotated[
        str | None,
        typer.Option("--fits", metavar="SIZE", help="Show what trains in this much memory, such as 8GB."),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="With --fits: what a step computes in; auto is bf16."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List open_clip's architectures and pretrained tags: size, cost, zero-shot accuracy.

    Example: clipft models SigLIP
    """
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
    kind = "fp32" if precision == "fp32" else "bf16"  # fp16 takes as many bytes
    fitting = found.fitting(size, kind)
    if as_json:
        typer.echo(json.dumps({"bytes": size, "precision": kind, "fits": [fit.to_json() for fit in fitting]}, indent=1))
    else:
        print_fits(found, fitting, result(), size=size, precision=kind)


def schema() -> None:
    """Print the JSON schema of a config, for editors.

    Example: clipft schema > clipft.schema.json
    """
    from clipft.config.dump import json_schema

    typer.echo(json_schema(), nl=False)

"""Whether two runs started from the same base and are of the same form, so that their weights may be averaged."""

from __future__ import annotations

from collections.abc import Iterator

from clipft.config.stages import classifier_init
from clipft.errors import InputError
from clipft.model.fill import is_drawn
from clipft.model.recipe import recipe_of
from clipft.model.runfiles import Checkpoint
from clipft.words import some


def refuse_to_mix(one_name: str, one: Checkpoint, other_name: str, other: Checkpoint) -> None:
    """Refuse runs whose weights have no meaningful average.

    Raises:
        InputError: it says all that differs.
    """
    if odd := list(_differences(one, other)):
        raise InputError(f"{other_name}: cannot be averaged with {one_name}: {'; '.join(odd)}")


def _differences(one: Checkpoint, other: Checkpoint) -> Iterator[str]:
    ours, theirs = one.state, other.state
    if ours["model"]["model_cfg"] != theirs["model"]["model_cfg"]:
        yield f"another architecture ({theirs['model']['name']}, not {ours['model']['name']}, or another size)"
        return  # all else follows from it
    if ours["model"]["preprocess_cfg"] != theirs["model"]["preprocess_cfg"]:
        yield "images are prepared otherwise (preprocess_cfg)"
    if ours.get("tokenizer") != theirs.get("tokenizer"):
        yield "another tokenizer"
    if ours["classifier"] != theirs["classifier"] or (ours["classifier"] and ours["classes"] != theirs["classes"]):
        yield "another classifier, or other classes"
    if ours["base"] != theirs["base"]:
        yield f"another base ({theirs['base']}, not {ours['base']})"
    seeds = one.config.run.seed, other.config.run.seed
    if seeds[0] != seeds[1] and (parts := sorted({*_drawn(one), *_drawn(other)})):
        yield f"{' and '.join(parts)} drawn from another run.seed ({seeds[1]}, not {seeds[0]})"
    yield from _other_tensors(one, other)


def _drawn(checkpoint: Checkpoint) -> Iterator[str]:
    """What began at random, so that from another seed it took another way."""
    model = checkpoint.config.model
    sections = (model.image, model.text)
    if is_drawn(recipe_of(model)):
        yield "weights"
    if model.embed_dim is not None or any(section.projection == "reset" for section in sections):
        yield "projections"
    if any(section.adapter or section.feature_adapter for section in sections):
        yield "adapters"
    if any(section.prompt for section in sections):
        yield "prompt vectors"
    if classifier_init(checkpoint.config) == "random":
        yield "a classifier"


def _form(checkpoint: Checkpoint) -> str:
    """What the run has beside its base's parameters, and the strategy that it has them from."""
    model = checkpoint.config.model
    new = [f"{tower}.{key}" for tower, part in (("image", model.image), ("text", model.text)) for key in part.new]
    names = [strategy.name for strategy in checkpoint.config.strategy]
    said = f"model.{' and model.'.join(new)}" if new else "no new parameters"
    return f"{said} (strategy: {', '.join(names)})" if names else said


def _other_tensors(one: Checkpoint, other: Checkpoint) -> Iterator[str]:
    ours, theirs = one.state["weights_sha256"], other.state["weights_sha256"]
    heads = "classifier."
    if odd := sorted(name for name in ours.keys() ^ theirs.keys() if not name.startswith(heads)):
        yield (
            f"another form: {_form(other)}, not {_form(one)}; a soup takes runs of one form, that is with the same "
            f"parameters ({odd[0]} is not in both)"
        )
    trained = {*one.state["saved"], *other.state["saved"]}
    moved = [name for name in ours if name in theirs and name not in trained and ours[name] != theirs[name]]
    if moved:
        yield f"another base: {len(moved)} frozen tensors differ ({some(moved, 5)})"

"""A model as a run left it: what the run saved over the run's base, which may be another run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from clipft.config.schema import LogitScaleConfig
from clipft.errors import InputError
from clipft.model import sources
from clipft.model.activation import check_activation
from clipft.model.alter import alter
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel, join
from clipft.model.construct import draw, make_tokenizer
from clipft.model.fill import Filled, fill
from clipft.model.hashes import tensor_sha256
from clipft.model.lora import has_lora, merge_lora
from clipft.model.recipe import Recipe, recipe_of, sizes_of
from clipft.model.resize import resize
from clipft.model.runfiles import STATE, WEIGHTS, Checkpoint, open_checkpoint
from clipft.model.text_prompt import prompted
from clipft.model.weights import load_into
from clipft.words import some


def restore(checkpoint: Checkpoint) -> ClipModel:
    """The model as a run's checkpoint has it: the run's base, the saved tensors over it, each checked (P52).

    Raises:
        InputError: the base is not the one that the run started from, or the saved tensors do not fit.
    """
    config, state = checkpoint.config, checkpoint.state
    saved = checkpoint.tensors()
    recipe = replace(recipe_of(config.model), sizes=sizes_of(state["model"]["model_cfg"]))
    model = draw(recipe, config.run.seed)
    if not model.state_dict().keys() <= saved.keys():  # what was saved whole needs no base
        sources.check_there(recipe.source)
        fill_base(model, recipe, config.model.logit_scale)
    altered = alter(model, recipe.sizes, config.model, config.run.seed, classes=state["classes"])
    if state["classifier"] is not None:
        cosine, bias = state["classifier"]["cosine"], state["classifier"]["bias"]
        classes, width = saved["classifier.weight"].shape
        model.classifier = Classifier(classes, width, cosine=cosine, bias=bias).eval()
    lay_over(model, saved, checkpoint)
    tokenizer = prompted(make_tokenizer(recipe), altered.text, config.model.text.prompt, state["classes"])
    if state.get("tokenizer", tokenizer.identity()) != tokenizer.identity():
        raise InputError(
            f"{checkpoint.run}: the tokenizer ({recipe.tokenizer_name or 'open_clip'}) is not the one this run was "
            "trained with; put the old one back where the run's config.yaml names it"
        )
    note = f"{checkpoint.folder}: step {checkpoint.step}, trained from {state['base']}"
    filled = Filled(state["base"], (note,))
    return join(recipe, model, altered, tokenizer, state["model"]["preprocess_cfg"], filled)


def lay_over(model: nn.Module, saved: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Put the saved tensors over the base, strictly, and check every tensor against the run's own fingerprints.

    Raises:
        InputError: a saved tensor has no place, or a fingerprint is another.
    """
    wanted = model.state_dict()
    odd = [name for name, tensor in saved.items() if name not in wanted or wanted[name].shape != tensor.shape]
    if odd:
        raise InputError(f"{checkpoint.folder / WEIGHTS}: has tensors that the run's model does not: {some(odd, 5)}")
    model.load_state_dict({**wanted, **saved})
    promised = checkpoint.state["weights_sha256"]
    differing = [name for name, tensor in model.state_dict().items() if promised.get(name) != tensor_sha256(tensor)]
    if damaged := [name for name in differing if name in saved]:
        raise InputError(
            f"{checkpoint.folder}: {WEIGHTS} and {STATE} do not belong together: {some(damaged, 5)} differ"
        )
    if differing:
        raise InputError(
            f"{checkpoint.run}: the base ({checkpoint.state['base']}) is not the one this run started from: "
            f"{len(differing)} frozen tensors differ ({some(differing, 3)}); put the old base back where the run's "
            "config.yaml names it"
        )


def fill_base(model: nn.Module, recipe: Recipe, scale: LogitScaleConfig) -> Filled:
    """The base of a recipe: its weights, and the starting scale of the config."""
    if isinstance(recipe.source, sources.RunWeights):
        filled = _from_run(model, recipe, recipe.source.path)
    else:
        filled = fill(model, recipe, recipe.source)
    if scale.init is not None:
        with torch.no_grad():
            model.get_parameter("logit_scale").fill_(math.log(scale.init))
        filled = replace(filled, notes=(*filled.notes, *_scale_notes(scale.init)))
    return filled


def _scale_notes(init: float) -> tuple[str, ...]:
    """A line where the scale was probably given as its logarithm: CLIP starts at 14.29 and ends at 100."""
    if init >= _LOG_OF_CAP:
        return ()
    return (
        f"model.logit_scale.init: {init:g} is what cosines are multiplied by, and very little; if its logarithm was "
        f"meant, write {math.exp(init):.4g}",
    )


_LOG_OF_CAP = 5.0  # ln 100 = 4.6 is the largest logarithm that CLIP allows (section 2.5)


def _from_run(model: nn.Module, recipe: Recipe, path: Path) -> Filled:
    """A run's weights as the start of another: its tensors, and nothing else of it (P41)."""
    checkpoint = open_checkpoint(path)
    try:
        other = restore(checkpoint)
    except InputError as error:  # about that run's config, not about this one
        raise InputError(f"model.pretrained: {path}: {error}") from error
    if new := {group for tower in (other.image, other.text) for group in tower.new_groups()} - {"lora"}:
        what = " and ".join("prompt vectors" if group == "prompt" else "adapters" for group in sorted(new))
        raise InputError(
            f"model.pretrained: {path}: this run tuned {what}, which are no weights of a plain model, and what it "
            f"trained beside them fits none without; name its own base ({checkpoint.state['base']})"
        )
    quick = bool(other.model_cfg.get("quick_gelu", False))
    check_activation(recipe.model_cfg, quick, recipe.name, f"the weights of {path}")
    merged = "; its LoRA is merged into them" if has_lora(other.model) else ""
    merge_lora(other.model, other.image, other.text)
    everything = other.model.state_dict()
    tensors = {name: tensor for name, tensor in everything.items() if not name.startswith("classifier.")}
    resize(model, recipe.base_sizes)
    label = f"{path} step {checkpoint.step}"
    said = load_into(model, tensors, name=recipe.name, source=label)
    afresh = "schedule, order and classifier" if len(tensors) < len(everything) else "schedule and order"
    note = f"weights only from {label}{merged}; optimiser, {afresh} start afresh"
    return Filled(label, (note, *said), preprocess=(other.preprocess_cfg, f"of {path}"))

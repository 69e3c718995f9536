"""Weights from a file, the hub or the encoders' own into a model that was drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model import hf_names, sources, textencoder
from clipft.model.activation import activation_unsaid, check_activation
from clipft.model.beside import Beside, read_beside
from clipft.model.encoders import load_image_encoder
from clipft.model.hub import fetch
from clipft.model.layouts import HUGGING_FACE, of_openai
from clipft.model.recipe import Recipe, Sizes
from clipft.model.resize import resize
from clipft.model.towers import towers_of
from clipft.model.weights import load_into, read_weights

RANDOM_BASE = "random weights"


@dataclass(frozen=True)
class Filled:
    """What filling a model with weights showed.

    Args:
        base: one phrase for where they are from.
        notes: lines to say.
        preprocess: the weights' own preprocessing and whose it is, where they bring one.
    """

    base: str
    notes: tuple[str, ...]
    preprocess: tuple[dict[str, Any], str] | None = None


def fill(model: nn.Module, recipe: Recipe, source: sources.PlainSource) -> Filled:
    """Load the weights of the source into the model, strictly."""
    match source:
        case sources.RandomWeights():
            return Filled(RANDOM_BASE, random_notes(source))
        case sources.EncoderWeights():
            return _from_encoders(model, recipe, source)
        case sources.FileWeights():
            beside = read_beside(source.path, recipe, model) if source.look_beside else Beside()
            told = beside.says_activation or not source.look_beside
            notes = _from_file(model, recipe, source.path, str(source.path), activation_told=told)
            return Filled(base_phrase(recipe), (*notes, *beside.notes), preprocess=beside.preprocess)
        case sources.HubWeights():
            path = fetch(source.repo, source.filenames, what=source.key, instead=sources.LOCAL_FILE)
            return Filled(source.label, _from_file(model, recipe, path, source.label, activation_told=True))


def base_phrase(recipe: Recipe) -> str:
    """Where the weights are from, as far as it is known without reading them."""
    match recipe.source:
        case sources.RandomWeights():
            return RANDOM_BASE
        case sources.HubWeights(label=label):
            return label
        case sources.FileWeights(path=path, look_beside=beside):
            return str(path) if beside else recipe.name
        case sources.RunWeights(path=path):
            return str(path)
        case sources.EncoderWeights(image=image, text=text):
            kinds = ("pretrained" if own else "random" for own in (image, text))
            return " + ".join(f"{name} ({kind})" for name, kind in zip(recipe.name.split(" + "), kinds, strict=True))


def is_drawn(recipe: Recipe) -> bool:
    """Whether any weight of the base is drawn, be it a projection alone: no file can bring it back."""
    match recipe.source:
        case sources.RandomWeights():
            return True
        case sources.EncoderWeights(image=image, text=text):
            return not (image and text) or _new_projections(recipe)
        case _:
            return False


def random_notes(source: sources.Source) -> tuple[str, ...]:
    """A loud line for each tower, or all of the model, whose weights are random (P70)."""
    match source:
        case sources.RandomWeights(why=why):
            return (f"RANDOM WEIGHTS: {why}, so nothing is pretrained and the model knows nothing yet",)
        case sources.EncoderWeights(image=image, text=text):
            drawn = [tower for tower, own in (("image", image), ("text", text)) if not own]
            return tuple(
                f"RANDOM WEIGHTS: model.{tower}.random is true, so the {tower} encoder is not pretrained"
                for tower in drawn
            )
        case _:
            return ()


def _from_file(model: nn.Module, recipe: Recipe, path: Path, label: str, *, activation_told: bool) -> tuple[str, ...]:
    weights = read_weights(path)
    tensors, notes, layout = weights.tensors, weights.notes, ""
    if of_openai(tensors):
        check_activation(recipe.model_cfg, True, recipe.name, f"the weights {label} (OpenAI's own file)")
    elif not activation_told:
        notes += activation_unsaid(recipe.name, path)
    if family := hf_names.family_of(tensors):
        tensors = hf_names.to_open_clip(tensors, text="text." if hasattr(model, "text") else "")
        layout = HUGGING_FACE[family]
        notes += (f"{label}: {layout}, put into open_clip's names",)
    resize(model, _asked_and_other(model, tensors, recipe.sizes))
    try:
        said = load_into(model, tensors, name=recipe.name, source=label, layout=layout)
    except InputError as error:
        raise InputError(f"{error}{_size_advice(model, tensors)}") from None
    return (*notes, *said)


def _asked_and_other(model: nn.Module, tensors: Mapping[str, Tensor], asked: Sizes) -> Sizes:
    """Those of the sizes asked for that the weights may have already, since a tensor of that part does not fit."""
    projections = {n for tower in towers_of(model) for n in tower.names() if tower.group_of(n) == "projection"}
    odd = set(_differ_in_shape(model, tensors))
    of_image = any(name.startswith("visual.") for name in odd - projections)
    of_text = any(not name.startswith("visual.") for name in odd - projections)
    return Sizes(
        asked.image_size if of_image else None,
        asked.context_length if of_text else None,
        asked.embed_dim if odd & projections else None,
    )


def _differ_in_shape(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the model's tensors that have another shape in the file; `logit_scale` may be a number or a list."""
    wanted = model.state_dict()
    return [
        name
        for name, tensor in tensors.items()
        if name in wanted and tensor.numel() > 1 and tensor.shape != wanted[name].shape
    ]


def _size_advice(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """What else may be the matter where only positions do not fit."""
    odd = _differ_in_shape(model, tensors)
    if not odd or any("pos" not in name.rpartition(".")[2] for name in odd):
        return ""
    key = "model.image_size" if odd[0].startswith("visual.") else "model.context_length"
    return f". Only positions differ: write the size these weights have in {key}"


def _from_encoders(model: nn.Module, recipe: Recipe, own: sources.EncoderWeights) -> Filled:
    """The two encoders' own pretrained weights; projections and logit_scale stay as drawn."""
    vision, text = recipe.model_cfg["vision_cfg"], recipe.model_cfg["text_cfg"]
    notes = random_notes(own)
    if own.image:
        load_image_encoder(model.get_submodule("visual"), vision["timm_model_name"], pool=vision["timm_pool"])
    if own.text and recipe.text_folder is not None:
        encoder, said = textencoder.load_encoder(
            recipe.text_folder,
            text["hf_model_name"],
            with_pooler=text["hf_pooler_type"] == "cls_pooler",
            what=f"model.text.encoder: hf:{text['hf_model_name']}",
        )
        model.get_submodule("text.transformer").load_state_dict(encoder.state_dict())
        notes += said
    if _new_projections(recipe):
        notes += ("both projections are new, drawn at random: until they are trained, images and texts do not meet",)
    return Filled(base_phrase(recipe), notes)


def _new_projections(recipe: Recipe) -> bool:
    """Whether two encoders meet by projections, which neither of them brings."""
    return bool(recipe.model_cfg["vision_cfg"]["timm_proj"] == "linear")

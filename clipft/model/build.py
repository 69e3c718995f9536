"""A CLIP model with tokenizer and preprocessing from the `model:` section: a sketch, for real, or as a run left it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from clipft.config.schema import LogitScaleConfig, ModelConfig
from clipft.errors import InputError
from clipft.model import sources
from clipft.model.activation import check_activation
from clipft.model.additions import add_new
from clipft.model.classifier import Classifier
from clipft.model.construct import construct, draw, make_tokenizer
from clipft.model.families.common import pair
from clipft.model.fill import Filled, base_phrase, fill, is_drawn, random_notes
from clipft.model.hashes import tensor_sha256
from clipft.model.lora import has_lora, merge_lora
from clipft.model.names import listed
from clipft.model.prompt_layout import PromptTokenizer, check_length
from clipft.model.recipe import Recipe, recipe_of, sizes_of
from clipft.model.resize import Resized, resize
from clipft.model.runfiles import STATE, WEIGHTS, Checkpoint, open_checkpoint
from clipft.model.text_prompt import prompted, start_in_words, start_vectors
from clipft.model.tokenizer import Tokenizer
from clipft.model.tower import Tower
from clipft.model.towers import towers_of
from clipft.model.weights import load_into


@dataclass
class MetaModel:
    """A model on the meta device: every name and shape, no value."""

    name: str
    model: nn.Module
    image: Tower
    text: Tower
    model_cfg: dict[str, Any]
    base: str
    notes: tuple[str, ...]
    resized: tuple[str, ...]

    @property
    def context_length(self) -> int:
        """Tokens that every text is padded to: what the tokenizer of this config gives."""
        length = sizes_of(self.model_cfg).context_length
        assert length is not None
        return length


@dataclass
class ClipModel:
    """A model with weights, and what turns images and texts into its inputs.

    Args:
        name: what the user called it.
        model: open_clip's CLIP or CustomTextCLIP in float32, on the CPU until moved, in evaluation mode.
        image: its image tower.
        text: its text tower.
        model_cfg: the model half of an open_clip_config.json.
        preprocess_cfg: the preprocessing half.
        preprocess: an image to a tensor (3, H, W), as open_clip evaluates.
        tokenizer: texts to tokens.
        base: one phrase for where the weights are from.
        random: whether any of the base's weights are drawn, so that no file can bring them back.
        resized: parameters that were resampled from the base's, or drawn in their place.
        notes: lines to say.
    """

    name: str
    model: nn.Module
    image: Tower
    text: Tower
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Tokenizer
    base: str
    random: bool
    resized: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of what cosines are multiplied by."""
        assert isinstance(self.model.logit_scale, nn.Parameter)
        return self.model.logit_scale

    @property
    def scale(self) -> float:
        """What cosines are multiplied by: exp(logit_scale)."""
        return float(self.logit_scale.detach().exp())

    @contextmanager
    def without_prompts(self) -> Iterator[None]:
        """Within, texts and images come without prompt vectors, as the base knows them."""
        kept = self.tokenizer, self.image.prompt, self.text.prompt
        if isinstance(self.tokenizer, PromptTokenizer):
            self.tokenizer = self.tokenizer.words
        self.image.prompt = self.text.prompt = None
        try:
            yield
        finally:
            self.tokenizer, self.image.prompt, self.text.prompt = kept


def build_meta(config: ModelConfig, *, classes: Sequence[str] | None = None) -> MetaModel:
    """The model without values: needs no weights, no tokenizer, and no network but for configs that lie on the hub.

    Args:
        config: the `model` section.
        classes: of the training data, for prompt vectors of each class's own; None where they are not known.
    """
    recipe = recipe_of(config)
    with torch.device("meta"):
        model = construct(recipe)
        resize(model, recipe.base_sizes)
        resized = resize(model, recipe.sizes, reset=_reset(config))
    image, text = _towers(model, config, resized)
    added = add_new(model, image, text, config, seed=0, classes=classes)
    if config.text.prompt is not None:
        added += (start_in_words(config.text.prompt),)
    notes = (*recipe.notes, *random_notes(recipe.source), *resized.notes, *added)
    said = (*resized.notes, *added)
    meta = MetaModel(recipe.name, model, image, text, recipe.sized_cfg, base_phrase(recipe), notes, said)
    if config.text.prompt is not None:
        check_length(config.text.prompt, meta.context_length)
    return meta


def build(config: ModelConfig, seed: int, *, classes: Sequence[str] | None = None) -> ClipModel:
    """The model with its weights; what no file gives is drawn, and depends on the seed alone.

    Args:
        config: the `model` section.
        seed: of what is drawn.
        classes: of the training data, for prompt vectors of each class's own; None where they are not known.
    """
    recipe = recipe_of(config)
    sources.check_there(recipe.source)
    model = draw(recipe, seed)
    _, text = towers_of(model)  # before any download: what is of no family is refused here
    tokenizer = prompted(make_tokenizer(recipe), text, config.text.prompt, classes)
    filled = _fill(model, recipe, config.logit_scale)
    resized = resize(model, recipe.sizes, reset=_reset(config), seed=seed)
    towers = _towers(model, config, resized)
    added = add_new(model, *towers, config, seed, classes=classes)
    if config.text.prompt is not None:
        added += (start_vectors(model, towers[1], config.text.prompt, tokenizer),)
    preprocess_cfg, whose = filled.preprocess or (recipe.preprocess_cfg, recipe.preprocess_from)
    clip = _join(recipe, model, towers, tokenizer, preprocess_cfg, filled, resized)
    clip.notes += (*resized.notes, *added, _preprocess_note(clip.preprocess_cfg, whose))
    return clip


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
        _fill(model, recipe, config.model.logit_scale)
    resized = resize(model, recipe.sizes, reset=_reset(config.model), seed=config.run.seed)
    towers = _towers(model, config.model, resized)
    add_new(model, *towers, config.model, config.run.seed, classes=state["classes"])
    if state["classifier"] is not None:
        cosine, bias = state["classifier"]["cosine"], state["classifier"]["bias"]
        classes, width = saved["classifier.weight"].shape
        model.classifier = Classifier(classes, width, cosine=cosine, bias=bias).eval()
    lay_over(model, saved, checkpoint)
    tokenizer = prompted(make_tokenizer(recipe), towers[1], config.model.text.prompt, state["classes"])
    if state.get("tokenizer", tokenizer.identity()) != tokenizer.identity():
        raise InputError(
            f"{checkpoint.run}: the tokenizer ({recipe.tokenizer_name or 'open_clip'}) is not the one this run was "
            "trained with; put the old one back where the run's config.yaml names it"
        )
    note = f"{checkpoint.folder}: step {checkpoint.step}, trained from {state['base']}"
    filled = Filled(state["base"], (note,))
    return _join(recipe, model, towers, tokenizer, state["model"]["preprocess_cfg"], filled, resized)


def _towers(model: nn.Module, config: ModelConfig, resized: Resized) -> tuple[Tower, Tower]:
    image, text = towers_of(model, image_dropout=config.image.dropout, text_dropout=config.text.dropout)
    for tower in (image, text):
        projection = {name for part in tower.parts if part.group == "projection" for name in part.names}
        tower.projection_is_new = not projection.isdisjoint(resized.names)
    return image, text


def _reset(config: ModelConfig) -> tuple[str, ...]:
    """The towers whose projection is drawn anew."""
    sections = (("image", config.image), ("text", config.text))
    return tuple(name for name, section in sections if section.projection == "reset")


def _fill(model: nn.Module, recipe: Recipe, scale: LogitScaleConfig) -> Filled:
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


def lay_over(model: nn.Module, saved: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Put the saved tensors over the base, strictly, and check every tensor against the run's own fingerprints."""
    wanted = model.state_dict()
    odd = [name for name, tensor in saved.items() if name not in wanted or wanted[name].shape != tensor.shape]
    if odd:
        raise InputError(f"{checkpoint.folder / WEIGHTS}: has tensors that the run's model does not: {listed(odd)}")
    model.load_state_dict({**wanted, **saved})
    promised = checkpoint.state["weights_sha256"]
    differing = [name for name, tensor in model.state_dict().items() if promised.get(name) != tensor_sha256(tensor)]
    if damaged := [name for name in differing if name in saved]:
        raise InputError(f"{checkpoint.folder}: {WEIGHTS} and {STATE} do not belong together: {listed(damaged)} differ")
    if differing:
        raise InputError(
            f"{checkpoint.run}: the base ({checkpoint.state['base']}) is not the one this run started from: "
            f"{len(differing)} frozen tensors differ ({listed(differing, 3)}); put the old base back where the run's "
            "config.yaml names it"
        )


def _join(
    recipe: Recipe,
    model: nn.Module,
    towers: tuple[Tower, Tower],
    tokenizer: Tokenizer,
    preprocess_cfg: dict[str, Any],
    filled: Filled,
    resized: Resized,
) -> ClipModel:
    """The parts as one; the image size is the model's own, as in open_clip."""
    visual: Any = model.visual
    preprocess_cfg = {**preprocess_cfg, "size": visual.image_size}
    set_model_preprocess_cfg(model, preprocess_cfg)
    return ClipModel(
        name=recipe.name,
        model=model,
        image=towers[0],
        text=towers[1],
        model_cfg=recipe.sized_cfg,
        preprocess_cfg=preprocess_cfg,
        preprocess=image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False),
        tokenizer=tokenizer,
        base=filled.base,
        random=is_drawn(recipe),
        resized=resized.names,
        notes=(*recipe.notes, *filled.notes),
    )


def _preprocess_note(cfg: dict[str, Any], whose: str) -> str:
    """The preprocessing in one line: it belongs to the weights, and a wrong one costs accuracy silently (P43)."""
    size = " x ".join(map(str, pair(cfg["size"])))
    mean, std = (" ".join(f"{value:.3f}" for value in cfg[key]) for key in ("mean", "std"))
    return f"preprocessing {whose}: {size} pixels, {cfg['interpolation']}, {cfg['resize_mode']}, mean {mean}, std {std}"

"""The base of a tuned model: what its config starts from, with nothing of the tuning in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import open_clip

from clipft.config.load import load_config
from clipft.config.schema import LogitScaleConfig, ModelConfig
from clipft.errors import InputError
from clipft.export.read import is_export, read_export
from clipft.model.additions import base_config
from clipft.model.build import build
from clipft.model.clip_model import ClipModel
from clipft.model.config_files import LOCAL_DIR
from clipft.model.lora import merge_lora
from clipft.model.recipe import HF_HUB
from clipft.model.saved import load_saved
from clipft.words import some

_EXPECTED = (
    f"expected {LOCAL_DIR}PATH, {HF_HUB}NAME, ARCHITECTURE:TAG such as ViT-B-32:laion2b_s34b_b79k, a run, an exported "
    "model, or a config.yaml (its base)"
)


def plain_base(config: ModelConfig) -> ModelConfig:
    """The model that a `model` section starts from: its weights as they are, at their own sizes."""
    config = base_config(config)
    towers = {
        "image": config.image.model_copy(update={"projection": "train"}),
        "text": config.text.model_copy(update={"projection": "train"}),
    }
    sizes = {"image_size": None, "context_length": None}
    if config.name is not None:
        sizes["embed_dim"] = None  # two encoders have none of their own
    return config.model_copy(update={**towers, **sizes, "logit_scale": LogitScaleConfig()})


def open_base(name: str) -> ClipModel:
    """A model to put adapter files on.

    Args:
        name: local-dir:PATH, hf-hub:NAME, ARCHITECTURE:TAG, a run, an exported model or a config.

    Raises:
        InputError: there is no such thing, or it has additions of its own.
    """
    if name.startswith((LOCAL_DIR, HF_HUB)):
        return build(ModelConfig(name=name), seed=0)
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        loaded = load_config(path, need_data=False)
        with loaded.places():
            return build(plain_base(loaded.config.model), loaded.config.run.seed)
    if path.is_dir():
        return _without_head(_exported(path) if is_export(path) else _of_run(path))
    architecture, _, tag = name.partition(":")
    if tag:
        return build(ModelConfig(name=architecture, pretrained=tag), seed=0)
    if name in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(name)
        known = f"; its tags are {some(tags, 5)}" if tags else ""
        raise InputError(f"{name}: is an architecture and has no weights of its own; write {name}:TAG or FILE{known}")
    raise InputError(f"{name}: {'is a file' if path.exists() else 'does not exist'}; {_EXPECTED}")


def _exported(path: Path) -> ClipModel:
    exported = read_export(path)
    if exported.facts is not None and exported.facts.additions is not None:
        raise _no_base(path)
    return exported.clip


def _of_run(path: Path) -> ClipModel:
    clip = load_saved(path).clip
    if {group for tower in (clip.image, clip.text) for group in tower.new_groups()} - {"lora"}:
        raise _no_base(path)
    merge_lora(clip.model, clip.image, clip.text)
    return replace(clip, base=str(path))  # as a base it is itself, whatever it was tuned from


def _no_base(path: Path) -> InputError:
    return InputError(
        f"{path}: has prompt vectors or adapters of its own, so it is no base for others; name the base that it was "
        "tuned from"
    )


def _without_head(clip: ClipModel) -> ClipModel:
    if hasattr(clip.model, "classifier"):
        del clip.model.classifier
    return clip

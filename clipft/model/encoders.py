"""Two encoders, `timm:NAME` and `hf:FOLDER_OR_NAME`, as one open_clip model config; their own pretrained weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from torch import nn

from clipft.config.hints import nearest, one_of
from clipft.config.schema import ModelConfig
from clipft.errors import ClipftError, InputError
from clipft.model import textencoder
from clipft.model.hub import fetch

_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}
_RESIZE_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}  # timm's crop_mode in open_clip's words


def two_encoder_config(config: ModelConfig, text_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two halves of an open_clip_config.json, model and preprocessing, for the two encoders of `config`.

    Args:
        config: has both encoders and no name.
        text_folder: where the text encoder's config.json lies.
    """
    what = f"model.text.encoder: {config.text.encoder}"
    image_cfg, image_width = _vision_cfg(timm_name(config), projected=config.embed_dim is not None)
    hf_config = textencoder.read_config(text_folder, what)
    length = config.context_length or open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH
    check_context(length, hf_config, what, default=config.context_length is None)
    embed_dim, text_width = config.embed_dim or image_width, int(hf_config.hidden_size)  # mT5 calls it d_model, too
    if config.embed_dim is None and image_width != text_width:
        raise InputError(
            f"model.embed_dim: null needs encoders of equal width, but {config.image.encoder} gives {image_width} and "
            f"{config.text.encoder} {text_width}; write a width for both, such as embed_dim: "
            f"{min(image_width, text_width)}, to project them into one space"
        )
    name = hf_name(config)
    text_cfg = {
        "context_length": length,
        "vocab_size": hf_config.vocab_size,
        "hf_tokenizer_name": name,
        "hf_model_name": name,
        "hf_model_pretrained": False,
        "hf_proj_type": None if config.embed_dim is None else "linear",
        "hf_pooler_type": _POOLERS[config.text.pooling or "mean"],
    }
    model_cfg = {"embed_dim": embed_dim, "vision_cfg": image_cfg, "text_cfg": text_cfg, "custom_text": True}
    return model_cfg, _preprocess_cfg(timm_name(config))


def timm_name(config: ModelConfig) -> str:
    """The timm model of `model.image.encoder`, known to timm; else an error with the nearest names."""
    name = (config.image.encoder or "").removeprefix("timm:")
    arch, _, tag = name.partition(".")
    what = f"model.image.encoder: timm:{name}"
    if not timm.is_model(arch):
        close = nearest(arch, timm.list_models(), count=4)
        hint = f"did you mean {one_of(close)}?" if close else "timm.list_models() lists them"
        raise InputError(f"{what}: timm has no model {arch}; {hint}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture without such a tag
        tags = timm.list_pretrained(f"{arch}.*")
        raise InputError(f"{what}: {arch} has no weights {tag}; timm knows {', '.join(tags) or 'none'}") from None
    return name


def hf_name(config: ModelConfig) -> str:
    """The folder (absolute) or hub name of `model.text.encoder`."""
    name = (config.text.encoder or "").removeprefix("hf:")
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def check_context(length: int, hf_config: Any, what: str, *, default: bool = False) -> None:
    """InputError where the encoder has fewer positions than `length`."""
    most = textencoder.most_tokens(hf_config)
    if most is not None and length > most:
        found = f"{length} (the default)" if default else str(length)
        raise InputError(
            f"model.context_length: {found} is more than the {most} tokens that {what.removeprefix('model.')} has "
            f"positions for; write at most {most}"
        )


def load_image_encoder(visual: nn.Module, name: str, *, pool: str) -> None:
    """Put timm's own pretrained weights into `visual.trunk`, an open_clip TimmModel of the same name."""
    what = f"model.image.encoder: timm:{name}"
    instead = "write image.random: true for random weights, or start from a local-dir: or a local file"
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise InputError(f"{what}: timm has no pretrained weights for it; {instead}")
    overlay = {}
    if cfg.hf_hub_id:
        filenames = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        overlay["file"] = str(fetch(cfg.hf_hub_id, filenames, what=what, instead=instead))
    try:
        trunk = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        raise ClipftError(f"{what}: its weights do not load: {str(error).strip()}; {instead}") from None
    trunk.reset_classifier(0, global_pool=pool)
    visual.get_submodule("trunk").load_state_dict(trunk.state_dict())


def _vision_cfg(name: str, *, projected: bool) -> tuple[dict[str, Any], int]:
    """The image half of a model config, and the width of the encoder's pooled feature."""
    with torch.device("meta"):
        trunk = timm.create_model(name, num_classes=0)
    _, height, width = timm.data.resolve_model_data_config(trunk)["input_size"]
    cfg = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": _own_pool(trunk),
        "timm_proj": "linear" if projected else "none",
        "image_size": height if height == width else [height, width],
    }
    return cfg, int(trunk.num_features)


def _own_pool(trunk: nn.Module) -> str:
    """How the network pools by itself: a word in a ViT, a layer in a staged network or its head."""
    pool = getattr(trunk, "global_pool", None) or getattr(getattr(trunk, "head", None), "global_pool", None)
    return pool if isinstance(pool, str) else str(getattr(pool, "pool_type", "avg"))


def _preprocess_cfg(name: str) -> dict[str, Any]:
    """open_clip's preprocessing with the mean, std and resizing that the timm weights were trained with.

    timm's crop_pct has no place in it: open_clip resizes to the size it crops.
    """
    data = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    if data["interpolation"] not in ("bicubic", "bilinear"):
        raise InputError(
            f"model.image.encoder: timm:{name} was trained with {data['interpolation']} resizing, "
            "which open_clip's preprocessing does not have"
        )
    return asdict(
        open_clip.transform.PreprocessCfg(
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            resize_mode=_RESIZE_MODES[data["crop_mode"]],
        )
    )

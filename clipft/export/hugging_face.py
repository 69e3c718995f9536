"""An export for transformers: its CLIPModel or SiglipModel, tokenizer and image processor, offline.

Everything is read back by transformers and compared with the run's model: tokens, pixels, features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipft.errors import ClipftError, InputError
from clipft.export.files import facts_of, state_dict, write_configs, write_json
from clipft.export.fingerprint import known_picture, probe, same_features
from clipft.export.hf_tokenizer import compare_tokens, read_tokenizer, write_clip_tokenizer, write_siglip_tokenizer
from clipft.model import textencoder
from clipft.model.clip_model import ClipModel
from clipft.model.config_files import EXPORT_FACTS
from clipft.model.hf_form import CLASSES, Form, Misfit, form_of
from clipft.model.hf_names import to_transformers
from clipft.model.saved import SavedModel
from clipft.model.tensor_file import write_tensors

WEIGHTS = "model.safetensors"
SAME = 1e-5
"""How far a normalised feature of transformers' model may be from the run's."""
SAME_LEVELS = 0.5
"""How far pixels may be from the run's on average, of 255 levels.

transformers resizes by torchvision, open_clip by PIL: 0.002 to 0.08 apart on the picture below, up to 0.12 on noise;
with another interpolation it would be 5 and more. Asked for its PIL backend, transformers gives the very same pixels.
"""

_RESAMPLE = {"bilinear": 2, "bicubic": 3, "random": 3}  # PIL's numbers; open_clip evaluates `random` as bicubic


def require_form(clip: ClipModel) -> Form:
    """How transformers builds the model.

    Raises:
        InputError: it does not, or transformers is not installed; the exports that fit are named.
    """
    textencoder.require_transformers("--to hf")
    form = form_of(clip.model, clip.model_cfg)
    if isinstance(form, Misfit):
        raise InputError(_refusal(clip, form.reason))
    if clip.preprocess_cfg["resize_mode"] == "longest":
        raise InputError(_refusal(clip, "its images are resized by their longest side and padded"))
    return form


def write_hugging_face(partial: Path, out: Path, saved: SavedModel, run: str, form: Form) -> str:
    """Write and check a folder that transformers reads.

    Args:
        partial: where to write.
        out: where it will lie in the end.
        saved: the run's model, in evaluation mode.
        run: the run, as the user named it.
        form: how transformers builds it.

    Returns:
        How it compared.

    Raises:
        ClipftError: transformers reads it back as another model, tokenizer or image processor.
    """
    clip = saved.clip
    with textencoder.quiet_transformers():
        special = _write_tokenizer(partial, clip, form)
        _config(form, special).save_pretrained(partial)
        write_tensors(to_transformers(state_dict(clip.model), form.family), partial / WEIGHTS, {"format": "pt"})
        _image_processor(clip.preprocess_cfg, form).save_pretrained(partial)
        # the two halves of an open_clip_config.json, so that clipft.load builds the run's model again
        configs = {"model_cfg": write_configs(clip, partial, out), "preprocess_cfg": clip.preprocess_cfg}
        write_json(partial / EXPORT_FACTS, {**facts_of(saved, run, None).to_json(), **configs})
        return _compare(partial, clip, form)


def describe_hugging_face(clip: ClipModel, form: Form, out: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines that load such a folder, and what to know about it."""
    lines = (
        f'model = transformers.{CLASSES[form.family]}.from_pretrained("{out}")',
        f'processor = transformers.AutoProcessor.from_pretrained("{out}")',
        f'model, preprocess, tokenizer = clipft.load("{out}")',
    )
    notes = [
        "transformers' tokenizer takes texts as they are: HTML such as &amp; and curly quotes, which open_clip mends "
        "first, become other tokens",
        "transformers resizes images a little otherwise: for the very same pixels take "
        'AutoImageProcessor.from_pretrained(FOLDER, backend="pil")',
    ]
    if clip.preprocess_cfg["resize_mode"] == "shortest":
        notes.append(
            "transformers' crop lies one pixel aside where 3, 7, 11 ... pixels are left to cut: it rounds down, and "
            "open_clip to the nearest"
        )
    if form.family == "siglip":
        notes.append(
            'call the processor with padding="max_length", truncation=True: the text tower reads its last place'
        )
    if hasattr(clip.model, "classifier"):
        notes.append("the classifier is left out, since transformers has no place for it: --to open_clip has it")
    return lines, tuple(notes)


def _refusal(clip: ClipModel, reason: str) -> str:
    return (
        f"--to hf: transformers has no model such as {clip.name}: {reason}; the exports that fit are open_clip and pt"
    )


def _write_tokenizer(folder: Path, clip: ClipModel, form: Form) -> dict[str, int]:
    """The tokenizer's files; returns the numbers that text_config has of it."""
    if form.family == "clip":
        write_clip_tokenizer(folder, clip.tokenizer.context_length)
        return {}  # CLIPTextConfig has CLIP's own
    text_cfg = clip.model_cfg["text_cfg"]
    name = text_cfg["hf_tokenizer_name"]
    source = textencoder.tokenizer_folder(name, f"hf_tokenizer_name {name}")
    clean = (text_cfg.get("tokenizer_kwargs") or {}).get("clean", "whitespace")  # open_clip's default
    return write_siglip_tokenizer(folder, source, clean=clean, context_length=clip.tokenizer.context_length)


def _config(form: Form, special: dict[str, int]) -> Any:
    from transformers import CLIPConfig, SiglipConfig

    vision = {**form.vision, "image_size": form.vision["image_size"][0], "patch_size": form.vision["patch_size"][0]}
    common = {"architectures": [CLASSES[form.family]], "dtype": "float32"}
    if form.family == "siglip":
        text = {**form.text, **special, "projection_size": form.embed_dim}
        return SiglipConfig(text_config=text, vision_config=vision, **common)
    width = {"projection_dim": form.embed_dim}
    return CLIPConfig(text_config={**form.text, **width}, vision_config={**vision, **width}, **width, **common)


def _image_processor(preprocess_cfg: dict[str, Any], form: Form) -> Any:
    """The image processor with open_clip's settings."""
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    edge = form.vision["image_size"][0]
    square = {"height": edge, "width": edge}
    settings = {
        "image_mean": list(preprocess_cfg["mean"]),
        "image_std": list(preprocess_cfg["std"]),
        "resample": _RESAMPLE[preprocess_cfg["interpolation"]],
    }
    if preprocess_cfg["resize_mode"] == "squash":
        kind = SiglipImageProcessor if form.family == "siglip" else CLIPImageProcessor
        return kind(size=square, do_center_crop=False, crop_size=square, **settings)
    return CLIPImageProcessor(size={"shortest_edge": edge}, do_center_crop=True, crop_size=square, **settings)


def _compare(folder: Path, clip: ClipModel, form: Form) -> str:
    import transformers

    model, info = getattr(transformers, CLASSES[form.family]).from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise ClipftError(
            f"transformers {transformers.__version__} reads other tensors: {wrong[:3]}; nothing was written"
        )
    tokens = compare_tokens(clip.tokenizer, read_tokenizer(folder), padding=form.family == "siglip")
    levels = _compare_pixels(folder, clip, form)
    with torch.no_grad():
        read = model.eval()(**tokens, pixel_values=known_picture(clip.model))
    theirs: tuple[Tensor, Tensor] = (read.image_embeds, read.text_embeds)
    ours = probe(clip.model, clip.tokenizer)
    difference = same_features(
        ours, theirs, SAME, f"transformers {transformers.__version__} loads the export, but its features"
    )
    return (
        f"loaded by transformers and compared: tokens are the same, pixels differ by {levels:.3f} of 255 on average, "
        f"normalised features by at most {difference:.1e}"
    )


def _compare_pixels(folder: Path, clip: ClipModel, form: Form) -> float:
    """How far pixels are from the run's on average, of 255 levels, in a picture that has to be resized and cropped."""
    from transformers import AutoImageProcessor

    edge = form.vision["image_size"][0]
    height, width = edge + edge // 4, 3 * (edge + edge // 4)  # resized, an even number of pixels is cropped off
    waves = 127.5 + 127.5 * np.sin(np.arange(height * width * 3) * 0.1)
    picture = Image.fromarray(waves.reshape(height, width, 3).astype(np.uint8))
    theirs = AutoImageProcessor.from_pretrained(folder, local_files_only=True)(picture, return_tensors="pt")
    std = torch.tensor(clip.preprocess_cfg["std"])[:, None, None]
    levels = float(((theirs.pixel_values[0] - clip.preprocess(picture)) * std * 255).abs().mean())  # of (3, H, W)
    if not levels <= SAME_LEVELS:
        raise ClipftError(
            f"transformers prepares images otherwise: pixels differ by {levels:.1f} of 255 levels on average; nothing "
            "was written"
        )
    return levels

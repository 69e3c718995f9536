"""A model's config in a folder: where it stands, what it says, and the other folders that it names."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from clipft.errors import InputError
from clipft.model import textencoder

LOCAL_DIR = "local-dir:"  # then a folder: a name to open_clip, and of an image encoder to timm
OPEN_CLIP_CONFIG = "open_clip_config.json"
HUGGING_FACE_CONFIG = "config.json"
EXPORT_FACTS = "clipft.json"  # in every folder that `clipft export` wrote
ADDITIONS = "additions.safetensors"  # in an export, new parameters that open_clip has no place for
PLAIN_MODEL = "model"  # in such an export, the open_clip model without them
TIMM_FOLDER = "timm"  # in an export, the config of a timm network of another size than its name says


def config_path(folder: Path) -> Path | None:
    """The file with the model's open_clip config; clipft.json has it in an export for transformers."""
    ours, facts = folder / OPEN_CLIP_CONFIG, folder / EXPORT_FACTS
    if ours.is_file():
        return ours
    return facts if facts.is_file() and (folder / HUGGING_FACE_CONFIG).is_file() else None


def read_config_file(path: Path, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two halves of an open_clip_config.json: model_cfg and preprocess_cfg."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: {path} cannot be read ({error})") from None
    model_cfg = content.get("model_cfg") if isinstance(content, dict) else None
    halves = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(model_cfg, dict) or not all(key in model_cfg for key in halves):
        raise InputError(
            f"{what}: {path} has no model_cfg with {', '.join(halves)}; expected a config that open_clip wrote"
        )
    return model_cfg, merge_preprocess_dict(asdict(PreprocessCfg()), content.get("preprocess_cfg") or {})


def find_folders(model_cfg: dict[str, Any], folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with its folders made those of today, and lines to say: an export may have moved since."""
    model_cfg, notes = deepcopy(model_cfg), []
    text_cfg, vision_cfg = model_cfg["text_cfg"], model_cfg["vision_cfg"]
    timm_name = str(vision_cfg.get("timm_model_name", ""))
    if timm_name.startswith(LOCAL_DIR) and (folder / TIMM_FOLDER / textencoder.CONFIG).is_file():
        vision_cfg["timm_model_name"] = f"{LOCAL_DIR}{(folder / TIMM_FOLDER).resolve()}"
    if name := text_cfg.get("hf_model_name"):
        found = _resolve(name, folder, lambda path: (path / textencoder.CONFIG).is_file())
        text_cfg["hf_model_name"] = found
        if Path(found) != Path(name).expanduser().resolve() and found != name:
            notes.append(
                f"{folder}: the text encoder's config.json is taken from {found}, not from {name} as written there"
            )
    if name := text_cfg.get("hf_tokenizer_name"):
        # open_clip takes a local-dir's tokenizer from the folder itself, whatever the name
        inside = next((p for p in (folder, folder / "text") if textencoder.has_tokenizer(p)), None)
        text_cfg["hf_tokenizer_name"] = (
            str(inside.resolve()) if inside else _resolve(name, folder, textencoder.has_tokenizer)
        )
    return model_cfg, tuple(notes)


def _resolve(name: str, folder: Path, fits: Callable[[Path], bool]) -> str:
    """The folder that `name` means, unchanged where there is none: a hub name.

    An export of clipft has all it needs in itself, and where it was written another may lie by now.
    """
    as_written, beside = Path(name).expanduser(), (folder, folder / "text")
    exported = (folder / EXPORT_FACTS).is_file()
    places = (*beside, as_written) if exported else (folder / name, as_written, *beside)
    for place in places:
        if fits(place):
            return str(place.resolve())
    return name

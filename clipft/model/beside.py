"""What stands beside a weights file and belongs to it: its preprocessing, and how its blocks compute (P42, P43).

An open_clip_config.json has both; so have the config.json and preprocessor_config.json of transformers.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from clipft.errors import InputError
from clipft.model.activation import check_activation
from clipft.model.config_files import HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG, read_config_file
from clipft.model.hf_form import blocks_of
from clipft.model.json_file import read_object
from clipft.model.recipe import Recipe

_PREPROCESSOR = "preprocessor_config.json"
_PROCESSOR = "processor_config.json"  # transformers 5 writes the same under image_processor here

# What transformers takes for a key that its config.json lacks (configuration_clip.py, configuration_siglip.py).
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_attention_heads": 12}
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    kind: {"vision": {**_CLIP, "num_attention_heads": 12}, "text": {**_CLIP, "num_attention_heads": 8}}
    for kind in ("clip", "metaclip_2")
} | {"siglip": {"vision": _SIGLIP, "text": _SIGLIP}}
_TOWERS = {"vision": "image", "text": "text"}


@dataclass(frozen=True)
class Beside:
    """What was found.

    Args:
        preprocess: the weights' own preprocessing as open_clip has it, and whose it is.
        notes: lines to say.
        says_activation: whether a config was there, and agreed with the architecture's activation.
    """

    preprocess: tuple[dict[str, Any], str] | None = None
    notes: tuple[str, ...] = ()
    says_activation: bool = False


def read_beside(path: Path, recipe: Recipe, model: nn.Module) -> Beside:
    """Read the configs in the folder of a weights file.

    Args:
        path: the weights file.
        recipe: of the model that the weights are for.
        model: that model.

    Raises:
        InputError: one of them says that the weights are of a model that computes otherwise, or cannot be read.
    """
    whose = f"the weights {path}"
    ours = path.parent / OPEN_CLIP_CONFIG
    if ours.is_file():
        model_cfg, preprocess_cfg = read_config_file(ours, f"model.pretrained: {path}")
        check_activation(recipe.model_cfg, bool(model_cfg.get("quick_gelu", False)), recipe.name, whose)
        return Beside((preprocess_cfg, f"of {ours}"), says_activation=True)
    config = _read(path.parent / HUGGING_FACE_CONFIG)
    if config and str(config.get("model_type")) not in _DEFAULTS:
        return Beside()
    notes = _check_blocks(path.parent / HUGGING_FACE_CONFIG, config, recipe, model, whose) if config else ()
    return Beside(_preprocessing(path.parent), notes, says_activation=bool(config))


def _check_blocks(file: Path, config: dict[str, Any], recipe: Recipe, model: nn.Module, whose: str) -> tuple[str, ...]:
    """What shapes do not show: another number of heads or activation computes something else without a word."""
    notes = []
    for tower, defaults in _DEFAULTS[config["model_type"]].items():
        built = blocks_of(model, tower)
        if not built:
            continue
        given = {**defaults, **_object(config, f"{tower}_config", file)}
        if older := _object(
            config, f"{tower}_config_dict", file
        ):  # it wins, and so does what it leaves out (CLIPConfig)
            given |= {**defaults, **older}
        where = f"{file}: its {_TOWERS[tower]} blocks"
        if given["num_attention_heads"] != built["num_attention_heads"]:
            raise InputError(
                f"{where} have {given['num_attention_heads']} attention heads, and {recipe.name} has "
                f"{built['num_attention_heads']}, which computes something else from the same weights; name the "
                "architecture they are of in model.name"
            )
        quick = given["hidden_act"] == "quick_gelu"
        if quick != (built["hidden_act"] == "quick_gelu"):
            check_activation(recipe.model_cfg, quick, recipe.name, whose)
            raise InputError(
                f"{where} compute with {given['hidden_act']}, and {recipe.name} with {built['hidden_act']}; name the "
                "architecture they are of in model.name"
            )
        other = [key for key in ("hidden_act", "layer_norm_eps") if given[key] != built[key]]
        if other:
            theirs, here = (", ".join(f"{key} {values[key]}" for key in other) for values in (given, built))
            notes.append(
                f"{where} have {theirs} in transformers, and {here} in {recipe.name}: features differ a little"
            )
    return tuple(notes)


def _preprocessing(folder: Path) -> tuple[dict[str, Any], str] | None:
    for file, values in (
        (folder / _PREPROCESSOR, _read(folder / _PREPROCESSOR)),
        (folder / _PROCESSOR, _object(_read(folder / _PROCESSOR), "image_processor", folder / _PROCESSOR)),
    ):
        if values:
            return merge_preprocess_dict(asdict(PreprocessCfg()), _as_open_clip(values, file)), f"of {file}"
    return None


def _as_open_clip(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """An image processor of transformers as open_clip's preprocessing; the image size comes from the model.

    Raises:
        InputError: it prepares images as open_clip cannot, or a value is of another kind.
    """
    kind = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    siglip = "siglip" in kind.lower()
    size = _size(values, "size", file) or ({"height": 224, "width": 224} if siglip else {"shortest_edge": 224})
    squash = siglip if isinstance(size, int) else size.keys() == {"height", "width"}
    interpolation = {2: "bilinear", 3: "bicubic"}.get(_number(values, "resample", 3, file))  # PIL's numbers
    cropped = _size(values, "crop_size", file) if values.get("do_center_crop", not siglip) else None
    faults = [
        *([] if interpolation else [f"resample {values['resample']}, and open_clip has 2 (bilinear) and 3 (bicubic)"]),
        *([] if squash or isinstance(size, int) or size.keys() == {"shortest_edge"} else [f"size {size}"]),
        *([] if not cropped or _edges(cropped) == _edges(size) else [f"size {size} with crop_size {cropped}"]),
        *(f"{key} false" for key in ("do_resize", "do_rescale", "do_normalize") if values.get(key, True) is False),
    ]
    if faults:
        raise InputError(
            f"{file}: has {'; '.join(faults)}; open_clip resizes to the model's image size and normalises; write what "
            "the weights need, or take the file away for OpenAI's preprocessing"
        )
    means = {"mean": [0.5] * 3, "std": [0.5] * 3} if siglip else {}
    given = {"mean": _channels(values, "image_mean", file), "std": _channels(values, "image_std", file)}
    return {
        **means,
        **{key: value for key, value in given.items() if value},
        "interpolation": interpolation,
        "resize_mode": "squash" if squash else "shortest",
    }


def _edges(size: int | dict[str, int]) -> set[int]:
    return {size} if isinstance(size, int) else set(size.values())


def _size(values: dict[str, Any], key: str, file: Path) -> int | dict[str, int] | None:
    """An edge, or edges by name; transformers takes a pair for height and width."""
    size = values.get(key)
    if isinstance(size, list) and len(size) == 2:
        size = dict(zip(("height", "width"), size, strict=True))
    edges = size.values() if isinstance(size, dict) else [size]
    if size and not all(type(edge) is int for edge in edges):
        raise _wrong(values, key, "expected pixels, [height, width] or an object of those", file)
    return size or None


def _channels(values: dict[str, Any], key: str, file: Path) -> tuple[float, ...] | None:
    numbers = values.get(key)
    if numbers is None:
        return None
    if not isinstance(numbers, list) or len(numbers) != 3 or not all(type(n) in (int, float) for n in numbers):
        raise _wrong(values, key, "expected a list of three numbers: red, green, blue", file)
    return tuple(numbers)


def _number(values: dict[str, Any], key: str, default: int, file: Path) -> int:
    number = values.get(key, default)
    if type(number) is not int:
        raise _wrong(values, key, "expected a whole number", file)
    return number


def _object(values: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    content = values.get(key) or {}
    if not isinstance(content, dict):
        raise _wrong(values, key, "expected an object", file)
    return content


def _wrong(values: dict[str, Any], key: str, expected: str, file: Path) -> InputError:
    return InputError(f"{file}: {key} is {json.dumps(values[key])}; {expected}")


def _read(file: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing where there is none."""
    return read_object(file) if file.is_file() else {}

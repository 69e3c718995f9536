"""Any weights file to plain tensors, and those into a model: safely, strictly, and with every oddity said."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model.layouts import PART_OF_A_RUN, recognise
from clipft.words import some

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # open_clip's training loop and common others
# what DistributedDataParallel and torch.compile put before names; the latter also in the middle
_PREFIX = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")
# OpenAI's files hold three settings as tensors; transformers' position numbers are computed, not learnt
_HARMLESS = re.compile(r"^(input_resolution|context_length|vocab_size)$|(^|\.)position_ids$")


@dataclass(frozen=True)
class Weights:
    """A plain state dict, and what was done to the file's content to get it."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: Path) -> Weights:
    """Read a .safetensors file, or a .pt, .pth or .bin file of plain tensors; nothing in it is run.

    Raises:
        InputError: not there, damaged, a TorchScript archive, or a pickle of more than plain weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a weights file ends in {', '.join(SUFFIXES)}, not {path.suffix or 'nothing'}")
    content: object = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    inner, unwrapped = _unwrap(path, content)
    tensors = {_PREFIX.sub("", key): tensor for key, tensor in inner.items()}
    if len(tensors) < len(inner):
        raise InputError(f"{path}: two of its tensors have the same name once module. and _orig_mod. are taken off")
    return Weights(tensors, tuple(note for note in (unwrapped, _stripped(path, inner)) if note))


def load_into(
    model: nn.Module, tensors: Mapping[str, Tensor], *, name: str, source: str, layout: str = ""
) -> tuple[str, ...]:
    """Load the tensors into the model, all of them and nothing missing; returns what to say.

    Args:
        model: takes the tensors in its own type.
        tensors: a plain state dict, as `read_weights` gives it.
        name: the architecture, for the error.
        source: where the tensors are from, for the error.
        layout: of the file, for the error, where its tensors came under other names.

    Raises:
        InputError: keys missing, unexpected or of another shape: the first of each and their number, the file's layout.
    """
    wanted = model.state_dict()
    given = {key: _scalar_like(tensor, wanted.get(key)) for key, tensor in tensors.items()}
    harmless = [key for key in given if key not in wanted and _HARMLESS.search(key)]
    for key in harmless:
        del given[key]
    faults = _faults(wanted, given)
    if faults:
        found = PART_OF_A_RUN if _is_part(wanted, given) else recognise(tensors)
        found = replace(found, name=layout) if layout else found
        raise InputError(f"{source} does not fit {name}: {'; '.join(faults)}; {found}")
    model.load_state_dict(given)
    return (f"{source}: left aside {some(harmless, 5)}, which the model computes itself",) if harmless else ()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is not a whole safetensors file ({error}); copy or download it again") from None
    return tensors


def _read_pickle(path: Path) -> object:
    if _is_torchscript(path):
        raise InputError(
            f"{path}: is a TorchScript archive (OpenAI's own downloads are), which holds code and is not opened; "
            "for OpenAI's weights write pretrained: openai, for others save the state dict as .safetensors elsewhere"
        )
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_numbers()):
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than plain weights ({_unpickling_reason(error)}), and that is not run; where it "
            "was made, save the weights alone, by safetensors.torch.save_file(model.state_dict(), 'x.safetensors')"
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        # torch's reader meets damaged files in all these ways
        reason = str(error).strip().split(". ", 1)[0] or type(error).__name__
        raise InputError(f"{path}: is not a whole PyTorch file ({reason}); copy or download it again") from None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(re.search(r"^[^/]+/(code/|constants\.pkl$)", member) for member in archive.namelist())


def _numpy_numbers() -> list[Any]:
    """What a NumPy number in a checkpoint (a best score, an epoch) is pickled as: plain data, no code (P39)."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "bool")]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]  # the older name: before NumPy 2


def _unpickling_reason(error: Exception) -> str:
    """What torch refused, without its advice on how to run it all the same."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it would call {found[1]}"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return f"torch: {found[1]}" if found else "not a pickle of tensors"


def _unwrap(path: Path, content: object) -> tuple[dict[str, Tensor], str]:
    """The dict of tensors in what a file held, and what was left aside to get there."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a dict of tensors by name")
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            aside = some((str(key) for key in content if key != wrapper), 5)
            note = f"{path}: took the weights under {wrapper!r}" + (f" and left aside {aside}" if aside else "")
            return _only_tensors(path, content[wrapper]), note
    return _only_tensors(path, content), ""


def _only_tensors(path: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    others = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"{path}: expected tensors by name, but these are none: {some(others, 5)}")
    if not content:
        raise InputError(f"{path}: holds no tensors")
    return {str(key): value for key, value in content.items()}


def _stripped(path: Path, keys: Mapping[str, Tensor]) -> str:
    touched = [key for key in keys if _PREFIX.search(key)]
    if not touched:
        return ""
    parts = {part for key in touched for match in _PREFIX.findall(key) for part in match.rstrip(".").split(".")}
    off = " and ".join(f"{part}." for part in sorted(parts))
    return f"{path}: took {off} off the names of {len(touched)} of {len(keys)} tensors"


def _scalar_like(tensor: Tensor, wanted: Tensor | None) -> Tensor:
    """`logit_scale` is a number in some files and a list of one in others: take the model's shape."""
    if wanted is not None and tensor.numel() == wanted.numel() == 1:
        return tensor.reshape(wanted.shape)
    return tensor


def _faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    other = [
        f"{key} is {_shape(given[key])}, not {_shape(wanted[key])}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    counted = ((missing, "missing"), (unexpected, "unexpected"), (other, "of another shape"))
    return [f"{len(keys)} {kind} ({some(keys, 5)})" for keys, kind in counted if keys]


def _is_part(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    """Whether all that is given fits, but for a run's classifier."""
    ours = {key: tensor for key, tensor in given.items() if not key.startswith("classifier.")}
    return len(ours) < len(wanted) and all(key in wanted and wanted[key].shape == ours[key].shape for key in ours)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"

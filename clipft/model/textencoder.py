"""Hugging Face text encoders: which folder holds one, what its config says, its own pretrained weights.

Only the types that `families/` knows are let in; the others are refused by name.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from clipft.errors import InputError
from clipft.model.families.common import HUGGING_FACE_TYPES
from clipft.model.hub import fetch, fetch_beside
from clipft.words import some

CONFIG = "config.json"
_ENCODER_DECODERS = ("mt5", "m2m_100")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
# word lists of tokenizers, the fast kind first
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_TOKENIZER_EXTRA = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
TOKENIZER_FILES = (*_TOKENIZER, *_TOKENIZER_EXTRA)
"""All that a Hugging Face tokenizer may be made of."""


_ELSEWHERE = (
    "fetch it where there is a network and copy that cache here (HF_HOME), or name a folder of it where this name "
    "stands: in the config, or in the open_clip_config.json of a local-dir:"
)


def find_folder(name: str, what: str) -> Path:
    """The folder with the encoder's config.json: `name` itself, or the cached one of a hub name.

    Args:
        name: a folder, or ORG/NAME on the hub.
        what: the key and value this is for; an error starts with it.
    """
    require_transformers(what)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise InputError(f"{what}: {folder} has no {CONFIG}; expected a folder that transformers saved")
        return folder
    if folder.is_absolute() or name.count("/") > 1 or name.startswith("."):
        raise InputError(f"{what}: {folder} is not there; expected a folder with {CONFIG}, or ORG/NAME on the hub")
    return fetch(name, [CONFIG], what=what, instead=_ELSEWHERE).parent


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer's word list."""
    return any((folder / name).is_file() for name in _TOKENIZER)


def tokenizer_folder(name: str, what: str) -> Path:
    """The folder with the tokenizer's files: `name` itself, or the cached one of a hub name."""
    require_transformers(what)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        found = fetch(name, _TOKENIZER, what=what, instead=_ELSEWHERE)
        fetch_beside(found, name, _TOKENIZER_EXTRA)
        return found.parent
    if not has_tokenizer(folder):
        raise InputError(f"{what}: {folder} has no tokenizer; expected one of {', '.join(_TOKENIZER)} in it")
    return folder


def read_config(folder: Path, what: str) -> Any:
    """The encoder's transformers config; a type of no known family is refused by name."""
    require_transformers(what)
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: {folder / CONFIG} cannot be read: {error}") from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind not in HUGGING_FACE_TYPES:
        raise InputError(
            f"{what}: a text encoder of type {kind!r} ({folder / CONFIG}, model_type) is not supported; "
            f"those of type {', '.join(HUGGING_FACE_TYPES)} are"
        )
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    if kind in _ENCODER_DECODERS and not config.is_encoder_decoder:  # as MT5EncoderModel saves it
        raise InputError(
            f"{what}: {folder / CONFIG} has is_encoder_decoder: false, and open_clip takes such an encoder as half of "
            "an encoder-decoder; write is_encoder_decoder: true there: the weights of the encoder alone are enough"
        )
    return config


def most_tokens(config: Any) -> int | None:
    """How many tokens the encoder has positions for, None where they are relative and it takes any number.

    RoBERTa counts its own from the padding index on.
    """
    if config.model_type == "mt5":
        return None
    positions = int(config.max_position_embeddings)
    return positions - int(config.pad_token_id) - 1 if config.model_type.endswith("roberta") else positions


def load_encoder(folder: Path, name: str, *, with_pooler: bool, what: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The encoder with its own pretrained weights in float32, and what to say about them.

    Raises:
        InputError: no weights, or weights that leave a tensor of the encoder without a value.
    """
    instead = f"write text.random: true for random weights, or put {_WEIGHTS[0]} into a folder and name that"
    if not any((folder / weights).is_file() for weights in _WEIGHTS):
        if Path(name).expanduser().is_dir():
            raise InputError(f"{what}: {folder} has no weights ({_WEIGHTS[0]} or {_WEIGHTS[1]}); {instead}")
        folder = fetch(name, _WEIGHTS[:2], what=what, instead=instead).parent
    from transformers import AutoModel

    whole = bool(read_config(folder, what).is_encoder_decoder)  # then the encoder is half of it
    try:
        with quiet_transformers():
            encoder, info = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,  # else half-precision files stay so
                local_files_only=True,
                output_loading_info=True,
                **({} if whole else {"add_pooling_layer": with_pooler}),
            )
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
        raise InputError(f"{what}: the weights in {folder} do not load: {_first_line(error)}") from None
    encoder = encoder.encoder if whole else encoder
    if missing := sorted(key for key in info["missing_keys"] if not (whole and key.startswith("decoder."))):
        raise InputError(
            f"{what}: the weights in {folder} lack {len(missing)} tensors of the encoder: {some(missing, 5)}; {instead}"
        )
    unexpected = sorted(info["unexpected_keys"])
    aside = f"{what}: left aside {len(unexpected)} tensors the encoder has no place for: {some(unexpected, 5)}"
    return encoder, ((aside,) if unexpected else ())


def require_transformers(what: str) -> None:
    """InputError where the transformers package is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"{what}: needs the transformers package; pip install 'clipft[hf]'")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what matters in them, we say ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]

"""Text to tokens, exactly as open_clip does it for the model, with a count of what a caption needs uncut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch

from clipft.errors import InputError
from clipft.model.textencoder import quiet_transformers

KNOWN_TEXT = "A photo of 2 hands:  naïve, well-known & <b>left</b> or RIGHT!"
"""Its tokens tell one tokenizer from another: case, accents, spaces, marks and digits are in it."""


class Tokenizer:
    """A list of texts to token numbers (N, context_length), cut before the end token; `count` tells what is cut."""

    def __init__(self, encoder: Any, context_length: int) -> None:
        self._encoder = encoder  # open_clip.SimpleTokenizer or open_clip.tokenizer.HFTokenizer
        self.context_length = context_length

    def __call__(self, texts: list[str]) -> torch.LongTensor:
        """Token numbers (N, context_length) of N texts."""
        tokens: torch.LongTensor = self._encoder(texts, context_length=self.context_length)
        return tokens

    def count(self, text: str) -> int:
        """How many tokens the text needs uncut, start and end tokens included."""
        if isinstance(self._encoder, open_clip.SimpleTokenizer):
            return len(self._encoder.encode(text)) + 2
        if self._encoder.tokenizer_mode == "clips":
            return len(self.pieces(text)) + 3  # between a start and an end, and a class token behind the padding
        # verbose=False: no warning that it is longer than the encoder takes; that is what we ask for
        return len(self._encoder.tokenizer(self._encoder.clean_fn(text), verbose=False).input_ids)

    def pieces(self, text: str) -> list[int]:
        """The token numbers of a text's words, uncut, without start and end tokens."""
        if isinstance(self._encoder, open_clip.SimpleTokenizer):
            return list(self._encoder.encode(text))
        cleaned = self._encoder.clean_fn(text)
        return list(self._encoder.tokenizer(cleaned, add_special_tokens=False, verbose=False).input_ids)

    def piece(self, number: int) -> str:
        """A token number as text: a word, a part of one, or a special token by its name."""
        if isinstance(self._encoder, open_clip.SimpleTokenizer):
            return str(self._encoder.decode([number])).strip()
        return str(self._encoder.tokenizer.decode([number])).strip()

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows; a model's table may have more rows."""
        simple = isinstance(self._encoder, open_clip.SimpleTokenizer)
        return int(self._encoder.vocab_size) if simple else len(self._encoder.tokenizer)

    def know(self, classes: Sequence[str], templates: Sequence[str]) -> None:
        """Learn which texts are prompts of classes; without prompt vectors it makes no difference."""

    def identity(self) -> str:
        """A fingerprint of what this tokenizer makes of a known text (P48)."""
        return hashlib.sha256(json.dumps(self([KNOWN_TEXT]).tolist()).encode()).hexdigest()


def native_tokenizer(text_cfg: dict[str, Any]) -> Tokenizer:
    """open_clip's own byte-pair tokenizer with the settings of a model's text_cfg."""
    length = int(text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
    settings = text_cfg.get("tokenizer_kwargs") or {}
    return Tokenizer(open_clip.SimpleTokenizer(context_length=length, **settings), length)


def hf_tokenizer(folder: Path, text_cfg: dict[str, Any], encoder_config: Any, what: str) -> Tokenizer:
    """A Hugging Face tokenizer from its folder, with the settings of a model's text_cfg.

    Args:
        folder: holds the tokenizer's files.
        text_cfg: the text half of an open_clip model config.
        encoder_config: the transformers config of the encoder it feeds; None where the text tower is native.
        what: the key and value this is for; an error starts with it.

    Raises:
        InputError: it does not load, or does not belong to the encoder: pads otherwise, or knows more words (P48).
    """
    length = int(text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
    settings = text_cfg.get("tokenizer_kwargs") or {}
    try:
        with quiet_transformers():
            encoder = open_clip.tokenizer.HFTokenizer(
                str(folder),
                context_length=length,
                tokenizer_mode=text_cfg.get("tokenizer_mode"),
                local_files_only=True,
                **settings,
            )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{what}: the tokenizer in {folder} does not load: {str(error).strip()}") from None
    if encoder_config is not None:
        _check_belongs(encoder.tokenizer, encoder_config, folder, what)
    return Tokenizer(encoder, length)


def _check_belongs(tokenizer: Any, config: Any, folder: Path, what: str) -> None:
    if tokenizer.pad_token_id != config.pad_token_id:
        raise InputError(
            f"{what}: the tokenizer in {folder} pads with token {tokenizer.pad_token_id}, but the encoder's "
            f"config.json has pad_token_id {config.pad_token_id}; take tokenizer and encoder from one source"
        )
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"{what}: the tokenizer in {folder} has {len(tokenizer)} tokens, but the encoder's config.json has "
            f"vocab_size {config.vocab_size}; take tokenizer and encoder from one source"
        )

"""The tokenizer files of an export for transformers, made offline, with the same tokens as the run's tokenizer.

What open_clip does to a text before its tokenizer sees it, transformers leaves to the tokenizer itself: for SigLIP it
is written into the tokenizer's own normalizer. Only what ftfy mends and HTML's escapes have no place there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

from clipft.errors import ClipftError, InputError
from clipft.model.tokenizer import KNOWN_TEXT, Tokenizer

_LONG_TEXT = "a hand beside a hand " * 60  # beyond any context length: cut alike?
_PUNCTUATION = r"[!-/:-@\[-`{-~]"  # Python's string.punctuation


def write_clip_tokenizer(folder: Path, context_length: int) -> None:
    """A CLIPTokenizer from the vocabulary that open_clip carries."""
    from transformers import CLIPTokenizer

    ours = open_clip.SimpleTokenizer()
    words = [*list(ours.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]  # open_clip has other names for the two
    tokenizer = CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=list(ours.bpe_ranks),
        model_max_length=context_length,
    )
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt, which transformers 4 asks for


def write_siglip_tokenizer(folder: Path, source: Path, *, clean: str, context_length: int) -> dict[str, int]:
    """The tokenizer of `source` with open_clip's cleaning of texts in it.

    Args:
        folder: where to write it.
        source: a folder with a tokenizer that transformers reads.
        clean: open_clip's name for the way it cleans texts.
        context_length: tokens a text is cut and padded to.

    Returns:
        The numbers of its special tokens, as a text_config has them.

    Raises:
        InputError: it is one of transformers' slow tokenizers, which have no such place.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own = AutoTokenizer.from_pretrained(source, local_files_only=True)
    if not own.is_fast:
        raise InputError(
            f"--to hf: the tokenizer in {source} is a {type(own).__name__}, which cannot carry open_clip's cleaning of "
            "texts; put one with a tokenizer.json there, or take --to open_clip"
        )
    backend = Backend.from_str(own.backend_tokenizer.to_str())
    before = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([*_cleaning(clean), *before])
    special = {kind: getattr(own, kind) for kind in ("pad_token", "bos_token", "eos_token", "unk_token")}
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=context_length,
        padding_side=own.padding_side,
        model_input_names=["input_ids"],  # no mask: SigLIP's text tower sees the padding too
        **{kind: token for kind, token in special.items() if token is not None},
    ).save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    # version 5 writes a class that version 4 lacks, and reads this one alike
    values = {**json.loads(config.read_text(encoding="utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {f"{kind}_id": getattr(own, f"{kind}_id") for kind in ("pad_token", "bos_token", "eos_token")}


def read_tokenizer(folder: Path) -> Any:
    """The written tokenizer, as a user of transformers reads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def compare_tokens(ours: Tokenizer, theirs: Any, *, padding: bool) -> Any:
    """What transformers makes of the known text, once its tokens are the run's, for that and for an overlong text.

    Args:
        ours: the run's tokenizer.
        theirs: transformers'.
        padding: whether the padding must be the same too; CLIP's text tower never looks behind the end token, which
            has the highest number, and its own tokenizer pads with that where open_clip pads with 0.

    Raises:
        ClipftError: transformers makes other tokens of a text.
    """
    for text in (_LONG_TEXT, KNOWN_TEXT):
        wanted = ours([text])
        read = theirs([text], padding="max_length", truncation=True, return_tensors="pt")
        length = wanted.shape[1] if padding else int(wanted.argmax()) + 1
        if read.input_ids.shape != wanted.shape or not torch.equal(read.input_ids[:, :length], wanted[:, :length]):
            raise ClipftError("transformers makes other tokens of a known text than the run; nothing was written")
    return read


def _cleaning(kind: str) -> list[Any]:
    """open_clip's function to clean texts (get_clean_fn) as steps of a normalizer."""
    from tokenizers import Regex
    from tokenizers.normalizers import Lowercase, Replace, Strip

    space = [Replace(Regex(r"\s+"), " "), Strip()]
    match kind:
        case "whitespace":
            return space
        case "lower":
            return [*space, Lowercase()]
        case "canonicalize":
            return [Replace("_", " "), Replace(Regex(_PUNCTUATION), ""), Lowercase(), *space]
    raise AssertionError(kind)  # open_clip itself knows no other

"""Prompt vectors in a text tower: learnt vectors among the words.

CoOp (Learning to Prompt for Vision-Language Models, IJCV 2022, section 3.2) has them before block 0. With fresh ones in
the next blocks too they are the deep language prompts of MaPLe (Multi-modal Prompt Learning, CVPR 2023, section 3.2.1).
Which places are theirs, a text's token numbers say (`prompt_layout.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipft.config.additions_schema import TextPromptConfig
from clipft.errors import InputError
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.tokenizer import Tokenizer
from clipft.model.tower import Tower
from clipft.model.tower_parts import NO_WORD, Hidden

NAME = "text_prompt"
_STD = 0.02  # CoOp, section 4.1; MaPLe's deeper ones too


class TextPrompt(nn.Module):
    """The vectors of a text tower, a parameter for each block that gets some.

    Args:
        length: how many vectors stand in a text.
        owners: how many classes have vectors of their own; 1 where all share them.
        width: the tower's.
        depth: how many blocks get some.
        first: the number of the first one among a text's tokens: that behind the last word.
    """

    def __init__(self, length: int, owners: int, width: int, depth: int, first: int) -> None:
        super().__init__()
        drawn = (nn.init.normal_(torch.empty(owners * length, width), std=_STD) for _ in range(depth))
        self.vectors = nn.ParameterList(nn.Parameter(vectors) for vectors in drawn)
        self.length, self.first = length, first

    def put_into(self, tokens: Tensor) -> Tensor:
        """Token numbers (B, L) of no text in particular, with one text's vectors behind the start token."""
        tokens = tokens.clone()
        tokens[:, 1 : 1 + self.length] = self.first + torch.arange(self.length, device=tokens.device)
        return tokens

    def join(self, hidden: Hidden) -> Hidden:
        """The table of words has put the vectors in; masks and pooling are to see ordinary words in their places."""
        assert hidden.tokens is not None
        numbers = hidden.tokens - self.first  # (B, L)
        here = numbers >= 0
        more = hidden.x.shape[1] - numbers.shape[1]  # CoCa's class token
        prompted = F.pad(numbers.where(here, -1), (0, more), value=-1)
        return replace(hidden, tokens=hidden.tokens.where(~here, NO_WORD), prompted=prompted)

    def enter(self, hidden: Hidden, block: int) -> Hidden:
        """Fresh vectors in place of what the block before gave there."""
        if not 0 < block < len(self.vectors):
            return hidden
        assert hidden.prompted is not None
        return replace(hidden, x=_laid(self.vectors[block], hidden.prompted, hidden.x))

    def leave(self, hidden: Hidden) -> Hidden:
        """Nothing: they are tokens like others, and pooling takes the end of the text or what it always takes."""
        return hidden


class PromptedEmbedding(nn.Embedding):
    """A table of words with the very weight of another, that gives prompt vectors for numbers behind its last.

    Args:
        words: the table it replaces; M2M100 multiplies what it looks up, and a prompt vector alike.
        prompt: whose first vectors it gives. It stays a module of the model alone, not of this one.
    """

    def __init__(self, words: nn.Embedding, prompt: TextPrompt) -> None:
        super().__init__(words.num_embeddings, words.embedding_dim, padding_idx=words.padding_idx, device="meta")
        self.weight = words.weight
        self.embed_scale = float(getattr(words, "embed_scale", 1.0))
        self.train(words.training)
        self._prompt = (prompt,)  # a tuple, or it would be registered here too
        self._words = (words,)

    @property
    def words(self) -> nn.Embedding:
        """The table it replaces."""
        return self._words[0]

    def forward(self, input: Tensor) -> Tensor:
        """Token numbers (B, L) to vectors (B, L, W)."""
        places = input - self.num_embeddings
        words = F.embedding(input.where(places < 0, 0), self.weight, self.padding_idx)
        found = _laid(self._prompt[0].vectors[0], places, words)
        return found if self.embed_scale == 1 else found * self.embed_scale


def add_text_prompt(
    model: nn.Module, tower: Tower, config: TextPromptConfig, classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Put vectors into a text tower, drawn from torch's generator. Returns what to say.

    Args:
        classes: those that get vectors of their own under `class_specific`; None where they are not known.

    Raises:
        InputError: there are not so many blocks, or there are no classes.
    """
    assert tower.word_table is not None
    if config.depth > tower.depth:
        raise InputError(
            f"model.text.prompt.depth: {config.depth} is more than the {tower.depth} blocks of this {tower.family} "
            "tower; write at most that"
        )
    if config.class_specific and classes is not None and not classes:
        raise InputError(
            "model.text.prompt.class_specific: the training data has captions and no classes; leave it out, and all "
            "captions share their vectors"
        )
    owners = len(classes or "1") if config.class_specific else 1
    parent, _, name = tower.word_table.rpartition(".")
    words = model.get_submodule(tower.word_table)
    assert isinstance(words, nn.Embedding)
    prompt = TextPrompt(config.length, owners, words.embedding_dim, config.depth, words.num_embeddings)
    model.add_module(NAME, prompt)
    setattr(model.get_submodule(parent), name, PromptedEmbedding(words, prompt))
    tower.prompt = prompt
    for block in range(config.depth):
        tower.add([f"{NAME}.vectors.{block}"], "prompt", place=block)
    unknown = config.class_specific and classes is None
    note = "model.text.prompt.class_specific: the classes are not known here, so the vectors of one are counted"
    return (note,) if unknown else ()


def take_out_text_prompt(model: nn.Module, tower: Tower) -> None:
    """Undo `add_text_prompt`, in place: the table of words is its old self."""
    if not isinstance(tower.prompt, TextPrompt):
        return
    assert tower.word_table is not None
    parent, _, name = tower.word_table.rpartition(".")
    table = model.get_submodule(tower.word_table)
    assert isinstance(table, PromptedEmbedding)
    setattr(model.get_submodule(parent), name, table.words)
    delattr(model, NAME)
    tower.prompt = None
    tower.forget("prompt")


def prompted(
    tokenizer: Tokenizer, tower: Tower, config: TextPromptConfig | None, classes: Sequence[str] | None
) -> Tokenizer:
    """The tokenizer that leaves places for the vectors of a config; the very same without any.

    Raises:
        InputError: they leave no room for words.
    """
    if config is None:
        return tokenizer
    vocabulary = tower.describe().vocabulary
    assert vocabulary is not None
    return PromptTokenizer(tokenizer, config, vocabulary=vocabulary, classes=classes)


@torch.no_grad()
def start_vectors(model: nn.Module, tower: Tower, config: TextPromptConfig, tokenizer: Tokenizer) -> str:
    """Under `init: words` give the first vectors the words' embeddings, each class's alike. Returns what to say.

    Raises:
        InputError: the words have more tokens than there are vectors.
    """
    if config.words is None:
        return start_in_words(config)
    pieces = (tokenizer.words if isinstance(tokenizer, PromptTokenizer) else tokenizer).pieces(config.words)
    if len(pieces) > config.length:
        raise InputError(
            f"model.text.prompt.words: {config.words!r} has {len(pieces)} tokens, and model.text.prompt.length is "
            f"{config.length}; write length: {len(pieces)} or fewer words"
        )
    prompt = tower.prompt
    assert isinstance(prompt, TextPrompt)
    assert tower.word_table is not None
    table = model.get_parameter(f"{tower.word_table}.weight")
    first = prompt.vectors[0].unflatten(0, (-1, config.length))  # (owners, length, W)
    first[:, : len(pieces)] = table[torch.tensor(pieces, device=table.device)]
    return start_in_words(config, len(pieces))


def start_in_words(config: TextPromptConfig, pieces: int | None = None) -> str:
    """How the vectors begin.

    Args:
        config: `model.text.prompt`.
        pieces: how many tokens its words have; None where no tokenizer was asked.
    """
    drawn, deeper = f"at random (normal, {_STD})", config.depth - 1
    said = f"model.text.prompt: {config.length} vectors{' for each class' if config.class_specific else ''} start "
    if config.words is None:
        return said + drawn
    if pieces is None:
        said += f"as the tokens of {config.words!r}, what is left of them {drawn}"
    elif pieces < config.length:
        said += f"as {config.words!r} ({pieces} of them) and {drawn} ({config.length - pieces})"
    else:
        said += f"as {config.words!r}"
    return said + (
        f"; {'those of block 1' if deeper == 1 else f'those of blocks 1 to {deeper}'} {drawn}" if deeper else ""
    )


def _laid(vectors: Tensor, places: Tensor, x: Tensor) -> Tensor:
    """`x` (B, L, W) with vector number `places` (B, L) in it wherever that is 0 or more."""
    chosen = F.embedding(places.clamp(min=0), vectors).to(x.dtype)  # (B, L, W)
    return torch.where((places >= 0).unsqueeze(-1), chosen, x)

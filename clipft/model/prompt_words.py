"""What learnt prompt vectors are near to: words of the model's own vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipft.errors import InputError
from clipft.model.clip_model import ClipModel
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.text_prompt import TextPrompt


@dataclass(frozen=True)
class NearWord:
    """A piece of the vocabulary, and the Euclidean distance of its embedding."""

    word: str
    distance: float


@dataclass(frozen=True)
class VectorWords:
    """A prompt vector of block 0 and the words nearest to it.

    Args:
        owner: the class whose vector it is; None where all share it.
        vector: its number in the text, from 1.
        length: its Euclidean length.
        words: nearest first.
    """

    owner: str | None
    vector: int
    length: float
    words: tuple[NearWord, ...]


def nearest_words(clip: ClipModel, classes: Sequence[str], most: int = 3, *, name: str = "") -> tuple[VectorWords, ...]:
    """The words nearest to each vector before block 0, by Euclidean distance, as CoOp interprets its prompts.

    Vectors of deeper blocks stand among what blocks give, where no word is.

    Args:
        clip: the tuned model.
        classes: the run's, which vectors of a class's own belong to.
        most: words a vector.
        name: of the run, as messages call it; by default the model's.

    Raises:
        InputError: the text tower has no prompt vectors.
    """
    prompt, tokenizer = clip.text.prompt, clip.tokenizer
    if not isinstance(prompt, TextPrompt) or not isinstance(tokenizer, PromptTokenizer):
        raise InputError(
            f"{name or clip.name}: has learnt no vectors among words, and --prompts shows the words nearest to those; "
            "name a run with model.text.prompt, such as one of strategy: prompt"
        )
    assert clip.text.word_table is not None
    table = clip.model.get_parameter(f"{clip.text.word_table}.weight").detach()
    table = table[: tokenizer.vocabulary].float()  # some tables have rows that no word uses
    found = []
    for number, vector in enumerate(prompt.vectors[0].detach().float()):
        distances = torch.linalg.vector_norm(table - vector, dim=1)  # (V,)
        near = distances.topk(min(most, len(table)), largest=False)
        pairs = zip(near.indices.tolist(), near.values.tolist(), strict=True)
        words = tuple(NearWord(tokenizer.piece(index), distance) for index, distance in pairs)
        owner, place = divmod(number, prompt.length)
        own = classes[owner] if len(prompt.vectors[0]) > prompt.length else None
        found.append(VectorWords(own, place + 1, float(vector.norm()), words))
    return tuple(found)


def prompt_example(clip: ClipModel, classes: Sequence[str], templates: Sequence[str]) -> str:
    """What a model with prompt vectors reads for its first class, or for a caption."""
    assert isinstance(clip.tokenizer, PromptTokenizer)
    clip.tokenizer.know(classes[:1], templates[:1])
    return clip.tokenizer.layout(templates[0].replace("{}", classes[0]) if classes else "a caption")

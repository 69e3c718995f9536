"""Where prompt vectors stand in a text: a tokenizer that leaves places for them.

A place carries a number from the end of the model's vocabulary on: vocabulary + slot, or, where each class has vectors
of its own, vocabulary + class * length + slot. So a text with vectors is token numbers like any other.

    end      [start] V1 ... V16 a photo of a zero . [end]
    middle   [start] V1 ... V8 a photo of a zero V9 ... V16 . [end]
    front    [start] a photo of a zero V1 ... V16 . [end]

Without a start token (T5, SigLIP) the vectors stand first. CoOp (section 3.2, figure 2) has the class name at the end
or in the middle, and takes `{}.` for a template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from clipft.config.additions_schema import TextPromptConfig
from clipft.errors import InputError
from clipft.model.tokenizer import Tokenizer
from clipft.words import some

_KEY = "model.text.prompt"


@dataclass(frozen=True)
class _ClassPrompt:
    """A text that a class was put into.

    Args:
        owner: the class whose vectors stand in it; 0 where all share theirs.
        name_end: how many of its words' tokens there are up to the end of the class name.
    """

    owner: int
    name_end: int


def check_length(config: TextPromptConfig, context_length: int, least: int = 2) -> None:
    """Refuse vectors that leave no room for words.

    Args:
        config: `model.text.prompt`.
        context_length: tokens of a text.
        least: what the shortest text needs; without a tokenizer a word and its end.
    """
    if config.length > context_length - least:
        raise InputError(
            f"{_KEY}.length: {config.length} vectors do not fit: a text of this model has {context_length} tokens, and "
            f"the shortest needs {least}; write at most {context_length - least} less what words "
            "need: of a class name with its template each word takes a token or more"
        )


class PromptTokenizer(Tokenizer):
    """Texts to token numbers (N, context_length) with places for prompt vectors.

    A caption is cut to what the vectors leave; a class's prompt is never cut (P53).

    Args:
        words: the model's own tokenizer.
        config: `model.text.prompt`.
        vocabulary: rows of the model's table of words.
        classes: those that have vectors of their own under `class_specific`; None where they are not known.

    Raises:
        InputError: the vectors leave no room for words.
    """

    def __init__(
        self, words: Tokenizer, config: TextPromptConfig, *, vocabulary: int, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__(words._encoder, words.context_length)
        self.length, self.first = config.length, vocabulary
        self._position, self._class_specific = config.position, config.class_specific
        self._before = {"end": config.length, "middle": config.length // 2, "front": 0}[config.position]
        owners = classes if config.class_specific and classes is not None else ()
        self._numbers = {name: number for number, name in enumerate(owners)}
        self._known: dict[str, _ClassPrompt] = {}
        self.words = words
        self.room = words.context_length - config.length
        check_length(config, words.context_length, words.count("a"))
        self._cut = Tokenizer(words._encoder, self.room)
        empty, one = words(["", "a"])
        self._start = int((empty == one).long().cumprod(0).sum())  # start tokens: those before the first word

    def __call__(self, texts: list[str]) -> torch.LongTensor:
        """Token numbers (N, context_length); those from `first` on are places of vectors.

        Raises:
            InputError: the position or the classes' own vectors ask for a class name, and a text is no class's prompt.
        """
        rows = self._cut(texts)  # (N, room)
        pairs = zip(rows, map(self._prompt, texts), strict=True)
        # stack does not say that it keeps a LongTensor
        return torch.stack([self._fill(row, prompt) for row, prompt in pairs])  # type: ignore[return-value]

    def count(self, text: str) -> int:
        """How many tokens the text needs uncut; start, end and prompt vectors included."""
        return self.words.count(text) + self.length

    def identity(self) -> str:
        """That of the model's own tokenizer: what stands between the words does not change them."""
        return self.words.identity()

    def know(self, classes: Sequence[str], templates: Sequence[str]) -> None:
        """Learn which texts are prompts of classes, and where the names end in them.

        Raises:
            InputError: a prompt is too long (P53), a class has no vectors, or its name ends inside a token.
        """
        if self._class_specific and (strange := [name for name in classes if name not in self._numbers]):
            raise InputError(
                f"{_KEY}.class_specific: there are vectors for the {len(self._numbers)} classes of the training "
                f"({some(self._numbers, 5)}) and none for {some(strange, 5)}; name those classes only, or train with "
                "class_specific: false"
            )
        new: dict[str, tuple[str, str]] = {}
        for name in classes:
            for template in templates:
                text = template.replace("{}", name)
                if self._class_specific and text in new and new[text][0] != name:
                    raise InputError(
                        f"{_KEY}.class_specific: {text!r} is a prompt of {name!r} and of {new[text][0]!r}, whose "
                        "vectors differ; change data.class_names or data.templates"
                    )
                if text not in self._known:
                    new[text] = (name, template.partition("{}")[0] + name)
        self._refuse_long({text: name for text, (name, _) in new.items()}, len(classes))
        for text, (name, start) in new.items():
            name_end = 0 if self._position == "end" else self._name_end(text, start, name)
            self._known[text] = _ClassPrompt(self._numbers.get(name, 0), name_end)

    @property
    def needs_classes(self) -> bool:
        """Whether it takes nothing but prompts of classes, whose names it was told of by `know`."""
        return self._class_specific or self._position != "end"

    def layout(self, text: str) -> str:
        """What the model reads for a text: `[start] V1 ... V16 zero . [end]` (P53)."""
        row = self([text])[0].tolist()
        needed = self.words.count(text)
        marks = needed - len(self.words.pieces(text))  # start and end
        inside = row[self._start : self._start + self.length + min(needed, self.room) - marks]
        signs = ["[start]"] * self._start
        for are_vectors, row_of_them in groupby(inside, lambda number: number >= self.first):
            numbers = list(row_of_them)
            signs += self._slots(numbers) if are_vectors else map(self.words.piece, numbers)
        return " ".join([*signs, "[end]"])

    def _slots(self, numbers: Sequence[int]) -> Sequence[str]:
        """A row of vectors by their numbers in the text, from 1; a long one by its first and last."""
        names = [f"V{(number - self.first) % self.length + 1}" for number in numbers]
        return names if len(names) <= 3 else (names[0], "...", names[-1])

    def _prompt(self, text: str) -> _ClassPrompt:
        known = self._known.get(text)
        if known is not None:
            return known
        if self.needs_classes:
            key = "class_specific: true" if self._class_specific else f"position: {self._position}"
            raise InputError(
                f"{_KEY}.{key} needs texts made from class names, and {text!r} is none; captions and other texts need "
                "class_specific: false and position: end"
            )
        return _ClassPrompt(0, 0)

    def _fill(self, row: torch.Tensor, prompt: _ClassPrompt) -> torch.Tensor:
        vectors = self.first + prompt.owner * self.length + torch.arange(self.length)
        behind = self._start + prompt.name_end
        front, rest = vectors[: self._before], vectors[self._before :]
        return torch.cat([row[: self._start], front, row[self._start : behind], rest, row[behind:]])

    def _refuse_long(self, prompts: dict[str, str], total: int) -> None:
        needs = {text: self.words.count(text) for text in prompts}
        long = [text for text, tokens in needs.items() if tokens > self.room]
        if not long:
            return
        names = list(dict.fromkeys(prompts[text] for text in long))
        text = max(long, key=needs.__getitem__)
        length = self.context_length - needs[text]
        shorter = f", or write length: {length} or less" if length > 0 else ""
        raise InputError(
            f"{_KEY}.length: {len(names)} of {total} class names no longer fit ({some(names, 5)}): {text!r} needs "
            f"{needs[text]} tokens with start and end, and beside {self.length} vectors {self.room} of the "
            f"{self.context_length} are left; shorten it (data.class_names, data.templates){shorter}"
        )

    def _name_end(self, text: str, start: str, name: str) -> int:
        """Tokens of `text` up to the end of the class name, which are those of `start`, the text cut there."""
        whole, begun = self.words.pieces(text), self.words.pieces(start)
        if whole[: len(begun)] == begun:
            return len(begun)
        raise InputError(
            f"{_KEY}.position: {self._position} puts vectors behind the class name, but in {text!r} the tokenizer "
            f"joins the end of {name!r} with what follows; put a space or a word behind {{}} in data.templates, or "
            "write position: end"
        )

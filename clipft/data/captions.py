"""The words beside the images: what a row says in training, how classes become prompts, which captions are cut."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clipft.data.columns import Ints, TextColumn
from clipft.data.draws import TEMPLATE, draw
from clipft.data.rows import Rows


def training_text(rows: Rows, index: int, templates: Sequence[str], *, seed: int, epoch: int) -> str:
    """Row `index`'s caption, or its class in a template that (seed, epoch, index) draws; "" for a row with neither."""
    if rows.captions is not None:
        return rows.captions[index]
    label = -1 if rows.labels is None else int(rows.labels[index])
    if label < 0:
        return ""
    return fill(templates[draw(TEMPLATE, seed, epoch, index) % len(templates)], rows.classes[label])


def fill(template: str, class_name: str) -> str:
    """The template with its {} replaced; braces in the class name stay."""
    return template.replace("{}", class_name)


def class_prompts(classes: Sequence[str], templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """For each class all its prompts: what evaluation averages over (CLIP, section 3.1.4)."""
    return tuple(tuple(fill(template, name) for template in templates) for name in classes)


def example_prompts(classes: Sequence[str], templates: Sequence[str], count: int = 3) -> tuple[str, ...]:
    """Finished prompts, of different classes and templates where there are some, to check the wording by (P61)."""
    there = max(len(classes), len(templates)) if classes else 0
    return tuple(fill(templates[i % len(templates)], classes[i % len(classes)]) for i in range(min(count, there)))


def all_texts(rows: Rows, templates: Sequence[str]) -> Sequence[str]:
    """Every text that training can draw from these rows, without a model."""
    if rows.captions is not None:
        return rows.captions
    return TextColumn.of(prompt for prompts in class_prompts(rows.classes, templates) for prompt in prompts)


@dataclass(frozen=True)
class CaptionReport:
    """How captions fit the model's context (P6).

    Args:
        context_length: tokens that the model reads, start and end included.
        captions: how many there are.
        cut: how many are longer.
        longest: tokens of the longest.
        examples: the longest captions that are cut, each with its tokens, longest first.
    """

    context_length: int
    captions: int
    cut: int
    longest: int
    examples: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        if not self.cut:
            return f"longest caption {self.longest} of {self.context_length} tokens"
        share = f"{self.cut:,} of {self.captions:,} captions ({100 * self.cut / self.captions:.1f} %)"
        lines = [f"{share} are cut at {self.context_length} tokens; the longest has {self.longest}"]
        lines += [f"{tokens} tokens: {_shortened(text)!r}" for tokens, text in self.examples]
        return "\n".join(lines)


def _shortened(text: str) -> str:
    return text if len(text) <= 50 else f"{text[:47]}..."


def caption_report(
    texts: Iterable[str], count: Callable[[str], int], context_length: int, examples: int = 3
) -> CaptionReport:
    """Count tokens before cutting; the tokenizer sees a repeated caption once, the figures every time."""
    lengths: dict[str, int] = {}
    total = cut = 0
    for text in texts:
        total += 1
        if text not in lengths:
            lengths[text] = count(text)
        cut += lengths[text] > context_length
    longest = heapq.nlargest(examples, lengths.items(), key=lambda item: item[1])
    beyond = tuple((tokens, text) for text, tokens in longest if tokens > context_length)
    return CaptionReport(context_length, total, cut, longest[0][1] if longest else 0, beyond)


@dataclass(frozen=True)
class RepeatReport:
    """How often rows belong together: what a contrastive loss would push apart (P20, P21).

    Args:
        rows: how many there are.
        distinct: how many different captions, or classes where there are no captions.
        repeated: share of rows that share their caption, class or image with another.
        companions: mean number of other rows that a row shares one of these with.
        what: "captions" or "classes".
    """

    rows: int
    distinct: int
    repeated: float
    companions: float
    what: str

    def in_batch(self, batch_size: int) -> float:
        """Expected number of other rows in a batch that share a row's caption, class or image."""
        return self.companions * (min(batch_size, self.rows) - 1) / max(1, self.rows - 1)


def repeats(rows: Rows) -> RepeatReport:
    """Count rows that share a caption, a class or an image; a row without a caption or class shares none."""
    alone = len(rows.classes) + np.arange(len(rows))
    labels = alone if rows.labels is None else np.where(rows.labels < 0, alone, rows.labels)
    texts: Ints = labels if rows.captions is None else rows.captions.codes()
    sharing = _sharing(texts, labels, rows.identities)
    return RepeatReport(
        rows=len(rows),
        distinct=len(np.unique(texts)),
        repeated=float((sharing > 1).mean()) if len(rows) else 0.0,
        companions=float((sharing - 1).mean()) if len(rows) else 0.0,
        what="captions" if rows.captions is not None else "classes",
    )


def _sharing(*codes: Ints) -> Ints:
    """(N,) how many rows, itself included, agree with a row in at least one of the codes: inclusion and exclusion."""
    total = np.zeros(len(codes[0]), np.int64)
    for size in range(1, len(codes) + 1):
        for some in itertools.combinations(codes, size):
            total += (-1) ** (size + 1) * _agreeing(some)
    return total


def _agreeing(codes: Sequence[Ints]) -> Ints:
    """(N,) how many rows, itself included, agree with a row in all of the codes."""
    joint = np.zeros(len(codes[0]), np.int64)
    for code in codes:
        dense = np.unique(code, return_inverse=True)[1]
        joint = np.unique(joint * len(joint) + dense, return_inverse=True)[1]  # both below N: the product fits
    return np.bincount(joint)[joint]

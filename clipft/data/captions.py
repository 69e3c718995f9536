"""The words beside the images: what a row says in training, how classes become prompts, which captions are cut."""

from __future__ import annotations

import heapq
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
    """Finished prompts of the first classes, templates in turn: what a person checks the wording by (P61)."""
    return tuple(fill(templates[i % len(templates)], name) for i, name in enumerate(classes[:count]))


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
        tokens, text = self.examples[0]
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        return f"{share} are cut at {self.context_length} tokens, the longest has {tokens}: {shown!r}"


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
    """How often rows say the same: what a contrastive loss would push apart (P20, P21).

    Args:
        rows: how many there are.
        distinct: how many different captions, or classes where there are no captions.
        repeated: share of rows whose caption or class occurs again.
        companions: mean number of other rows with the same one.
        what: "captions" or "classes".
    """

    rows: int
    distinct: int
    repeated: float
    companions: float
    what: str

    def in_batch(self, batch_size: int) -> float:
        """Expected number of other rows in a batch that say the same as a row."""
        return self.companions * (min(batch_size, self.rows) - 1) / max(1, self.rows - 1)


def repeats(rows: Rows) -> RepeatReport:
    """Count equal captions, or equal classes where rows have labels only; a row with neither is one of its own."""
    if rows.captions is not None:
        codes: Ints = rows.captions.codes()
    else:
        labels = np.full(len(rows), -1) if rows.labels is None else rows.labels
        codes = np.where(labels < 0, len(rows.classes) + np.arange(len(rows)), labels)
    counts = np.unique(codes, return_counts=True)[1].astype(np.float64)
    total = max(1, len(rows))
    return RepeatReport(
        rows=len(rows),
        distinct=len(counts),
        repeated=float(counts[counts > 1].sum()) / total,
        companions=float((counts * (counts - 1)).sum()) / total,
        what="captions" if rows.captions is not None else "classes",
    )

"""New parameters that a tower may get: LoRA, adapters, prompt vectors. One sentence a field.

Sources of the defaults stand beside them; titles: LoRA (Low-Rank Adaptation of Large Language Models, ICLR 2022),
rsLoRA (A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, 2023), DoRA (Weight-Decomposed Low-Rank
Adaptation, ICML 2024), Houlsby (Parameter-Efficient Transfer Learning for NLP, ICML 2019), CLIP-Adapter (Better
Vision-Language Models with Feature Adapters, 2021), CoOp (Learning to Prompt for Vision-Language Models, IJCV 2022),
MaPLe (Multi-modal Prompt Learning, CVPR 2023), VPT (Visual Prompt Tuning, ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from clipft.config.values import PositiveFloat, Section, refuse

Target = Literal["q", "k", "v", "o", "fc", "proj"]
Blocks = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1, examples=[[0, 1]])]


def _no_doubles(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("names one twice")
    return value


class LastBlocks(Section):
    """The last blocks of a tower."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"last": 4}]})

    last: PositiveInt
    """How many of them."""


class LoraConfig(Section):
    """Low-rank matrices beside a tower's own, which stand still: W x + scaling B A x."""

    rank: PositiveInt = 8
    """Rows of A and columns of B (LoRA, table 18, tries 4 to 64)."""
    alpha: PositiveFloat = 16.0
    """The update is scaled by alpha / rank, under rslora by alpha / sqrt(rank)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of A's input that is dropped in training, drawn for each matrix (CLIP-LoRA: 0.25)."""
    targets: Annotated[tuple[Target, ...], Field(strict=False, min_length=1)] = ("q", "k", "v", "o", "fc", "proj")
    """Which matrices: the attention's q, k, v and o, the MLP's first (fc) and last (proj)."""
    layers: Literal["all"] | LastBlocks | Blocks = "all"
    """Which blocks: all, {last: N}, or a list of their numbers, counted from 0."""
    scaling: Literal["standard", "rslora"] = "standard"
    """alpha / rank (LoRA, section 4.1), or alpha / sqrt(rank) (rsLoRA, section 3)."""
    dora: bool = False
    """Train each row's length apart from its direction (DoRA, section 4)."""

    _once = field_validator("targets")(_no_doubles)


class AdapterConfig(Section):
    """Small networks at the end of a block's branches, before the residual: x + scale up(act(down x))."""

    bottleneck: PositiveInt = 64
    """Width between down and up (Houlsby, section 3.2, tries 2 to 256)."""
    placement: Annotated[tuple[Literal["attn", "mlp"], ...], Field(strict=False, min_length=1)] = ("attn", "mlp")
    """Behind which branch: the attention's, the MLP's, or both (Houlsby, figure 2)."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Between down and up."""
    scale: PositiveFloat = 1.0
    """What the small network's output is multiplied by."""

    _once = field_validator("placement")(_no_doubles)


class FeatureAdapterConfig(Section):
    """A small network on a tower's output feature, mixed with it (CLIP-Adapter, section 3.2)."""

    reduction: PositiveInt = 4
    """Its inner width is the feature's divided by this (CLIP-Adapter: 4)."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the small network's output in the mixture; the rest is the feature itself (CLIP-Adapter: 0.2)."""


class TextPromptConfig(Section):
    """Learnt vectors among a text's words (CoOp, section 3.2)."""

    length: PositiveInt = 16
    """How many vectors, inside the context, behind the start token (CoOp: 16 or 4)."""
    init: Literal["random", "words"] = "random"
    """Start at random (normal, 0.02: CoOp), or from the embeddings of `words`, the rest of the length at random."""
    words: str | None = None
    """The words to start from, such as "a photo of a"; needs init: words."""
    position: Literal["end", "middle", "front"] = "end"
    """Where the class name stands: at the end, all vectors before the text; in the middle, half of them before the
    text and half behind the name; in front, all behind the name. Captions have no name: end."""
    class_specific: bool = False
    """Vectors of its own for each class of the training, in place of shared ones."""
    depth: PositiveInt = 1
    """How many blocks get fresh vectors; 1 gives them to the first block only (MaPLe: 9 of 12)."""

    @model_validator(mode="after")
    def _words_where_asked(self) -> TextPromptConfig:
        refuse(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[str]:
        if (self.init == "words") != (self.words is not None):
            yield "words: and init: words belong together; write both, or neither"
        if self.words is not None and not self.words.strip():
            yield 'words: is empty; expected words such as "a photo of a"'


class ImagePromptConfig(Section):
    """Learnt vectors among an image's patches (VPT, section 3.1)."""

    length: PositiveInt = 8
    """How many vectors, between class token and patches (VPT tries 1 to 200)."""
    depth: PositiveInt = 1
    """How many blocks get fresh vectors; 1 is VPT-Shallow, the tower's depth VPT-Deep."""

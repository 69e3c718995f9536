"""What `inspect` tells of a tower: pure data, filled in by `towers.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Landmark:
    """A module on the way to block 0 whose output is worth a look.

    Args:
        title: what it gives, in two or three words.
        path: of the module, from the model's root.
        why: what the step is for, a sentence.
    """

    title: str
    path: str
    why: str


@dataclass(frozen=True)
class TowerFacts:
    """A tower's sizes; None where its family has no such thing.

    Args:
        family: what it is, in words.
        depth: how many blocks `freeze_layers` counts.
        stages: residual units in each block of a staged network.
        stage_widths: channels that each stage gives.
        width: of every token in a transformer, of the last maps in a staged network.
        pooled_width: of the pooled feature, before the projection.
        heads: attention heads a block.
        head_width: width of one of them.
        mlp_width: hidden width of a block's MLP.
        activation: its non-linearity.
        image_size: height and width in pixels.
        patch: height and width of a patch.
        tokens: a transformer's sequence length.
        context_length: tokens a text may have.
        vocabulary: how many different tokens there are.
        causal: whether a token sees only those before it.
        token: what a token is, in words.
        positions: how the tower knows where a token stands.
        landmarks: what happens before block 0, in the order data meets it.
        pooling: how tokens become one feature.
        projection: (in, out) of each matrix from the pooled feature into the shared space; empty without one.
        projection_bias: whether one of them adds a bias.
        embed_dim: width of the shared space.
    """

    family: str
    depth: int
    width: int
    pooled_width: int
    embed_dim: int
    activation: str
    pooling: str
    projection: tuple[tuple[int, int], ...]
    projection_bias: bool
    stages: tuple[int, ...] | None = None
    stage_widths: tuple[int, ...] | None = None
    heads: int | None = None
    head_width: int | None = None
    mlp_width: int | None = None
    image_size: tuple[int, int] | None = None
    patch: tuple[int, int] | None = None
    tokens: int | None = None
    context_length: int | None = None
    vocabulary: int | None = None
    causal: bool | None = None
    token: str = ""
    positions: str = ""
    landmarks: tuple[Landmark, ...] = ()

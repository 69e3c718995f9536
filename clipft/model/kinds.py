"""Kinds of parameters that `train_only` names: norms by the module that holds them, biases by their name.

Titles: BitFit (BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models, ACL 2022),
CLIPFit (Vision-Language Model Fine-Tuning via Simple Parameter-Efficient Modification, EMNLP 2024).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import nn

from clipft.errors import InputError
from clipft.model.freeze_words import Frozen
from clipft.model.tower import Tower


def kept_of(model: nn.Module, tower: Tower, kinds: Collection[str], frozen: Frozen) -> frozenset[str]:
    """What of a tower's backbone `train_only` leaves training, where the freeze keys do.

    Raises:
        InputError: nothing is of a kind, or the freeze keys took all of it.
    """
    for kind in kinds:
        found = of_kinds(model, tower.backbone_names(), [kind])
        if not found:
            instead = "; leave it out" if len(kinds) > 1 else f"; it has {'norms' if kind == 'biases' else 'biases'}"
            raise InputError(f"model.{tower.name}.train_only: {kind}: this {tower.family} backbone has none{instead}")
        if found <= set(frozen.names):
            raise InputError(
                f"model.{tower.name}.train_only: {kind}: {frozen.rule} freezes all {len(found)} of them; leave out one "
                "of the two keys"
            )
    return of_kinds(model, tower.backbone_names(), kinds)


def of_kinds(model: nn.Module, names: Iterable[str], kinds: Collection[str]) -> frozenset[str]:
    """Those of the model's parameters `names` that are of one of the kinds.

    Args:
        kinds: norms are weights and biases of normalisation layers (as CLIPFit trains), biases all that is added as a
            vector, a fused or single projection's and a normalisation layer's too (as BitFit trains).
    """
    tests = {"norms": lambda name: _is_norm(model.get_submodule(name.rpartition(".")[0])), "biases": _is_bias}
    return frozenset(name for name in names if any(tests[kind](name) for kind in kinds))


def _is_norm(module: nn.Module) -> bool:
    """Whether it normalises: timm and transformers have classes of their own (RmsNorm, T5LayerNorm)."""
    return "norm" in type(module).__name__.lower()


def _is_bias(name: str) -> bool:
    """`bias`, and what is called so at its end: in_proj_bias, q_bias; tables of relative positions are not."""
    leaf = name.rpartition(".")[2]
    return leaf == "bias" or leaf.endswith("_bias")

"""LoRA in a tower: which of its matrices get low-rank matrices, and how they are merged or scaled when trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from clipft.config.additions_schema import LastBlocks, LoraConfig
from clipft.errors import InputError
from clipft.model.lora_modules import LowRanks, add_low_rank
from clipft.model.tower import Tower
from clipft.model.tower_parts import Matrix


def add_lora(model: nn.Module, tower: Tower, config: LoraConfig) -> None:
    """Put low-rank matrices beside a tower's own, on their device, and tell the tower; the model's output stays.

    Raises:
        InputError: a block or a target that the tower does not have, or an attention of a kind not known.
    """
    found = {block: tower.matrices(block) for block in _chosen(tower, config)}
    if missing := [t for t in config.targets if all(m.target != t for ms in found.values() for m in ms)]:
        raise InputError(_matches_nothing(tower, found, missing[0], config))
    for block, matrices in found.items():
        for matrix in matrices:
            if matrix.target in config.targets:
                tower.add(_add(model, _place(model, matrix, tower), config), "lora", block)


def has_lora(model: nn.Module) -> bool:
    """Whether there are low-rank matrices in it that are not merged."""
    return any(True for _ in _with_lora(model))


@torch.no_grad()
def merge_lora(model: nn.Module, *towers: Tower) -> None:
    """Put the product of all low-rank matrices into the tower's own, in place, and take them out (P51).

    Every module is of its old class again, so the state dict has the base's keys, and there is nothing to merge twice.

    Args:
        model: a copy to spend, in float32.
        towers: its towers, which forget the parameters.
    """
    for module, lora in list(_with_lora(model)):
        for part in lora.parts().values():
            rows = module.get_parameter(part.name)[slice(*part.rows)]
            rows.copy_(part.merged(rows))
        module.__class__ = lora.plain
        del module.lora
    for tower in towers:
        tower.forget("lora")


def scale_lora(model: nn.Module, strength: float) -> None:
    """Let the low-rank matrices count so much of what they were trained to: 0 is the base to the bit, 1 the tuned."""
    for module, lora in _with_lora(model):
        for part in lora.parts().values():
            part.strength = strength
        module.__class__ = lora.joined if strength else lora.plain


@dataclass(frozen=True)
class _Place:
    """Where a matrix's low-rank matrices go.

    Args:
        path: of the module that gets them.
        target: the matrix's.
        name: of the parameter that holds the matrix, below the module.
        rows: which rows of it are the matrix.
    """

    path: str
    target: str
    name: str
    rows: tuple[int, int]


def _place(model: nn.Module, matrix: Matrix, tower: Tower) -> _Place:
    path, target = matrix.path, matrix.target
    module = model.get_submodule(path)
    if isinstance(module, nn.Linear):
        rows = matrix.rows or (0, module.out_features)
        around, _, name = path.rpartition(".")
        if isinstance(getattr(model.get_submodule(around), "q_bias", None), nn.Parameter):
            return _Place(around, target, f"{name}.weight", rows)  # timm's Eva does not call its linear layer
        return _Place(path, target, "weight", rows)
    if isinstance(module, nn.MultiheadAttention):
        _refuse_unusual(module, tower)
    held = dict(module.named_parameters())
    name = "out_proj.weight" if target == "o" else "in_proj_weight"
    if name not in held:
        raise InputError(
            f"model.{tower.name}.lora: {path} is a {type(module).__name__} without {name}, which LoRA does not know; "
            f"leave {target} out of lora.targets, or write lora: null"
        )
    outputs = held[name].shape[0]
    third = "qkvo".index(target) * (outputs // 3)
    return _Place(path, target, name, (0, outputs) if target == "o" else (third, third + outputs // 3))


def _refuse_unusual(attention: nn.MultiheadAttention, tower: Tower) -> None:
    """What torch's attention can have, and none of open_clip's blocks has."""
    if attention.bias_k is not None or attention.add_zero_attn or attention.in_proj_weight is None:
        raise InputError(
            f"model.{tower.name}.lora: this attention has keys and values of another width or added ones, which LoRA "
            "does not do; write lora: null"
        )


def _add(model: nn.Module, place: _Place, config: LoraConfig) -> list[str]:
    """Full names of the new parameters."""
    part = add_low_rank(model.get_submodule(place.path), place.target, config, place.name, place.rows)
    return [f"{place.path}.lora.{place.target}.{name}" for name, _ in part.named_parameters()]


def _with_lora(model: nn.Module) -> Iterator[tuple[nn.Module, LowRanks]]:
    for module in model.modules():
        lora = module._modules.get("lora")
        if isinstance(lora, LowRanks):
            yield module, lora


# --- what was asked for ----------------------------------------------------------------------------


def _chosen(tower: Tower, config: LoraConfig) -> Sequence[int]:
    """The numbers of the blocks."""
    depth, layers = tower.depth, config.layers
    there = f"this {tower.family} tower has {depth} blocks"
    if layers == "all":
        return range(depth)
    if isinstance(layers, LastBlocks):
        if layers.last > depth:
            raise InputError(
                f"model.{tower.name}.lora.layers.last: {layers.last} is out of range: {there}; write 1 to {depth}"
            )
        return range(depth - layers.last, depth)
    if (beyond := max(layers)) >= depth:
        raise InputError(
            f"model.{tower.name}.lora.layers: {beyond} is out of range: {there}; write numbers from 0 to {depth - 1}"
        )
    return sorted(set(layers))


def _matches_nothing(tower: Tower, found: Mapping[int, Sequence[Matrix]], target: str, config: LoraConfig) -> str:
    """The refusal of a target that no chosen block has, with what to write in its place."""
    key = f"model.{tower.name}.lora"
    here = _targets(found)
    if here:
        kept = [t for t in config.targets if t in here]
        return (
            f"{key}.targets: {target} matches nothing in this {tower.family} tower's "
            f"{_numbers(list(found))}, which {'has' if len(found) == 1 else 'have'} {', '.join(here)}; write targets: "
            f"[{', '.join(kept or here)}]"
        )
    other = "text" if tower.name == "image" else "image"
    everywhere = {block: tower.matrices(block) for block in range(tower.depth)}
    if others := [block for block, matrices in everywhere.items() if matrices]:
        return (
            f"{key}.targets: {target} matches nothing: this {tower.family} tower has no such matrices in "
            f"{_numbers(list(found))}; {_numbers(others)} {'has' if len(others) == 1 else 'have'} "
            f"{', '.join(_targets(everywhere))}: write layers: [{', '.join(map(str, others))}]"
        )
    return (
        f"{key}.targets: {target} matches nothing: a {tower.family} tower is made of convolutions and has no matrix "
        f"that LoRA can join; write strategy: {{name: lora, towers: [{other}]}}, or {key}: null; freeze_layers, the "
        "projection and feature_adapter work on it"
    )


def _targets(found: Mapping[int, Sequence[Matrix]]) -> list[str]:
    return list(dict.fromkeys(m.target for matrices in found.values() for m in matrices))


def _numbers(blocks: Sequence[int]) -> str:
    first, last = blocks[0], blocks[-1]
    if len(blocks) == 1:
        return f"block {first}"
    in_a_row = len(blocks) > 2 and last - first + 1 == len(blocks)
    return f"blocks {first} to {last}" if in_a_row else f"blocks {', '.join(map(str, blocks[:-1]))} and {last}"

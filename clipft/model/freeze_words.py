"""The freeze rules in words: the report's line about a tower, and what a pattern took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from clipft.config.schema import TowerConfig
from clipft.model.plan import Shape, block_number
from clipft.model.tower import NOT_IN_LOSS, Tower
from clipft.words import counted

Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Frozen:
    """What a tower's freeze key took.

    Args:
        names: full parameter names.
        rule: the key and its value, as the report shows it.
        kind: all, layers, pattern or none.
        layers: how many blocks, under kind layers.
    """

    names: tuple[str, ...]
    rule: str
    kind: str
    layers: int = 0


def line_of(tower: Tower, frozen: Frozen, shapes: Shapes) -> str:
    """The report's line about a tower's backbone."""
    names = tower.backbone_names()
    tensors, size = counted(len(names), "tensor"), _size(names, shapes)
    part = f"{_size(frozen.names, shapes)} of {size} parameters"
    if not frozen.names:
        stuck = len(tower.untrained)
        which = f"{len(names) - stuck} of {len(names)}" if stuck else f"all {len(names)}"
        train = "tensor trains" if which == "all 1" else "tensors train"
        return f"{which} backbone {train} ({size} parameters)"
    if frozen.kind == "all":
        return f"froze all backbone parameters ({tensors}, {size} parameters)"
    if frozen.kind == "layers":
        blocks = f"{frozen.layers}/{tower.depth} blocks"
        return f"froze embeddings + first {blocks} ({len(frozen.names)} of {tensors}, {part})"
    return f"froze {len(frozen.names)} of {tensors} matching {frozen.rule.removeprefix('freeze_pattern: ')} ({part})"


def narrowed_line(tower: Tower, frozen: Frozen, kinds: Sequence[str], left: Sequence[str], shapes: Shapes) -> str:
    """The report's line about a backbone of which `train_only` leaves the parameters `left` training."""
    names, what = tower.backbone_names(), " and ".join(kinds)
    if frozen.names:
        part = f"{counted(len(left), 'tensor')}, {_size(left, shapes)} parameters"
        return f"{line_of(tower, frozen, shapes)}; of the rest only {what} train ({part})"
    part = f"{len(left)} of {counted(len(names), 'tensor')}, {_size(left, shapes)} of {_size(names, shapes)} parameters"
    return f"only the backbone's {what} train ({part})"


def unreached_line(tower: Tower, shapes: Shapes) -> str:
    """The line of a tower that the loss does not look at."""
    names = tower.names()
    return f"froze all {counted(len(names), 'tensor')}: {NOT_IN_LOSS} ({_size(names, shapes)} parameters)"


def ignored_keys(section: TowerConfig, keys: Sequence[str]) -> str:
    """The end of a line: keys that are set and had no say."""
    if not keys:
        return ""
    values = ((key, getattr(section, key)) for key in keys)
    said = ", ".join(f"{k}: {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in values)
    return f"; {said} ignored"


def parts_taken(tower: Tower, frozen: Frozen) -> list[str]:
    """Which parts a pattern took, whole or in part (P14)."""
    if frozen.kind != "pattern":
        return []
    taken = set(frozen.names)
    backbone = [part for part in tower.parts if part.group != "projection"]
    whole = [part.group for part in backbone if taken.issuperset(part.names)]
    partly = [part.group for part in backbone if part.group not in whole and not taken.isdisjoint(part.names)]
    said = [in_words(whole)] if whole else []
    said += [f"parts of {in_words(partly)}"] if partly else []
    return [f"{frozen.rule.removeprefix('freeze_pattern: ')} took {' and '.join(said)}"]


def in_words(groups: Sequence[str]) -> str:
    """Groups with consecutive blocks folded: `embeddings, blocks 0-3, 7, norm`."""
    numbers = [n for n in map(block_number, groups) if n is not None]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    blocks = [f"block{'s' if len(numbers) > 1 else ''} {spans}"] if runs else []
    others = [group for group in groups if block_number(group) is None]
    first = ["embeddings"] if "embeddings" in others else []
    return ", ".join([*first, *blocks, *(group for group in others if group != "embeddings")])


def short(number: int) -> str:
    """A count with one decimal: 73.3M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= 0.99995 * size:  # what would round to 1000.0 of the smaller unit is 1.0 of this one
            return f"{number / size:.1f}{unit}"
    return str(number)


def _size(names: Sequence[str], shapes: Shapes) -> str:
    return short(sum(prod(shapes[name]) for name in names))

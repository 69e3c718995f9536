"""Base and novel classes: which classes leave training, to be measured apart (P62).

Base-to-novel generalisation: Zhou et al., Conditional Prompt Learning for Vision-Language Models (CVPR 2022),
section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from clipft.config.hints import nearest
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.words import some

NovelClasses = Literal["half"] | tuple[str, ...]
"""`half`, the second half of the classes in their order, or their names."""

KEY = "evaluate.novel_classes"


def base_to_novel(
    train: Rows, val: Rows | None, asked: NovelClasses, class_names: Mapping[str, str]
) -> tuple[Rows, Rows | None]:
    """Training rows without the novel classes' rows, and both with these classes marked; labels stay as they are.

    Args:
        train: labelled rows.
        val: rows whose labels index the same classes.
        asked: which classes are novel.
        class_names: folder or label name to the words for it; either may be asked for.

    Raises:
        InputError: the rows have no classes, an asked one is not there, or one side has nothing to train or measure on.
    """
    if train.labels is None or len(train.classes) < 2:
        raise InputError(f"{KEY}: needs rows of at least two classes, and {train.name} has none to part")
    novel = novel_of(train.classes, asked, class_names)
    base = tuple(name for name in train.classes if name not in novel)
    if not base:
        raise InputError(f"{KEY}: names all {len(novel)} classes, so none is left to train on")
    stays = np.flatnonzero(~np.isin(train.labels, [train.classes.index(name) for name in novel]))
    train = replace(train.take(stays), novel=novel)
    if val is None:
        return train, None
    counts = dict(zip(val.classes, val.class_counts().tolist(), strict=True))
    for side, names in (("base", base), ("novel", novel)):
        if not any(counts.get(name) for name in names):
            raise InputError(f"{KEY}: {val.name} has no row of a {side} class to measure on: {some(names)}")
    return train, replace(val, novel=novel)


def with_strangers(train: Rows, val: Rows, asked: NovelClasses | None, class_names: Mapping[str, str]) -> Rows:
    """The training rows, their classes joined by those novel ones that only the validation rows have."""
    if asked is None or asked == "half" or train.labels is None:
        return train
    wanted = {class_names.get(name, name) for name in asked}
    new = tuple(name for name in val.classes if name in wanted and name not in train.classes)
    return replace(train, classes=(*train.classes, *new))


def novel_of(classes: Sequence[str], asked: NovelClasses, class_names: Mapping[str, str]) -> tuple[str, ...]:
    """The novel ones among the classes, in their order; of an odd number `half` is the smaller half (as in CoCoOp).

    Raises:
        InputError: a class that is asked for is not there.
    """
    if asked == "half":
        return tuple(classes[-(len(classes) // 2) :])
    wanted = [class_names.get(name, name) for name in asked]
    unknown = [name for name in wanted if name not in classes]
    if unknown:
        close = nearest(unknown[0], classes)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"{KEY}: no class {some([repr(name) for name in unknown])}{hint}; the classes are {some(classes, 12)}"
        )
    return tuple(name for name in classes if name in wanted)

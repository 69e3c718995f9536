"""What runs the tests of exporting are made from: a case for each thing that a run may tune."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

TunedRun = Callable[..., Path]
"""Gives the run of a case of `TUNED`; sections are put over its config."""

_FROZEN = {"freeze_backbone": True, "projection": "freeze"}
_LORA, _ADAPTER, _FEATURE = {"rank": 2}, {"bottleneck": 4}, {"reduction": 2, "ratio": 0.5}
_PROMPT = {"length": 3, "depth": 2}
TUNED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text prompt": (_FROZEN, {"prompt": _PROMPT}),
    "middle": ({"lora": _LORA}, {"prompt": _PROMPT | {"position": "middle"}, "lora": _LORA}),
    "class specific": (_FROZEN, {"prompt": _PROMPT | {"class_specific": True}}),
    "text feature adapter": (_FROZEN, {"feature_adapter": _FEATURE, "adapter": _ADAPTER}),
    "image": ({"prompt": {"length": 2, "depth": 2}, "feature_adapter": _FEATURE}, _FROZEN),
    "block adapters": ({"adapter": _ADAPTER, "lora": _LORA}, {"adapter": _ADAPTER}),
    "lora": ({"lora": _LORA}, {"lora": _LORA | {"dora": True}}),
    "heads": ({"freeze_backbone": True}, {"freeze_backbone": True}),
}
"""What the image and the text tower of a tuned run get."""


def cases(*quick: str, slow: Iterable[str]) -> list[Any]:
    """Cases of `TUNED` for parametrize, some of them in the slow tier."""
    return [*quick, *(pytest.param(case, marks=pytest.mark.slow) for case in slow)]

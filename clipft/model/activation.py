"""GELU or QuickGELU: weights do not show which one they were trained with, and the other one answers worse (P42)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip

from clipft.errors import InputError


def check_activation(model_cfg: dict[str, Any], other: bool, name: str, whose: str) -> None:
    """InputError where weights trained with QuickGELU meet a model with GELU, or the other way (P42)."""
    if bool(model_cfg.get("quick_gelu", False)) == other:
        return
    right = f"{name}-quickgelu" if other else name.removesuffix("-quickgelu")
    advice = (
        f"write model.name: {right}"
        if right in open_clip.list_models()
        else "load them with their own config, by local-dir:"
    )
    raise InputError(
        f"model.name: {name} computes with {'GELU' if other else 'QuickGELU'}, but {whose} were trained with "
        f"{'QuickGELU' if other else 'GELU'}, and would answer worse; {advice}"
    )


def check_tag(arch: str, tag: str, tag_cfg: dict[str, Any]) -> None:
    """InputError where a tag's weights want the architecture's twin, with the other activation (P42).

    Of an architecture that has no twin the config rules: open_clip's list of tags says nothing of roberta-ViT-B-32's.
    """
    if _has_twin(arch):
        cfg = open_clip.get_model_config(arch)
        check_activation(cfg, bool(tag_cfg.get("quick_gelu", False)), arch, f"the weights {tag}")


def activation_unsaid(name: str, path: Path) -> tuple[str, ...]:
    """A line where the architecture has a twin with the other activation, and nothing says which one is meant (P42)."""
    if not _has_twin(name):
        return ()
    base = name.removesuffix("-quickgelu")
    here, other = ("GELU", f"{base}-quickgelu") if name == base else ("QuickGELU", base)
    return (
        f"{path}: nothing beside it says with which activation it was trained; {name} computes with {here}. "
        f"OpenAI's, DFN's and MetaCLIP's weights want QuickGELU: if this is not what yours want, write name: {other}",
    )


def _has_twin(arch: str) -> bool:
    """Whether open_clip has the architecture with the other activation too, under a name with or without -quickgelu."""
    base = arch.removesuffix("-quickgelu")
    return {base, f"{base}-quickgelu"} <= set(open_clip.list_models())

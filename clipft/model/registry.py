"""What the installed open_clip offers: its architectures and their pretrained tags."""

from __future__ import annotations

import open_clip

from clipft.errors import InputError
from clipft.model.activation import check_tag
from clipft.model.profiles import Tag
from clipft.model.sources import tag_cfg


def installed_tags() -> dict[str, list[Tag]]:
    """The tags of every architecture, both in open_clip's order."""
    names: list[str] = open_clip.list_models()
    return {name: [_tag(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)] for name in names}


def _tag(architecture: str, tag: str) -> Tag:
    """A tag, and the architecture to write where this one computes with another activation (P42)."""
    quick = bool(tag_cfg(tag, architecture).get("quick_gelu", False))
    try:
        check_tag(architecture, tag, tag_cfg(tag, architecture))
    except InputError:
        other = f"{architecture}-quickgelu" if quick else architecture.removesuffix("-quickgelu")
        there = other != architecture and tag in open_clip.list_pretrained_tags_by_model(other)
        return Tag(tag, loads=False, instead=other if there else None)
    return Tag(tag)

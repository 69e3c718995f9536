"""Which layout a weights file has, and probably which model it is of: told from its keys and shapes (P44).

A file of transformers' CLIPModel or SiglipModel is put into open_clip's names; the others that do not fit are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
from torch import Tensor

from clipft.config.hints import one_of
from clipft.model import hf_names

Tensors = Mapping[str, Tensor]
HUGGING_FACE = {"clip": "a Hugging Face CLIP file", "siglip": "a Hugging Face SigLIP file"}
"""What a file of a family of transformers is called."""


@dataclass(frozen=True)
class Layout:
    """What a file's keys say: whose layout it is, the architectures its shapes fit, what to do with such a file."""

    name: str
    architectures: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        probably = f", probably {one_of(self.architectures)}" if self.architectures else ""
        return f"by its keys it is {self.name}{probably}; {self.advice}"


@dataclass(frozen=True)
class _Sizes:
    """The sizes that tell architectures apart; `image_blocks` is None for timm's towers, whose config lacks it."""

    image_width: int
    patch: int
    image_positions: int
    image_blocks: int | None
    text_width: int
    text_blocks: int
    embed_dim: int
    context_length: int
    vocabulary: int


def of_openai(tensors: Tensors) -> bool:
    """Whether it is one of OpenAI's own state dicts, all of them trained with QuickGELU."""
    return "input_resolution" in tensors and "visual.conv1.weight" in tensors


def recognise(tensors: Tensors) -> Layout:
    """The layout of a state dict that did not fit."""
    if family := hf_names.family_of(tensors):
        return Layout(HUGGING_FACE[family], _architectures(hf_names.to_open_clip(tensors)), _NAME_IT)
    if any(key.startswith(("vision_model.", "text_model.")) for key in tensors):
        return _other_hugging_face(tensors)
    if "visual.conv1.weight" in tensors and "text_projection" in tensors:
        if any(key.startswith("text_decoder.") for key in tensors):
            return Layout("an open_clip CoCa file", (), _NAME_IT)
        name = "OpenAI's own file" if of_openai(tensors) else "an open_clip file (native image and text tower)"
        return Layout(name, _architectures(tensors), _NAME_IT)
    if any(key.startswith("visual.trunk.") for key in tensors):
        advice = f"{_NAME_IT}, or use its folder: name: local-dir:PATH"
        return Layout("an open_clip file (timm image tower)", _architectures(tensors), advice)
    if any(key.startswith(("visual.", "text.")) for key in tensors):
        return Layout("an open_clip file", (), _NAME_IT)
    if any("embeddings.word_embeddings" in key for key in tensors):
        advice = "use it as a tower: model.text.encoder: hf:FOLDER beside an image encoder"
        return Layout("a Hugging Face text encoder", (), advice)
    if any(key.startswith(("blocks.", "stages.", "patch_embed.", "conv_stem.", "stem.")) for key in tensors):
        advice = "use timm's as a tower: model.image.encoder: timm:NAME beside a text encoder"
        return Layout("an image encoder of timm", (), advice)
    return Layout(
        "no CLIP layout that clipft knows", (), "expected a file that open_clip, transformers or clipft saved"
    )


PART_OF_A_RUN = Layout(
    "a part of such a model, as the model.safetensors of a clipft checkpoint is",
    (),
    "it holds what that run trained; name the run in its place, model.pretrained: runs/NAME, which adds the rest",
)
"""Of tensors that all fit, but are not all."""

_NAME_IT = "name the architecture it was saved from in model.name"


def _other_hugging_face(tensors: Tensors) -> Layout:
    towers = {key.split(".")[0] for key in tensors if key.startswith(("vision_model.", "text_model."))}
    if len(towers) == 1:
        tower = "image" if towers == {"vision_model"} else "text"
        advice = "clipft needs both: take the file of the whole model"
        return Layout(f"the {tower} tower alone of a Hugging Face model", (), advice)
    patches = tensors.get("vision_model.embeddings.patch_embedding.weight")
    if patches is not None and patches.ndim == 2:
        advice = "open_clip has those of a fixed resolution, such as ViT-B-16-SigLIP2"
        return Layout("a Hugging Face SigLIP 2 file of variable resolution (NaFlex)", (), advice)
    advice = "expected transformers' CLIPModel or SiglipModel, or a file that open_clip or clipft saved"
    return Layout("a Hugging Face file of an image and a text model", (), advice)


def _sizes(tensors: Tensors) -> _Sizes:
    """The sizes of a state dict in open_clip's names; KeyError or IndexError where it lacks a tensor that tells."""
    native = "visual.conv1.weight" in tensors
    patches = tensors["visual.conv1.weight" if native else "visual.trunk.patch_embed.proj.weight"]
    positions = tensors["visual.positional_embedding" if native else "visual.trunk.pos_embed"]
    text = "text." if "text.token_embedding.weight" in tensors else ""
    linear = tensors.get(f"{text}text_projection.weight")  # applied as w @ x, a bare one as x @ w
    return _Sizes(
        image_width=patches.shape[0],
        patch=patches.shape[-1],
        image_positions=positions.shape[-2],
        image_blocks=_blocks(tensors, "visual.transformer.resblocks.") if native else None,
        text_width=tensors[f"{text}ln_final.weight"].shape[0],
        text_blocks=_blocks(tensors, f"{text}transformer.resblocks."),
        embed_dim=tensors[f"{text}text_projection"].shape[1] if linear is None else linear.shape[0],
        context_length=tensors[f"{text}positional_embedding"].shape[0],
        vocabulary=tensors[f"{text}token_embedding.weight"].shape[0],
    )


def _blocks(tensors: Tensors, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)})


def _architectures(tensors: Tensors) -> tuple[str, ...]:
    """open_clip's architectures of these sizes; none where the file lacks a tensor that tells."""
    try:
        wanted = _sizes(tensors)
    except (KeyError, IndexError):
        return ()
    return tuple(name for name in open_clip.list_models() if _sizes_of(open_clip.get_model_config(name)) == wanted)


def _sizes_of(cfg: dict[str, Any]) -> _Sizes | None:
    """The sizes of an architecture with open_clip's own ViT or SigLIP's; None for others."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    siglip = re.search(r"_patch(\d+)_siglip_", vision.get("timm_model_name", ""))
    of_others = "multimodal_cfg" in cfg or "hf_model_name" in text or ("timm_model_name" in vision and not siglip)
    if of_others or not isinstance(vision.get("layers", 0), int):
        return None
    patch = int(siglip[1]) if siglip else vision["patch_size"]
    return _Sizes(
        image_width=cfg["embed_dim"] if siglip else vision["width"],  # SigLIP has no image projection
        patch=patch,
        image_positions=(vision["image_size"] // patch) ** 2 + (0 if siglip else 1),
        image_blocks=None if siglip else vision["layers"],
        text_width=text["width"],
        text_blocks=text["layers"],
        embed_dim=cfg["embed_dim"],
        context_length=text["context_length"],
        vocabulary=text["vocab_size"],
    )

"""Which layout a weights file has, and probably which model it is of: told from its keys and shapes (P44)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
from torch import Tensor

from clipft.config.vocabulary import one_of

Tensors = Mapping[str, Tensor]


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
    """The sizes that tell native architectures apart."""

    image_width: int
    patch: int
    image_positions: int
    image_blocks: int
    text_width: int
    text_blocks: int
    embed_dim: int
    context_length: int
    vocabulary: int


def recognise(tensors: Tensors) -> Layout:
    """The layout of a state dict that did not fit."""
    if any(key.startswith(("vision_model.", "text_model.")) for key in tensors):
        found = _architectures(_hugging_face_sizes(tensors))
        return Layout(
            "a Hugging Face CLIP file",
            found,
            "its tensors have other names than open_clip's: take the same model by its open_clip tag, "
            "such as name: ViT-B-32-quickgelu with pretrained: openai, or a file that open_clip saved",
        )
    if "visual.conv1.weight" in tensors and "text_projection" in tensors:
        if any(key.startswith("text_decoder.") for key in tensors):
            return Layout("an open_clip CoCa file", (), "CoCa models come later")
        of_openai = "input_resolution" in tensors
        name = "OpenAI's own file" if of_openai else "an open_clip file (native image and text tower)"
        return Layout(name, _architectures(_native_sizes(tensors)), _NAME_IT)
    if any(key.startswith("visual.trunk.") for key in tensors):
        return Layout(
            "an open_clip file (timm image tower)", (), f"{_NAME_IT}, or use its folder: name: local-dir:PATH"
        )
    if any(key.startswith(("visual.", "text.")) for key in tensors):
        return Layout("an open_clip file", (), _NAME_IT)
    if any("embeddings.word_embeddings" in key for key in tensors):
        advice = "use it as a tower: model.text.encoder: hf:FOLDER beside an image encoder"
        return Layout("a Hugging Face text encoder", (), advice)
    if any(key.startswith(("blocks.", "stages.", "patch_embed.", "conv_stem.", "stem.")) for key in tensors):
        advice = "use timm's as a tower: model.image.encoder: timm:NAME beside a text encoder"
        return Layout("an image encoder of timm", (), advice)
    return Layout("no CLIP layout that clipft knows", (), "expected a file that open_clip or clipft saved")


_NAME_IT = "name the architecture it was saved from in model.name"


def _native_sizes(tensors: Tensors) -> Callable[[], _Sizes]:
    return lambda: _Sizes(
        image_width=tensors["visual.conv1.weight"].shape[0],
        patch=tensors["visual.conv1.weight"].shape[-1],
        image_positions=tensors["visual.positional_embedding"].shape[0],
        image_blocks=_blocks(tensors, "visual.transformer.resblocks."),
        text_width=tensors["ln_final.weight"].shape[0],
        text_blocks=_blocks(tensors, "transformer.resblocks."),
        embed_dim=tensors["text_projection"].shape[1],
        context_length=tensors["positional_embedding"].shape[0],
        vocabulary=tensors["token_embedding.weight"].shape[0],
    )


def _hugging_face_sizes(tensors: Tensors) -> Callable[[], _Sizes]:
    return lambda: _Sizes(
        image_width=tensors["vision_model.embeddings.patch_embedding.weight"].shape[0],
        patch=tensors["vision_model.embeddings.patch_embedding.weight"].shape[-1],
        image_positions=tensors["vision_model.embeddings.position_embedding.weight"].shape[0],
        image_blocks=_blocks(tensors, "vision_model.encoder.layers."),
        text_width=tensors["text_model.final_layer_norm.weight"].shape[0],
        text_blocks=_blocks(tensors, "text_model.encoder.layers."),
        embed_dim=tensors["visual_projection.weight"].shape[0],
        context_length=tensors["text_model.embeddings.position_embedding.weight"].shape[0],
        vocabulary=tensors["text_model.embeddings.token_embedding.weight"].shape[0],
    )


def _blocks(tensors: Tensors, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in tensors if key.startswith(prefix)})


def _architectures(sizes: Callable[[], _Sizes]) -> tuple[str, ...]:
    """open_clip's native architectures of these sizes; none where the file lacks a tensor that tells."""
    try:
        wanted = sizes()
    except (KeyError, IndexError):
        return ()
    return tuple(name for name in open_clip.list_models() if _sizes_of(open_clip.get_model_config(name)) == wanted)


def _sizes_of(cfg: dict[str, Any]) -> _Sizes | None:
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    of_others = {"custom_text", "multimodal_cfg"} & cfg.keys() or "hf_model_name" in text or "timm_model_name" in vision
    if of_others or not isinstance(vision["layers"], int):
        return None
    return _Sizes(
        image_width=vision["width"],
        patch=vision["patch_size"],
        image_positions=(vision["image_size"] // vision["patch_size"]) ** 2 + 1,
        image_blocks=vision["layers"],
        text_width=text["width"],
        text_blocks=text["layers"],
        embed_dim=cfg["embed_dim"],
        context_length=text["context_length"],
        vocabulary=text["vocab_size"],
    )

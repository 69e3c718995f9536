"""What a model makes of a known picture and a known text, written down with it and asked again wherever it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipft.errors import ClipftError, InputError
from clipft.export.tuned import as_open_clip
from clipft.model.clip_model import ClipModel
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.tokenizer import KNOWN_TEXT, Tokenizer

_SAME = 1e-4  # features of the same weights on other hardware and versions; other weights differ by far more


@dataclass(frozen=True)
class Fingerprint:
    """What a model makes of a known picture and a known text.

    Args:
        image: the first numbers of the image's normalised feature.
        text: the first numbers of the text's.
        tokens: the tokenizer's identity.
    """

    image: tuple[float, ...]
    text: tuple[float, ...]
    tokens: str

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Fingerprint:
        """As it was written; raises KeyError or TypeError where it was not."""
        return cls(tuple(values["image"]), tuple(values["text"]), values["tokens"])


def probe(model: Any, tokenizer: Callable[[list[str]], Tensor], text: str = KNOWN_TEXT) -> tuple[Tensor, Tensor]:
    """Normalised features (1, D) of a known picture and a known text, as open_clip's own methods give them."""
    device = model.logit_scale.device
    with torch.no_grad():
        # open_clip leaves a dimension of one where CoCa pools with a query of its own
        image = model.encode_image(known_picture(model).to(device), normalize=True).flatten(0, -2)
        words = model.encode_text(tokenizer([text]).to(device), normalize=True)
    return image.float().cpu(), words.float().cpu()


def probe_whole(clip: ClipModel, classes: Sequence[str] = (), templates: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
    """`probe` of a model with all its additions, in evaluation mode; classes and templates are of its run."""
    text = known_text(clip.tokenizer, classes, templates)
    return probe(as_open_clip(clip), clip.tokenizer, text)


def fingerprint(clip: ClipModel, classes: Sequence[str] = (), templates: Sequence[str] = ()) -> Fingerprint:
    """The model's fingerprint; the model must be in evaluation mode."""
    features = probe_whole(clip, classes, templates)
    image, text = (tuple(round(float(x), 7) for x in feature[0, :16]) for feature in features)
    return Fingerprint(image, text, clip.tokenizer.identity())


def same_features(
    ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], most: float, what: str, advice: str = ""
) -> float:
    """The largest difference between any two numbers of two probes, where it is no more than it may be.

    Args:
        ours: the run's.
        theirs: of what is to be written of it.
        most: what it may be.
        what: the start of the sentence that refuses, up to "differ".
        advice: the end of it.

    Raises:
        ClipftError: they are further apart.
    """
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    if not difference <= most:
        raise ClipftError(
            f"{what} differ from the run's by {difference:.1g}, more than {most:g}: nothing was written{advice}"
        )
    return difference


def check(what: Path, promised: Fingerprint, found: Fingerprint) -> None:
    """Compare a model that was read with the one that was written (P52).

    Raises:
        InputError: it answers otherwise.
    """
    if promised.tokens != found.tokens:
        raise InputError(f"{what}: its tokenizer is not the one it was exported with; copy the folder again, whole")
    for side in ("image", "text"):
        before, now = torch.tensor(getattr(promised, side)), torch.tensor(getattr(found, side))
        if before.shape != now.shape or (before - now).abs().max() > _SAME:
            raise InputError(
                f"{what}: its {side} tower does not answer as when it was exported (other weights, another config?); "
                "export the run again"
            )


def known_picture(model: Any) -> Tensor:
    """A picture (1, 3, H, W) of the model's image size, as preprocessing would give it: waves."""
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.sin(torch.arange(3 * height * width) * 0.37).reshape(1, 3, height, width)


def known_text(tokenizer: Tokenizer, classes: Sequence[str], templates: Sequence[str]) -> str:
    """A text that the tokenizer takes: any, or where prompt vectors stand around a class name, the first class's."""
    if not (isinstance(tokenizer, PromptTokenizer) and tokenizer.needs_classes):
        return KNOWN_TEXT
    tokenizer.know(classes[:1], templates[:1])
    return templates[0].replace("{}", classes[0])

"""An exported model's folder, read: an open_clip model, and in clipft.json what open_clip has no place for.

An export for transformers has transformers' names in its weights, and the open_clip config in its clipft.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.build import ClipModel, build
from clipft.model.classifier import Classifier
from clipft.model.config_files import EXPORT_FACTS, LOCAL_DIR, config_path
from clipft.model.tokenizer import KNOWN_TEXT, Tokenizer

WEIGHTS = "open_clip_model.safetensors"  # the name that open_clip looks for first
CLASSIFIER = "classifier.safetensors"
FORMAT = 1
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


@dataclass(frozen=True)
class Facts:
    """The content of clipft.json.

    Args:
        run: the run's folder.
        step: the step of the checkpoint that was exported.
        epoch: its epoch.
        model: what the user called the model.
        base: where the run started from.
        classes: class names, index = label.
        templates: the prompts that class names were put into.
        class_names: folder or label name to the words for it.
        loss: contrastive, siglip or classifier.
        features: what the classifier sees, projected or pooled.
        classifier: its settings, null where there is none.
        logit_scale: exp() of the weight.
        metrics: the figures at that step.
        fingerprint: recomputed by `clipft.load`.
        mixed: where it is no run's own model, what it was mixed from: {"alpha"} or {"soup", "runs"}, and the figures.
    """

    run: str
    step: int
    epoch: int
    model: str
    base: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    class_names: dict[str, str]
    loss: str
    features: str
    classifier: dict[str, Any] | None
    logit_scale: float
    metrics: dict[str, float]
    fingerprint: Fingerprint
    mixed: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        """As it was written; raises KeyError or TypeError where it was not."""
        values = {name: values[name] for name in cls.__dataclass_fields__ if name != "mixed" or name in values}
        lists = {name: tuple(values[name]) for name in ("classes", "templates")}
        marks = values["fingerprint"]
        fingerprint = Fingerprint(tuple(marks["image"]), tuple(marks["text"]), marks["tokens"])
        return cls(**{**values, **lists, "fingerprint": fingerprint})


@dataclass(frozen=True, eq=False)
class Exported:
    """A model from a folder that open_clip can read; `facts` are None where clipft did not write it."""

    clip: ClipModel
    facts: Facts | None


def is_export(path: Path) -> bool:
    """Whether a model can be read from the folder by local-dir:."""
    return config_path(path) is not None


def read_export(path: Path) -> Exported:
    """Load the folder's model; an export is checked against its fingerprint, wherever it was moved to (P52).

    Raises:
        InputError: a file is missing or damaged, or the model does not answer as it did when it was written.
    """
    clip = build(ModelConfig(name=f"{LOCAL_DIR}{path}"), seed=0)
    if not (path / EXPORT_FACTS).is_file():
        return Exported(clip, None)
    facts = _read_facts(path / EXPORT_FACTS)
    _check(path, facts.fingerprint, fingerprint(clip.model, clip.tokenizer))
    if facts.classifier is not None:
        clip.model.classifier = _read_classifier(path / CLASSIFIER, facts.classifier)
    return Exported(clip, facts)


def probe(model: Any, tokenizer: Callable[[list[str]], Tensor]) -> tuple[Tensor, Tensor]:
    """Normalised features (1, D) of a known picture and a known text, as open_clip's own methods give them."""
    device = model.logit_scale.device
    with torch.no_grad():
        # open_clip leaves a dimension of one where CoCa pools with a query of its own
        image = model.encode_image(known_picture(model).to(device), normalize=True).flatten(0, -2)
        text = model.encode_text(tokenizer([KNOWN_TEXT]).to(device), normalize=True)
    return image.float().cpu(), text.float().cpu()


def known_picture(model: Any) -> Tensor:
    """A picture (1, 3, H, W) of the model's image size, as preprocessing would give it: waves."""
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.sin(torch.arange(3 * height * width) * 0.37).reshape(1, 3, height, width)


def fingerprint(model: Any, tokenizer: Tokenizer) -> Fingerprint:
    """The model's fingerprint; the model must be in evaluation mode."""
    image, text = (tuple(round(float(x), 7) for x in features[0, :16]) for features in probe(model, tokenizer))
    return Fingerprint(image, text, tokenizer.identity())


def _check(path: Path, promised: Fingerprint, found: Fingerprint) -> None:
    if promised.tokens != found.tokens:
        raise InputError(f"{path}: its tokenizer is not the one it was exported with; copy the folder again, whole")
    for what in ("image", "text"):
        before, now = torch.tensor(getattr(promised, what)), torch.tensor(getattr(found, what))
        if before.shape != now.shape or (before - now).abs().max() > _SAME:
            raise InputError(
                f"{path}: its {what} tower does not answer as when it was exported (other weights, another config?); "
                "export the run again"
            )


def _read_facts(path: Path) -> Facts:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise InputError(f"{path}: has format {values['format']}, and this clipft reads {FORMAT}; update clipft")
        return Facts.from_json(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not as clipft wrote it ({error!r}); export the run again") from None


def _read_classifier(path: Path, settings: dict[str, Any]) -> Classifier:
    classifier = Classifier(
        settings["num_classes"], settings["width"], cosine=settings["cosine"], bias=settings["bias"]
    )
    try:
        classifier.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{path}: is not the classifier that {EXPORT_FACTS} describes ({error}); export the run again"
        ) from None
    return classifier.eval()

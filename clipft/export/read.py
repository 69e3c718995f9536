"""An exported model's folder, read: an open_clip model, and in clipft.json what open_clip has no place for.

An export for transformers has transformers' names in its weights, and the open_clip config in its clipft.json. A model
with additions, which open_clip has no place for, lies below in `model/` without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.export.fingerprint import Fingerprint, check, fingerprint
from clipft.model.additions import new_names
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.config_files import ADDITIONS, EXPORT_FACTS, LOCAL_DIR, PLAIN_MODEL, config_path
from clipft.words import some

WEIGHTS = "open_clip_model.safetensors"  # the name that open_clip looks for first
CLASSIFIER = "classifier.safetensors"
FORMAT = 1


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
        loss: contrastive, siglip, zero_shot or classifier.
        features: what the classifier sees, projected or pooled.
        classifier: its settings, null where there is none.
        logit_scale: exp() of the weight.
        metrics: the figures at that step.
        fingerprint: recomputed by `clipft.load`.
        mixed: where it is no run's own model, what it was mixed from: {"alpha"} or {"soup", "runs"}, and the figures.
        additions: the keys of `model.image` and `model.text` that made what lies in additions.safetensors.
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
    additions: dict[str, dict[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Facts:
        """As it was written; raises KeyError or TypeError where it was not."""
        values = {f.name: values[f.name] for f in fields(cls) if f.default is MISSING or f.name in values}
        lists = {name: tuple(values[name]) for name in ("classes", "templates")}
        return cls(**{**values, **lists, "fingerprint": Fingerprint.from_json(values["fingerprint"])})


@dataclass(frozen=True, eq=False)
class Exported:
    """A model from a folder that open_clip can read; `facts` are None where clipft did not write it."""

    clip: ClipModel
    facts: Facts | None


def is_export(path: Path) -> bool:
    """Whether a model can be read from the folder by `read_export`."""
    return config_path(path) is not None or _has_additions(path)


def read_export(path: Path) -> Exported:
    """Load the folder's model; an export is checked against its fingerprint, wherever it was moved to (P52).

    Raises:
        InputError: a file is missing or damaged, or the model does not answer as it did when it was written.
    """
    if not (path / EXPORT_FACTS).is_file():
        return Exported(build(ModelConfig(name=f"{LOCAL_DIR}{path}"), seed=0), None)
    facts = _read_facts(path / EXPORT_FACTS)
    if facts.additions is None:
        clip = build(ModelConfig(name=f"{LOCAL_DIR}{path}"), seed=0)
    else:
        clip = _with_additions(path, facts, facts.additions)
    check(path, facts.fingerprint, fingerprint(clip, facts.classes, facts.templates))
    if facts.classifier is not None:
        clip.model.classifier = _read_classifier(path / CLASSIFIER, facts.classifier)
    return Exported(clip, facts)


def _has_additions(path: Path) -> bool:
    return (path / EXPORT_FACTS).is_file() and (path / PLAIN_MODEL).is_dir()


def _with_additions(path: Path, facts: Facts, additions: dict[str, dict[str, Any]]) -> ClipModel:
    """The model below with the additions put in again, and their values over what is drawn for them."""
    config = ModelConfig.model_validate({"name": f"{LOCAL_DIR}{path / PLAIN_MODEL}", **additions})
    clip = build(config, seed=0, classes=facts.classes)
    clip.notes = (f"{path}: step {facts.step} of {facts.run}, with its additions to {clip.base}",)
    try:
        tensors = load_file(path / ADDITIONS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path / ADDITIONS}: cannot be read ({error}); copy the folder again, whole") from None
    fill_in(clip.model, new_names(clip.image, clip.text), tensors, str(path / ADDITIONS))
    return clip


@torch.no_grad()
def fill_in(model: nn.Module, names: tuple[str, ...], tensors: Mapping[str, Tensor], source: str) -> None:
    """Give the model's parameters of these names the values of tensors, all of them and no others (P52).

    Raises:
        InputError: one is missing, of another shape or too many; `source` is where they are from.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    fits = {n for n, p in parameters.items() if n in tensors and tensors[n].shape == p.shape}
    if odd := sorted((parameters.keys() | tensors.keys()) - fits):
        raise InputError(
            f"{source}: does not hold the parameters that its config describes; these differ: {some(odd, 5)}; export "
            "the run again"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


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

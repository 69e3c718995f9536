"""The export of a run whose prompt vectors or adapters can't be merged: a folder for `clipft.load`.

FOLDER/model/                         an open_clip model without them, LoRA merged
FOLDER/additions.safetensors          the new parameters
FOLDER/class_embeddings.safetensors   where the text tower has some: what it makes of the run's classes
FOLDER/clipft.json                    what the run was, the additions' config, a fingerprint of the whole
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipft.config.schema import ModelConfig
from clipft.data.captions import class_prompts
from clipft.errors import InputError
from clipft.export.files import SAME, facts_of, write_classifier, write_folder, write_json
from clipft.export.fingerprint import probe_whole, same_features
from clipft.export.read import CLASSIFIER, read_export
from clipft.model.additions import take_out
from clipft.model.config_files import ADDITIONS, EXPORT_FACTS, PLAIN_MODEL
from clipft.model.encode import encode_prompts
from clipft.model.feature_adapter import FeatureAdapter
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.saved import SavedModel
from clipft.model.tensor_file import write_tensors
from clipft.model.tower import Tower

CLASS_EMBEDDINGS = "class_embeddings.safetensors"
KEY = "class_embeddings"
"""The only tensor in that file: (C, D), normalised."""
_KINDS = {"adapter": "adapters", "feature_adapter": "a feature adapter", "prompt": "prompt vectors"}


@dataclass(frozen=True)
class Additions:
    """What of a run's model no open_clip model has a place for.

    Args:
        image: the keys of `model.image` that made it, as in the config.
        text: those of `model.text`.
    """

    image: dict[str, Any]
    text: dict[str, Any]

    def __bool__(self) -> bool:
        return bool(self.image or self.text)

    def words(self) -> str:
        """`prompt vectors in the text tower`."""
        towers = {"image": self.image, "text": self.text}
        return " and ".join(f"{_kinds(keys)} in the {tower} tower" for tower, keys in towers.items() if keys)


def additions_of(config: ModelConfig) -> Additions:
    """The additions that a `model` section asks for; LoRA is none, since it can be merged."""
    sections = (section.model_dump(mode="json") for section in (config.image, config.text))
    image, text = ({key: values[key] for key in _KINDS if values[key] is not None} for values in sections)
    return Additions(image, text)


def _counted(section: dict[str, Any], tower: Tower) -> dict[str, Any]:
    """A tower's section, its feature adapter with the share that it has between base and tuned model."""
    adapter = tower.feature_adapter
    if not isinstance(adapter, FeatureAdapter):
        return section
    return {**section, "feature_adapter": {**section["feature_adapter"], "ratio": adapter.strength * adapter.ratio}}


def refuse_elsewhere(additions: Additions, to: str) -> None:
    """Refuse to leave additions out in silence.

    Raises:
        InputError: there are some, and the form has no place for them.
    """
    if additions and to != "open_clip":
        raise InputError(
            f"--to {to}: this run tuned {additions.words()}, which no file of that form has a place for; leave --to "
            "out, which writes a folder for clipft.load"
            + (", with ready class embeddings for open_clip's image tower" if additions.text else "")
        )


def write_with_additions(partial: Path, out: Path, saved: SavedModel, run: str) -> float:
    """Write and check a folder for `clipft.load`; the model is left without its additions.

    Args:
        partial: where to write.
        out: where it will lie in the end.
        saved: the run's model, in evaluation mode, its LoRA merged.
        run: the run, as the user named it.

    Returns:
        The largest difference between a normalised feature of the run's model and of what was read back.

    Raises:
        ClipftError: open_clip does not load the model below, or the whole does not answer as the run does.
    """
    clip, additions = saved.clip, additions_of(saved.config.model)
    facts = facts_of(saved, run, write_classifier(partial, saved))
    sections = {"image": _counted(additions.image, clip.image), "text": _counted(additions.text, clip.text)}
    facts = replace(facts, additions=sections)
    before = probe_whole(clip, saved.classes, saved.templates)
    if additions.text and saved.classes:
        clip.tokenizer.know(saved.classes, saved.templates)
        prompts = class_prompts(saved.classes, saved.templates)
        embeddings = encode_prompts(clip, prompts, device=clip.logit_scale.device)
        names = {"classes": json.dumps(saved.classes), "templates": json.dumps(saved.templates)}
        write_tensors({KEY: embeddings}, partial / CLASS_EMBEDDINGS, names)
    write_tensors(take_out(clip.model, clip.image, clip.text), partial / ADDITIONS)
    if isinstance(clip.tokenizer, PromptTokenizer):
        clip.tokenizer = clip.tokenizer.words
    (partial / PLAIN_MODEL).mkdir()
    # the figures, the classifier and the way to ask for classes are the whole model's
    plain = replace(saved, state={**saved.state, "classes": [], "classifier": None, "metrics": {}})
    write_folder(partial / PLAIN_MODEL, out / PLAIN_MODEL, plain, run)
    write_json(partial / EXPORT_FACTS, facts.to_json())
    again = read_export(partial).clip
    after = probe_whole(again, saved.classes, saved.templates)
    return same_features(before, after, SAME, "the export, read back, gives features that")


def describe_additions(saved: SavedModel, out: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines that load such a folder, and what to know about it."""
    additions = additions_of(saved.config.model)
    load = f'model, preprocess, tokenizer = clipft.load("{out}")'
    plain = f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{out / PLAIN_MODEL}")'
    notes = [f"{additions.words()} can't be merged: clipft.load gives the whole model"]
    if additions.image:
        notes.append(f"{out / PLAIN_MODEL} is the model without {_kinds(additions.image)} in its image tower")
    if saved.state["classifier"] is not None:
        notes.append(f"{CLASSIFIER} is model.classifier of clipft.load")
    if not (out / CLASS_EMBEDDINGS).is_file():
        return (load,), tuple(notes)
    embeddings = f'classes = safetensors.torch.load_file("{out / CLASS_EMBEDDINGS}")["{KEY}"]'
    if additions.image:
        notes.append(f"{CLASS_EMBEDDINGS} has the run's classes as the whole model's text tower knows them")
        return (load, embeddings), tuple(notes)
    notes.append(
        f"plain open_clip gives the run's zero-shot answers by the last four lines: {PLAIN_MODEL}/'s image tower is "
        f"the run's, {CLASS_EMBEDDINGS} what its text tower makes of the {len(saved.classes)} classes, whose names are "
        f"in {EXPORT_FACTS}"
    )
    logits = "logits = model.logit_scale.exp() * model.encode_image(images, normalize=True) @ classes.T"
    return (load, plain, "model.eval()", embeddings, logits), tuple(notes)


def _kinds(keys: dict[str, Any]) -> str:
    return " and ".join(_KINDS[key] for key in keys)

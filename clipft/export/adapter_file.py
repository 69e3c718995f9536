"""An adapter file: all that a run's model has and its base has not, put on that base again.

It is what a user gives as `--adapter`, and any run can be written so. An adapter, where the word stands alone in the
code, is something else: a small network in a tower's block (`model/adapters.py`), which a run has or has not.

A safetensors file: the tensors that differ from the base's or are new, and under `clipft` in its metadata what the run
was, the `model` section of its config, and the sha256 of the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.export.files import plain
from clipft.export.fingerprint import check, fingerprint
from clipft.export.read import FORMAT, Facts, fill_in
from clipft.model.additions import add_new, new_names
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.share import put_in_place, share
from clipft.model.tensor_file import write_tensors
from clipft.model.text_prompt import prompted
from clipft.model.towers import towers_of
from clipft.words import some

_METADATA = "clipft"
_CLASSIFIER = "classifier."


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """What an adapter file holds.

    Args:
        facts: what the run was.
        config: the `model` section of its config.
        base_sha256: of the base, over all its tensors.
        preprocess_cfg: the preprocessing that it was trained with.
        tensors: by their names in the run's model.
    """

    facts: Facts
    config: ModelConfig
    base_sha256: str
    preprocess_cfg: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def write(self, path: Path) -> None:
        """As `read_adapter_file` reads it."""
        words = {
            **self.facts.to_json(),
            "adapter": True,
            "base_sha256": self.base_sha256,
            "preprocess_cfg": self.preprocess_cfg,
            "config": self.config.model_dump(mode="json"),
        }
        write_tensors(self.tensors, path, {_METADATA: json.dumps(words, ensure_ascii=False)})


def is_adapter_file(path: Path) -> bool:
    """Whether a file is one of these."""
    try:
        with safe_open(path, "pt") as file:
            return _METADATA in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_adapter_file(path: Path) -> AdapterFile:
    """Read what `AdapterFile.write` wrote.

    Raises:
        InputError: it is not there, damaged, or another file.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; `clipft export RUN --adapter-only --out FILE` writes one")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is not a whole safetensors file ({error}); copy it again") from None
    if _METADATA not in metadata:
        raise InputError(
            f"{path}: is a safetensors file, but no adapter; `clipft export RUN --adapter-only --out FILE` writes one"
        )
    try:
        values = json.loads(metadata[_METADATA])
        if values["format"] != FORMAT:
            raise InputError(f"{path}: has format {values['format']}, and this clipft reads {FORMAT}; update clipft")
        facts = Facts.from_json(values)
        config = ModelConfig.model_validate(values["config"])
        return AdapterFile(facts, config, values["base_sha256"], values["preprocess_cfg"], tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not as clipft wrote it ({error!r}); export the run again") from None


def put_on(base: ClipModel, base_sha256: str, file: AdapterFile, path: Path) -> ClipModel:
    """The run's model again: a second model on the base's tensors, which stay as they are.

    Args:
        base: from `open_base`, in evaluation mode, on the CPU.
        base_sha256: `model_sha256` of its model.
        file: what to put on it.
        path: where it lies, for errors.

    Raises:
        InputError: it was tuned over another base, or prepares images otherwise, or does not answer as the run did.
    """
    facts, config = file.facts, file.config
    _refuse_another_base(base, base_sha256, file, path)
    model = share(base.model)
    own = base.model.state_dict()
    changed = {name: tensor for name, tensor in file.tensors.items() if name in own}
    if odd := [name for name, tensor in changed.items() if tensor.shape != own[name].shape]:
        raise InputError(f"{path}: has tensors of another shape than {base.base}: {some(odd, 5)}; export the run again")
    for name, tensor in changed.items():
        put_in_place(model, name, tensor)
    image, text = towers_of(model, image_dropout=config.image.dropout, text_dropout=config.text.dropout)
    add_new(model, image, text, config, 0, classes=facts.classes)
    names = new_names(image, text)
    if facts.classifier is not None:
        head = facts.classifier
        model.classifier = Classifier(head["num_classes"], head["width"], cosine=head["cosine"], bias=head["bias"])
        names += tuple(f"{_CLASSIFIER}{name}" for name in model.classifier.state_dict())
    fill_in(model, names, {n: t for n, t in file.tensors.items() if n not in changed}, str(path))
    model.eval()
    tokenizer = prompted(base.tokenizer, text, config.text.prompt, facts.classes)
    note = f"{path}: step {facts.step} of {facts.run}, over {base.base}"
    clip = replace(base, model=model, image=image, text=text, tokenizer=tokenizer, notes=(note,))
    check(path, facts.fingerprint, fingerprint(clip, facts.classes, facts.templates))
    tokenizer.know(facts.classes, facts.templates)
    return clip


def _refuse_another_base(base: ClipModel, base_sha256: str, file: AdapterFile, path: Path) -> None:
    facts = file.facts
    if base_sha256 != file.base_sha256:
        raise InputError(
            f"{path}: was tuned over {facts.base}, and {base.base} has other weights (sha256 {base_sha256[:12]}, not "
            f"{file.base_sha256[:12]}); name the base that it was tuned over"
        )
    here, there = plain(base.preprocess_cfg), file.preprocess_cfg
    if odd := [key for key in here if here[key] != there.get(key)]:
        raise InputError(
            f"{path}: was tuned over {facts.base} with images prepared otherwise than for {base.base}: {odd[0]} is "
            f"{there.get(odd[0])}, not {here[odd[0]]}; name the base as the run's config does"
        )

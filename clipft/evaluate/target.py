"""What a user points `evaluate` and `predict` at: a run, a checkpoint, a config, an exported or other model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import open_clip

from clipft.config.load import load_config
from clipft.config.schema import Config, ModelConfig
from clipft.errors import InputError
from clipft.export.adapter_file import put_on, read_adapter_file
from clipft.export.base import open_base
from clipft.export.read import Facts, is_export, read_export
from clipft.model.additions import base_config
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.hashes import model_sha256
from clipft.model.runfiles import Which
from clipft.model.saved import SavedModel, load_saved

DEFAULT_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True, eq=False)
class Target:
    """A model and what is known about its use.

    Args:
        name: as the user wrote it.
        tuned: whether it is the outcome of a run; a config stands for its base alone.
        clip: the model, on the CPU.
        classes: the run's class names, empty where there are none.
        templates: prompts for class names.
        class_names: folder or label name to the words for it.
        pooled: whether the classifier, if any, sees features before the projection.
        config: the run's config; None where the model comes without one.
        notes: what to say about how it was loaded.
        base: what it was tuned from, where that was loaded with it.
    """

    name: str
    tuned: bool
    clip: ClipModel
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    class_names: Mapping[str, str] = field(default_factory=dict)
    pooled: bool = False
    config: Config | None = None
    notes: tuple[str, ...] = ()
    base: ClipModel | None = None

    @property
    def classifier(self) -> Classifier | None:
        """The run's linear head, where it trained one."""
        classifier: Classifier | None = getattr(self.clip.model, "classifier", None)
        return classifier


def open_target(
    name: str, which: Which | None = None, *, need_data: bool = False, adapter: str | None = None
) -> Target:
    """Load what `name` stands for.

    Args:
        name: a run's folder, a checkpoint's, a config file, an exported model's folder, local-dir:DIR or hf-hub:NAME.
        which: a run's best or last checkpoint; None takes the best where there is one.
        need_data: whether a config must name data that is there.
        adapter: a file of `clipft export --adapter-only`, to be put on `name`, which is a base then: ARCHITECTURE:TAG
            too.

    Raises:
        InputError: there is no such thing, or the adapter is of another base.
    """
    if adapter is not None:
        if which is not None:
            raise InputError(f"--which: is for a run's own answers, and with --adapter {name} is a base; leave it out")
        return _of_adapter_file(name, Path(adapter).expanduser())
    if name.startswith(("local-dir:", "hf-hub:")):
        return _plain(name, name)
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _base_of_config(name, path, need_data)
    if not path.is_dir():
        if name in open_clip.list_models():
            raise InputError(
                f"{name}: is an architecture, which has no weights of its own; write a config.yaml with "
                f"model.name: {name} and model.pretrained, and give that"
            )
        found = "is a file" if path.exists() else "does not exist"
        raise InputError(
            f"{name}: {found}; expected a run, a checkpoint or an exported model (folders), a config.yaml, "
            "local-dir:PATH or hf-hub:NAME"
        )
    if is_export(path):
        return _exported(name, path)
    return target_of(name, load_saved(path, which))


def with_adapter(name: str, adapter: str | None) -> str:
    """What a base with an adapter on it is called."""
    return name if adapter is None else f"{name} with {adapter}"


def _plain(name: str, model: str) -> Target:
    clip = build(ModelConfig(name=model), seed=0)
    return Target(name, tuned=False, clip=clip, notes=clip.notes)


def _base_of_config(name: str, path: Path, need_data: bool) -> Target:
    loaded = load_config(path, need_data=need_data)
    with loaded.places():
        clip = build(base_config(loaded.config.model), loaded.config.run.seed)
    data = loaded.config.data
    return Target(
        name,
        tuned=False,
        clip=clip,
        templates=data.templates,
        class_names=data.class_names,
        config=loaded.config,
        notes=(*loaded.notes, *clip.notes),
    )


def _exported(name: str, path: Path) -> Target:
    export = read_export(path)
    if export.facts is None:
        return Target(name, tuned=False, clip=export.clip, notes=export.clip.notes)
    return _of_facts(name, export.clip, export.facts)


def _of_adapter_file(name: str, path: Path) -> Target:
    file = read_adapter_file(path)
    base = open_base(name)
    clip = put_on(base, model_sha256(base.model), file, path)
    return replace(_of_facts(with_adapter(name, str(path)), clip, file.facts), base=base)


def _of_facts(name: str, clip: ClipModel, facts: Facts) -> Target:
    return Target(
        name,
        tuned=True,
        clip=clip,
        classes=facts.classes,
        templates=facts.templates,
        class_names=facts.class_names,
        pooled=facts.features == "pooled",
        notes=clip.notes,
    )


def target_of(name: str, saved: SavedModel) -> Target:
    """A run's model as a target."""
    return Target(
        name,
        tuned=True,
        clip=saved.clip,
        classes=saved.classes,
        templates=saved.templates,
        class_names=saved.config.data.class_names,
        pooled=saved.state["features"] == "pooled",
        config=saved.config,
        notes=saved.clip.notes,
    )

"""Where a model's weights come from: what `model.pretrained` may say, told apart without reading or fetching any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from clipft.config.hints import nearest, one_of
from clipft.errors import InputError
from clipft.model.config_files import HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG
from clipft.model.runfiles import is_run
from clipft.model.weights import SUFFIXES

LOCAL_FILE = "use a local file: model.pretrained: path/to/open_clip_model.safetensors"
# in a folder or repository, the first that is there (open_clip's own order)
NAMES = (HF_SAFE_WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", HF_WEIGHTS_NAME, "open_clip_pytorch_model.pth")
_HUGGING_FACE_NAMES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class RandomWeights:
    """None: the model starts as it was drawn. `why` says how that came to be."""

    why: str


@dataclass(frozen=True)
class HubWeights:
    """One of `filenames` in a repository of the hub; `label` is the tag or repository as the user knows it."""

    label: str
    key: str
    repo: str
    filenames: tuple[str, ...]


@dataclass(frozen=True)
class FileWeights:
    """A local file; what stands beside it may say more about it where `look_beside`."""

    path: Path
    look_beside: bool = True


@dataclass(frozen=True)
class RunWeights:
    """A clipft run or checkpoint."""

    path: Path


@dataclass(frozen=True)
class EncoderWeights:
    """The own weights of the two encoders; False is a random one."""

    image: bool
    text: bool


PlainSource = RandomWeights | HubWeights | FileWeights | EncoderWeights
Source = PlainSource | RunWeights


def hub_weights(repo: str) -> HubWeights:
    """The weights file of a `hf-hub:` model."""
    return HubWeights(f"hf-hub:{repo}", f"model.name: hf-hub:{repo}", repo, (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))


def folder_weights(folder: Path, what: str = "model.name: local-dir:", *, look_beside: bool = False) -> PlainSource:
    """The weights file in a folder that open_clip can read, random weights where there is none."""
    for name in NAMES:
        if (folder / name).is_file():
            return FileWeights(folder / name, look_beside)
    found = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth"))
    if len(found) > 1:
        raise InputError(
            f"{what}{folder}: holds {len(found)} weights files ({', '.join(p.name for p in found)}) "
            f"and none is called {NAMES[0]}; name the one in model.pretrained"
        )
    if not found:
        return RandomWeights(f"{what}{folder} has no weights file such as {NAMES[0]}")
    return FileWeights(found[0], look_beside)


def pretrained(text: str, arch: str | None) -> Source:
    """What `model.pretrained` means; that a path is there is checked by `check_there`, later.

    Args:
        text: the value of `model.pretrained`.
        arch: the open_clip architecture, whose tags count; None where the model has another origin.

    Raises:
        InputError: neither a tag of the architecture nor a path, or weights of transformers in several files.
    """
    if arch is not None and (tag := open_clip.pretrained.get_pretrained_cfg(arch, text)):
        return _tag(text, tag)
    path = Path(text).expanduser()
    if (path / OPEN_CLIP_CONFIG).is_file():
        return folder_weights(path, "model.pretrained: ", look_beside=True)
    if not is_run(path) and (file := _hugging_face_file(path)):
        return FileWeights(file)
    if path.exists():
        return RunWeights(path) if path.is_dir() or is_run(path) else FileWeights(path)
    if path.suffix in SUFFIXES:
        return FileWeights(path)
    if "/" in text or path.is_absolute():
        return RunWeights(path)
    raise InputError(
        f"model.pretrained: {text} is neither a weights file, a clipft run nor a tag{_no_such_tag(text, arch)}"
    )


def tag_cfg(text: str | None, arch: str) -> dict[str, Any]:
    """What open_clip knows of a tag: its preprocessing and activation; empty where `text` is no tag."""
    cfg: dict[str, Any] = open_clip.pretrained.get_pretrained_cfg(arch, text) if text else {}
    return cfg


def check_there(source: Source) -> None:
    """InputError where a local file or run is not there."""
    if isinstance(source, FileWeights) and not source.path.is_file():
        raise InputError(f"model.pretrained: {source.path}: there is no such weights file")
    if isinstance(source, RunWeights) and not is_run(source.path):
        there = "is no run or checkpoint of clipft" if source.path.exists() else "is not there"
        expected = "expected a run such as runs/NAME, or a weights file"
        if source.path.is_dir() and (files := sorted(p for p in source.path.iterdir() if p.suffix in SUFFIXES)):
            expected = f"to take the weights in it, name the file: {one_of([str(file) for file in files])}"
        raise InputError(f"model.pretrained: {source.path} {there}; {expected}")


def _hugging_face_file(folder: Path) -> Path | None:
    """The weights file of a folder that transformers wrote, by its usual names.

    Raises:
        InputError: it is split into several.
    """
    if not (folder / HUGGING_FACE_CONFIG).is_file():
        return None
    for name in _HUGGING_FACE_NAMES:
        if (folder / name).is_file():
            return folder / name
        if (folder / f"{name}.index.json").is_file():
            raise InputError(
                f"model.pretrained: {folder}: its weights are split ({name}.index.json); write them as one file first: "
                "AutoModel.from_pretrained(FOLDER).save_pretrained(OUT, max_shard_size='100GB')"
            )
    return None


def _tag(text: str, cfg: dict[str, Any]) -> HubWeights:
    """open_clip writes a tag's file as ORG/NAME/FILE, or ORG/NAME/ for the usual names."""
    repo, _, filename = cfg["hf_hub"].rpartition("/")
    if not filename:
        filenames: tuple[str, ...] = (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    else:
        filenames = (str(Path(filename).with_suffix(".safetensors")), filename)
    return HubWeights(text, f"model.pretrained: {text}", repo, tuple(dict.fromkeys(filenames)))


def _no_such_tag(text: str, arch: str | None) -> str:
    if arch is None:
        return "; tags are for models that are named by their architecture"
    tags = open_clip.list_pretrained_tags_by_model(arch)
    base = arch.removesuffix("-quickgelu")
    if base != arch and open_clip.pretrained.get_pretrained_cfg(base, text):
        return f" of {arch}: {text} was trained without QuickGELU; write name: {base}"
    if not tags:
        return f" of {arch}, which has none; {LOCAL_FILE}"
    close = nearest(text, tags, count=2)
    hint = f"did you mean {one_of(close)}? " if close else ""
    return f" of {arch}; {hint}Its tags are {', '.join(tags)}"

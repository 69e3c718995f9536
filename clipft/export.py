"""A run's model as files that plain open_clip loads, and `clipft.load`, which also loads runs.

What is written is loaded back by open_clip itself and its features compared with the run's before the folder appears.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from clipft.errors import ClipftError, InputError
from clipft.exported import CLASSIFIER, FACTS, WEIGHTS, Facts, fingerprint, is_export, probe, read_export
from clipft.model import textencoder
from clipft.model.build import ClipModel
from clipft.model.recipe import OPEN_CLIP_CONFIG
from clipft.model.saved import SavedModel, Which, load_saved
from clipft.model.tokenizer import KNOWN_TEXT, Tokenizer

SAME = 1e-6
"""How far a normalised feature of the exported model may be from the run's."""

# What a Hugging Face tokenizer and the three supported text encoders may be made of; weights are in ours.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Args:
        path: the folder, or the file of a bare state dict.
        files: the names in it, with their sizes in bytes.
        difference: the largest difference between a normalised feature of the run and of the export.
        load: Python lines that load it.
        notes: what to know.
    """

    path: Path
    files: dict[str, int]
    difference: float
    load: tuple[str, ...]
    notes: tuple[str, ...]


def load(path: str | Path) -> tuple[nn.Module, Callable[[Image.Image], Tensor], Tokenizer]:
    """A run, a checkpoint or an exported model as `model, preprocess, tokenizer`, ready to encode.

    The model is open_clip's own, in evaluation mode; a run's linear head, where it trained one, is `model.classifier`.
    """
    folder = Path(path).expanduser()
    clip = read_export(folder).clip if is_export(folder) else load_saved(folder).clip
    return clip.model.eval(), clip.preprocess, clip.tokenizer


def export(
    run: str | Path,
    out: str | Path,
    *,
    which: Which | None = None,
    to: Literal["open_clip", "pt"] = "open_clip",
    force: bool = False,
) -> Written:
    """Write a run's model for use elsewhere.

    Args:
        run: a run or a checkpoint.
        out: the folder to write; for `pt` a folder or a file that ends in .pt.
        which: a run's best or last checkpoint.
        to: `open_clip` is a folder that open_clip loads by local-dir:, `pt` a bare state dict.
        force: replace an earlier export there.

    Raises:
        InputError: `run` is no run, or there is something at `out` already.
        ClipftError: the disk is full, or the export does not answer as the run does.
    """
    out = Path(out).expanduser()
    file = out if to == "pt" and out.suffix == ".pt" else None
    _refuse_to_overwrite(file or out, force)
    saved = load_saved(Path(run).expanduser(), which)
    saved.clip.model.eval()
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        difference = _write_pt(partial, saved.clip) if to == "pt" else _write_folder(partial, out, saved, str(run))
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        if file is not None:
            (partial / _PT).replace(file)
        else:
            _move(partial, out)
    except OSError as error:
        raise ClipftError(f"{out}: could not be written ({error}); nothing was left there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(out, sizes, difference, _load_lines(saved.clip, file or out, to), _notes(saved.clip, out, to))


_PT = "open_clip_model.pt"


def _refuse_to_overwrite(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = out.suffix == ".pt" if out.is_file() else is_export(out) or (out / _PT).is_file()
    if not ours:
        raise InputError(f"--out: {out} holds something that is no export; name another folder")
    if not force:
        raise InputError(f"--out: {out} holds an export already; name another folder, or add --force to replace it")


def _move(partial: Path, out: Path) -> None:
    """Put the finished folder in its place; an old one stays until then."""
    old = partial.with_name(f"{partial.name}.old")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The open_clip model's own tensors: without the classifier, which it has no place for."""
    tensors = {name: t.detach().cpu() for name, t in model.state_dict().items() if not name.startswith("classifier.")}
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


# --- a folder ------------------------------------------------------------------------------------


def _write_folder(partial: Path, out: Path, saved: SavedModel, run: str) -> float:
    """Write and check the folder; returns the largest difference."""
    clip = saved.clip
    save_file(_state_dict(clip.model), partial / WEIGHTS, metadata={"format": "pt"})
    config = {"model_cfg": _model_cfg(clip, out), "preprocess_cfg": clip.preprocess_cfg}
    _write_json(partial / OPEN_CLIP_CONFIG, config)
    _copy_text_encoder(clip, partial)
    settings = None
    if saved.state["classifier"] is not None:
        classifier = clip.model.classifier
        save_file({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}, partial / CLASSIFIER)
        classes, width = classifier.weight.shape
        settings = {**saved.state["classifier"], "num_classes": classes, "width": width}
    _write_json(partial / FACTS, _facts(saved, run, settings).to_json())
    text_cfg = {**config["model_cfg"]["text_cfg"]}
    if "hf_model_name" in text_cfg:
        text_cfg |= {"hf_model_name": str(partial.resolve()), "hf_model_pretrained": False}
    with _quiet():
        again = open_clip.create_model(f"local-dir:{partial}", text_cfg=text_cfg)
        tokenizer = open_clip.get_tokenizer(f"local-dir:{partial}")
    return _compare(clip, again, tokenizer)


def _model_cfg(clip: ClipModel, out: Path) -> dict[str, Any]:
    """The model's config; its Hugging Face names are the folder that it will lie in."""
    cfg: dict[str, Any] = json.loads(json.dumps(clip.model_cfg))
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if cfg["text_cfg"].get(name):
            cfg["text_cfg"][name] = str(out.resolve())
    return cfg


def _copy_text_encoder(clip: ClipModel, folder: Path) -> None:
    """The Hugging Face files that open_clip needs beside the weights: the encoder's config, the tokenizer's own."""
    text_cfg = clip.model_cfg["text_cfg"]
    if name := text_cfg.get("hf_model_name"):
        source = textencoder.find_folder(name, f"hf_model_name {name}")
        encoder = json.loads((source / textencoder.CONFIG).read_text(encoding="utf-8"))
        # transformers would build the tower in the type its own weights once had; ours are float32
        dtypes = {key: "float32" for key in ("dtype", "torch_dtype") if key in encoder}
        _write_json(folder / textencoder.CONFIG, encoder | dtypes)
    if name := text_cfg.get("hf_tokenizer_name"):
        source = textencoder.tokenizer_folder(name, f"hf_tokenizer_name {name}")
        for file in _TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / file)


def _facts(saved: SavedModel, run: str, classifier: dict[str, Any] | None) -> Facts:
    clip, state = saved.clip, saved.state
    return Facts(
        run=str(Path(run).expanduser().resolve()),
        step=saved.step,
        epoch=state["epoch"],
        model=clip.name,
        base=clip.base,
        classes=saved.classes,
        templates=saved.templates,
        class_names=saved.config.data.class_names,
        loss=state["loss"],
        features=state["features"],
        classifier=classifier,
        logit_scale=float(clip.model.logit_scale.detach().exp()),
        metrics=state["metrics"],
        fingerprint=fingerprint(clip.model, clip.tokenizer),
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- a bare state dict ---------------------------------------------------------------------------


def _write_pt(partial: Path, clip: ClipModel) -> float:
    """Write and check the file; returns the largest difference (0: the tensors are the same)."""
    tensors = _state_dict(clip.model)
    torch.save(tensors, partial / _PT)
    again = torch.load(partial / _PT, weights_only=True)
    if tensors.keys() != again.keys() or not all(torch.equal(again[name], tensor) for name, tensor in tensors.items()):
        raise ClipftError(f"{_PT}: does not read back as it was written; try another disk")
    return 0.0


# --- what to say ---------------------------------------------------------------------------------


def _compare(clip: ClipModel, again: nn.Module, tokenizer: Any) -> float:
    if not torch.equal(tokenizer([KNOWN_TEXT]), clip.tokenizer([KNOWN_TEXT])):
        raise ClipftError(
            f"open_clip {open_clip.__version__} reads the export's tokenizer otherwise; nothing was written"
        )
    if PreprocessCfg(**again.visual.preprocess_cfg) != PreprocessCfg(**clip.preprocess_cfg):
        raise ClipftError(f"open_clip {open_clip.__version__} prepares images otherwise; nothing was written")
    ours, theirs = probe(clip.model, clip.tokenizer), probe(again.eval(), clip.tokenizer)
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    if not difference <= SAME:
        raise ClipftError(
            f"open_clip {open_clip.__version__} loads the export, but its features differ from the run's by "
            f"{difference:.1g}, more than {SAME:g}: nothing was written"
        )
    return difference


def _registered(clip: ClipModel) -> bool:
    """Whether open_clip builds the same model from its name alone."""
    return clip.name in open_clip.list_models() and open_clip.get_model_config(clip.name) == clip.model_cfg


def _load_lines(clip: ClipModel, out: Path, to: str) -> tuple[str, ...]:
    if to == "pt":
        arch = clip.name if _registered(clip) else "ARCH"
        return (f'model = open_clip.create_model("{arch}", pretrained="{out if out.suffix else out / _PT}")',)
    return (
        f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{out}")',
        f'tokenizer = open_clip.get_tokenizer("local-dir:{out}")',
        f'model, preprocess, tokenizer = clipft.load("{out}")',
    )


def _notes(clip: ClipModel, out: Path, to: str) -> tuple[str, ...]:
    notes = []
    own = {name: list(v) if isinstance(v, tuple) else v for name, v in clip.preprocess_cfg.items() if name != "size"}
    default = {
        name: list(v) if isinstance(v, tuple) else v for name, v in vars(PreprocessCfg()).items() if name != "size"
    }
    if not _registered(clip):
        how = (
            "a bare state dict needs its config to be built: export it as a folder too"
            if to == "pt"
            else "load it by local-dir:"
        )
        notes.append(f"{clip.name} is none of open_clip's registered names; {how}")
    elif {**default, **own} != default:
        notes.append(
            f"create_model(\"{clip.name}\", pretrained=FILE) gets OpenAI's preprocessing, not this model's: "
            "take preprocess from the folder's local-dir: form"
        )
    if to != "pt" and clip.model_cfg["text_cfg"].get("hf_model_name"):
        notes.append(
            f"open_clip looks for the text encoder's config.json in {out.resolve()}; if you move the folder, write the "
            f"new place into text_cfg.hf_model_name of {OPEN_CLIP_CONFIG} (clipft.load finds it by itself)"
        )
    if hasattr(clip.model, "classifier"):
        notes.append(
            "a bare state dict leaves the classifier out: export it as a folder too"
            if to == "pt"
            else f"open_clip leaves {CLASSIFIER} aside; clipft.load gives it as model.classifier"
        )
    return tuple(notes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's log lines."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

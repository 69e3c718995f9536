"""A run's model as files that plain open_clip or transformers loads.

What is written is loaded back by the other library and its features compared with the run's before the folder appears.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.transform import PreprocessCfg

from clipft.errors import ClipftError, InputError
from clipft.export.additions import additions_of, describe_additions, refuse_elsewhere, write_with_additions
from clipft.export.files import STATE_DICT, plain, write_folder, write_state_dict
from clipft.export.hugging_face import describe_hugging_face, require_form, write_hugging_face
from clipft.export.merge import merge
from clipft.export.read import CLASSIFIER
from clipft.model.clip_model import ClipModel
from clipft.model.config_files import EXPORT_FACTS, LOCAL_DIR, OPEN_CLIP_CONFIG, TIMM_FOLDER
from clipft.model.families.timm_image import config_at_size
from clipft.model.recipe import Sizes, sizes_of
from clipft.model.runfiles import Which
from clipft.model.saved import SavedModel, load_saved


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Args:
        path: the folder, or the file of a bare state dict.
        files: the files in it, by their paths in it, with their sizes in bytes.
        checked: how it was read back, and what that showed.
        load: Python lines that load it.
        notes: what to know.
    """

    path: Path
    files: dict[str, int]
    checked: str
    load: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    run: str | Path,
    out: str | Path,
    *,
    which: Which | None = None,
    to: Literal["open_clip", "pt", "hf"] = "open_clip",
    force: bool = False,
) -> Written:
    """Write a run's model for use elsewhere.

    Args:
        run: a run or a checkpoint.
        out: the folder to write; for `pt` a folder or a file that ends in .pt.
        which: a run's best or last checkpoint.
        to: `open_clip` is a folder that open_clip loads by local-dir:, `pt` a bare state dict, `hf` a folder that
            transformers loads.
        force: replace an earlier export there.

    Raises:
        InputError: `run` is no run, there is something at `out` already, or transformers has no such model.
        ClipftError: the disk is full, or the export does not answer as the run does.

    LoRA is merged first, so that the weights are an ordinary model's. What can't be merged (adapters, prompt vectors)
    makes a folder for `clipft.load`, with an ordinary model in it; see `clipft.export.additions`.
    """
    out = Path(out).expanduser()
    refuse_to_overwrite(out, force)
    return export_model(load_saved(Path(run).expanduser(), which), str(run), out, to=to)


def export_model(saved: SavedModel, run: str, out: Path, *, to: Literal["open_clip", "pt", "hf"]) -> Written:
    """Write a model that is loaded already; an earlier export at `out` is replaced.

    Args:
        saved: the model, on the CPU; `state["mixed"]`, where it is there, says what it was mixed from.
        run: the run that it is of, as the user named it.
        out: as `export` takes it.
        to: likewise.

    Raises:
        InputError: transformers has no such model.
        ClipftError: the disk is full, or the export does not answer as the model does.
    """
    file = out if to == "pt" and out.suffix == ".pt" else None
    additions = additions_of(saved.config.model)
    refuse_elsewhere(additions, to)
    saved.clip.model.eval()
    merged = merge(saved.clip)
    form = require_form(saved.clip) if to == "hf" else None
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        if to == "pt":
            write_state_dict(partial, saved.clip)
            checked = "read back by torch: every tensor is the same"
        elif form is not None:
            checked = write_hugging_face(partial, out, saved, run, form)
        elif additions:
            difference = write_with_additions(partial, out, saved, run)
            checked = f"read back and compared: normalised features differ by at most {difference:.1e}"
        else:
            difference = write_folder(partial, out, saved, run)
            checked = f"loaded by open_clip and compared: normalised features differ by at most {difference:.1e}"
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        sizes = {path.relative_to(partial).as_posix(): path.stat().st_size for path in files}
        if file is not None:
            sizes = {file.name: sizes[STATE_DICT]}
            (partial / STATE_DICT).replace(file)
        else:
            _move(partial, out)
    except OSError as error:
        raise ClipftError(f"{out}: could not be written ({error}); nothing was left there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    checked = merged + checked
    if to == "pt":
        return Written(file or out, sizes, checked, *_describe_state_dict(saved.clip, file or out / STATE_DICT))
    if form is not None:
        return Written(out, sizes, checked, *describe_hugging_face(saved.clip, form, out))
    if additions:
        return Written(out, sizes, checked, *describe_additions(saved, out))
    return Written(out, sizes, checked, *_describe_folder(saved.clip, out))


def refuse_to_overwrite(out: Path, force: bool) -> None:
    """Refuse to write where something is that is no export, or an export without `force`.

    Raises:
        InputError: something is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = out.suffix == ".pt" if out.is_file() else (out / EXPORT_FACTS).is_file() or os.listdir(out) == [STATE_DICT]
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


def _by_name(clip: ClipModel) -> tuple[Sizes, str]:
    """The sizes to name where open_clip builds the same model from its name, else why it does not."""
    named = open_clip.get_model_config(clip.name) if clip.name in open_clip.list_models() else None
    sizes = sizes_of(clip.model_cfg)
    if named is None or _at(named, sizes) != _at(clip.model_cfg, sizes):
        return Sizes(), f"{clip.name} is none of open_clip's registered names"
    own = sizes_of(named)
    forced = Sizes(
        None if sizes.image_size == own.image_size else sizes.image_size,
        None if sizes.context_length == own.context_length else sizes.context_length,
    )
    timm_name = named["vision_cfg"].get("timm_model_name")
    if forced.image_size and timm_name and config_at_size(clip.model.visual, timm_name):
        return Sizes(), f"{_sized_name(clip, forced)}: open_clip resizes its image tower only after loading the weights"
    return forced, ""


def _at(cfg: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """A model config with its sizes replaced, and with what open_clip takes for those that it leaves out."""
    cfg = plain(cfg)
    cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["context_length"] = sizes.image_size, sizes.context_length
    return cfg


def _sized_name(clip: ClipModel, sizes: Sizes) -> str:
    image = f"{_edge(sizes.image_size)} pixels" if sizes.image_size else ""
    text = f"{sizes.context_length} tokens" if sizes.context_length else ""
    return f"{clip.name} at {' and '.join(filter(None, (image, text)))}"


def _edge(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _lines_by_name(clip: ClipModel, file: str, forced: Sizes) -> tuple[str, ...]:
    """What builds the model from its name and a file of weights; a tokenizer of its own where texts are cut elsewhere.

    Args:
        clip: the model.
        file: the file in Python, a name or a string in quotes.
        forced: the sizes that differ from the architecture's own.
    """
    image = f", force_image_size={_edge(forced.image_size)}" if forced.image_size else ""
    text = f", force_context_length={forced.context_length}" if forced.context_length else ""
    model = f'open_clip.create_model("{clip.name}", pretrained={file}{image}{text})'
    tokenizer = f'open_clip.get_tokenizer("{clip.name}", context_length={forced.context_length})'
    return (model, tokenizer) if text else (model,)


def _describe_folder(clip: ClipModel, out: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines that load a folder, and what to know about it."""
    lines = (
        f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{out}")',
        f'tokenizer = open_clip.get_tokenizer("local-dir:{out}")',
        f'model, preprocess, tokenizer = clipft.load("{out}")',
    )
    notes = []
    forced, why_not = _by_name(clip)
    if why_not:
        notes.append(f"{why_not}: it is loaded by local-dir:")
    else:
        if forced != Sizes():
            notes.append(f"{_sized_name(clip, forced)}: {', '.join(_lines_by_name(clip, 'FILE', forced))}")
        notes += _other_preprocessing(clip)
    if (out / TIMM_FOLDER).is_dir():
        notes.append(
            f"open_clip looks for the image tower's size in {(out / TIMM_FOLDER).resolve()}; if you move the folder, "
            f"write the new place into vision_cfg.timm_model_name of {OPEN_CLIP_CONFIG}, after {LOCAL_DIR} "
            "(clipft.load finds it by itself)"
        )
    if clip.model_cfg["text_cfg"].get("hf_model_name"):
        notes.append(
            f"open_clip looks for the text encoder's config.json in {out.resolve()}; if you move the folder, write the "
            f"new place into text_cfg.hf_model_name of {OPEN_CLIP_CONFIG} (clipft.load finds it by itself)"
        )
    if hasattr(clip.model, "classifier"):
        notes.append(f"open_clip leaves {CLASSIFIER} aside; clipft.load gives it as model.classifier")
    return lines, tuple(notes)


def _other_preprocessing(clip: ClipModel) -> list[str]:
    """A file of weights alone says nothing of mean, std and resizing: open_clip takes its defaults."""
    if plain(clip.preprocess_cfg) == plain(asdict(PreprocessCfg(size=clip.preprocess_cfg["size"]))):
        return []
    return [
        f"by create_model(\"{clip.name}\", pretrained=FILE) images get OpenAI's preprocessing, not this model's: "
        "take preprocess from the folder form, by local-dir:"
    ]


def _describe_state_dict(clip: ClipModel, file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines that load a bare state dict, and what it leaves out."""
    notes = []
    forced, why_not = _by_name(clip)
    if why_not:
        notes.append(f"{why_not}: building it needs the folder form too")
        lines: tuple[str, ...] = (f'model.load_state_dict(torch.load("{file}", weights_only=True))',)
    else:
        notes += _other_preprocessing(clip)
        by_name = _lines_by_name(clip, f'"{file}"', forced)
        lines = tuple(f"{what} = {line}" for what, line in zip(("model", "tokenizer"), by_name, strict=False))
    if hasattr(clip.model, "classifier"):
        notes.append("a bare state dict leaves the classifier out: the folder form has it")
    return lines, tuple(notes)

"""The files of an export, each written and then read back by open_clip and compared with the run's model."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from clipft.errors import ClipftError
from clipft.export.fingerprint import fingerprint, probe, same_features
from clipft.export.read import CLASSIFIER, WEIGHTS, Facts
from clipft.model import textencoder
from clipft.model.clip_model import ClipModel
from clipft.model.config_files import EXPORT_FACTS, LOCAL_DIR, OPEN_CLIP_CONFIG, TIMM_FOLDER
from clipft.model.families.timm_image import config_at_size
from clipft.model.saved import SavedModel
from clipft.model.tensor_file import write_tensors
from clipft.model.tokenizer import KNOWN_TEXT

STATE_DICT = "open_clip_model.pt"
SAME = 1e-6
"""How far a normalised feature of the exported model may be from the run's."""


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The open_clip model's own tensors: without the classifier, which it has no place for."""
    tensors = model.state_dict()
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if not name.startswith("classifier.")}


def write_folder(partial: Path, out: Path, saved: SavedModel, run: str) -> float:
    """Write and check a folder that open_clip reads by local-dir:.

    Args:
        partial: where to write.
        out: where it will lie in the end; the config names it.
        saved: the run's model, in evaluation mode.
        run: the run, as the user named it.

    Returns:
        The largest difference between a normalised feature of the run's model and of what open_clip loaded.

    Raises:
        ClipftError: open_clip does not load it, or as another model, tokenizer or preprocessing.
    """
    clip = saved.clip
    write_tensors(state_dict(clip.model), partial / WEIGHTS, {"format": "pt"})
    config = {"model_cfg": write_configs(clip, partial, out), "preprocess_cfg": clip.preprocess_cfg}
    vision_cfg = {**config["model_cfg"]["vision_cfg"]}
    if (partial / TIMM_FOLDER).is_dir():  # not yet where its config says
        vision_cfg |= {"timm_model_name": f"{LOCAL_DIR}{(partial / TIMM_FOLDER).resolve()}"}
    write_json(partial / OPEN_CLIP_CONFIG, config)
    _copy_text_encoder(clip, partial)
    write_json(partial / EXPORT_FACTS, facts_of(saved, run, write_classifier(partial, saved)).to_json())
    text_cfg = {**config["model_cfg"]["text_cfg"]}
    if "hf_model_name" in text_cfg:  # not yet where its config says
        text_cfg |= {"hf_model_name": str(partial.resolve()), "hf_model_pretrained": False}
    with _quiet():
        try:
            again = open_clip.create_model(f"local-dir:{partial}", text_cfg=text_cfg, vision_cfg=vision_cfg)
        except RuntimeError as error:  # tensors without a place, or of another shape
            reason = " ".join(str(error).split())
            raise ClipftError(
                f"open_clip {open_clip.__version__} does not load the export ({reason}); nothing was written"
            ) from error
        tokenizer = open_clip.get_tokenizer(f"local-dir:{partial}")
    return _compare(clip, again, tokenizer)


def write_configs(clip: ClipModel, partial: Path, out: Path) -> dict[str, Any]:
    """The model's config as open_clip has it, and beside it what timm needs to know of a network of another size.

    Args:
        clip: the model.
        partial: where to write.
        out: where that will lie in the end: the names of folders in the config are of there.
    """
    cfg = plain(clip.model_cfg)
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if cfg["text_cfg"].get(name):
            cfg["text_cfg"][name] = str(out.resolve())
    timm_name = cfg["vision_cfg"].get("timm_model_name")
    timm_config = config_at_size(clip.model.visual, timm_name) if timm_name else None
    if timm_config is not None:  # the size is not the one that its name says
        (partial / TIMM_FOLDER).mkdir()
        write_json(partial / TIMM_FOLDER / textencoder.CONFIG, timm_config)
        cfg["vision_cfg"]["timm_model_name"] = f"{LOCAL_DIR}{(out / TIMM_FOLDER).resolve()}"
    return cfg


def _copy_text_encoder(clip: ClipModel, folder: Path) -> None:
    """The Hugging Face files that open_clip needs beside the weights: the encoder's config, the tokenizer's own."""
    text_cfg = clip.model_cfg["text_cfg"]
    if name := text_cfg.get("hf_model_name"):
        source = textencoder.find_folder(name, f"hf_model_name {name}")
        encoder = json.loads((source / textencoder.CONFIG).read_text(encoding="utf-8"))
        # transformers would build the tower in the type its own weights once had; ours are float32
        dtypes = {key: "float32" for key in ("dtype", "torch_dtype") if key in encoder}
        write_json(folder / textencoder.CONFIG, encoder | dtypes)
    if name := text_cfg.get("hf_tokenizer_name"):
        source = textencoder.tokenizer_folder(name, f"hf_tokenizer_name {name}")
        for file in textencoder.TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / file)


def write_classifier(folder: Path, saved: SavedModel) -> dict[str, Any] | None:
    """The linear head where the run trained one; returns its settings."""
    settings = classifier_settings(saved)
    if settings is not None:
        write_tensors(saved.clip.model.get_submodule("classifier").state_dict(), folder / CLASSIFIER)
    return settings


def classifier_settings(saved: SavedModel) -> dict[str, Any] | None:
    """How the run's linear head is built; None where it trained none."""
    settings: dict[str, Any] | None = saved.state["classifier"]
    if settings is None:
        return None
    classes, width = saved.clip.model.get_parameter("classifier.weight").shape
    return {**settings, "num_classes": classes, "width": width}


def facts_of(saved: SavedModel, run: str, classifier: dict[str, Any] | None) -> Facts:
    """What clipft.json says of a run's model; `classifier` has the settings of the one that is written beside it."""
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
        logit_scale=float(clip.model.get_parameter("logit_scale").detach().exp()),
        metrics=state["metrics"],
        fingerprint=fingerprint(clip, saved.classes, saved.templates),
        mixed=state.get("mixed"),
    )


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: open_clip's settings are tuples in Python and lists in its files."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write it as a person reads it too."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_state_dict(partial: Path, clip: ClipModel) -> None:
    """Write the file and read it back.

    Raises:
        ClipftError: it holds something else then.
    """
    tensors = state_dict(clip.model)
    torch.save(tensors, partial / STATE_DICT)
    again = torch.load(partial / STATE_DICT, weights_only=True)
    if tensors.keys() != again.keys() or not all(torch.equal(again[name], tensor) for name, tensor in tensors.items()):
        raise ClipftError(f"{STATE_DICT}: does not read back as it was written; try another disk")


def _compare(clip: ClipModel, again: Any, tokenizer: Any) -> float:
    if not torch.equal(tokenizer([KNOWN_TEXT]), clip.tokenizer([KNOWN_TEXT])):
        raise ClipftError(
            f"open_clip {open_clip.__version__} reads the export's tokenizer otherwise; nothing was written"
        )
    if plain(again.visual.preprocess_cfg) != plain(clip.preprocess_cfg):
        raise ClipftError(f"open_clip {open_clip.__version__} prepares images otherwise; nothing was written")
    ours, theirs = probe(clip.model, clip.tokenizer), probe(again.eval(), clip.tokenizer)
    return same_features(ours, theirs, SAME, f"open_clip {open_clip.__version__} loads the export, but its features")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's log lines."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

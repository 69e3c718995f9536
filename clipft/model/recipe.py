"""What to build for a `model:` section: architecture, preprocessing, where weights and tokenizer are."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from clipft.config.hints import nearest, one_of
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model import sources, textencoder
from clipft.model.activation import check_tag
from clipft.model.config_files import (
    EXPORT_FACTS,
    HUGGING_FACE_CONFIG,
    LOCAL_DIR,
    OPEN_CLIP_CONFIG,
    PLAIN_MODEL,
    TIMM_FOLDER,
    config_path,
    find_folders,
    read_config_file,
)
from clipft.model.encoders import check_context, hf_name, two_encoder_config
from clipft.model.hub import fetch, fetch_beside
from clipft.model.runfiles import is_run, peek_state

HF_HUB = "hf-hub:"


@dataclass(frozen=True)
class Sizes:
    """The image size (height, width), context length and shared width to change to; None leaves the architecture's
    own.
    """

    image_size: tuple[int, int] | None = None
    context_length: int | None = None
    embed_dim: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a model, its weights unread.

    Args:
        name: what the user called it.
        model_cfg: open_clip's model config, as an export writes it.
        preprocess_cfg: open_clip's preprocessing; the image size in it comes from the built model.
        preprocess_from: whose preprocessing that is, in a few words.
        source: where the weights are.
        text_folder: the folder of a Hugging Face text encoder's config.json; None for a native text tower.
        sizes: what the model becomes once it has its weights.
        base_sizes: those that the weights are known to have, where they are a run's.
        notes: lines to say.
    """

    name: str
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    preprocess_from: str
    source: sources.Source
    text_folder: Path | None
    sizes: Sizes = Sizes()
    base_sizes: Sizes = Sizes()
    notes: tuple[str, ...] = ()

    @property
    def sized_cfg(self) -> dict[str, Any]:
        """The model config at the sizes that the model has in the end: what its tokenizer and an export go by."""
        cfg = deepcopy(self.model_cfg)
        if self.sizes.image_size is not None:
            height, width = self.sizes.image_size
            cfg["vision_cfg"]["image_size"] = height if height == width else [height, width]
        if self.sizes.context_length is not None:
            cfg["text_cfg"]["context_length"] = self.sizes.context_length
        if self.sizes.embed_dim is not None:
            cfg["embed_dim"] = self.sizes.embed_dim
        return cfg

    @property
    def tokenizer_name(self) -> str | None:
        """The folder or hub name of a Hugging Face tokenizer; None for open_clip's own."""
        return self.model_cfg["text_cfg"].get("hf_tokenizer_name") or None


def recipe_of(config: ModelConfig) -> Recipe:
    """The recipe for a `model:` section.

    Raises:
        InputError: an unknown name or tag, encoders that do not meet, a setting that does not fit the model.
    """
    if config.name is None:
        recipe = _two_encoders(config)
    elif config.name.startswith(LOCAL_DIR):
        recipe = _local_dir(config, Path(config.name.removeprefix(LOCAL_DIR)).expanduser())
    elif config.name.startswith(HF_HUB):
        recipe = _hub(config, config.name.removeprefix(HF_HUB))
    else:
        recipe = _named(config, config.name.replace("/", "-"))
    return _sized(recipe, config)


def sizes_of(model_cfg: dict[str, Any]) -> Sizes:
    """The sizes that a model config names."""
    size = model_cfg["vision_cfg"].get("image_size", open_clip.CLIPVisionCfg.image_size)
    length = model_cfg["text_cfg"].get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    return Sizes((size, size) if isinstance(size, int) else (size[0], size[1]), length, model_cfg["embed_dim"])


def _named(config: ModelConfig, arch: str) -> Recipe:
    if arch not in open_clip.list_models():
        close = nearest(arch, open_clip.list_models(), count=4)
        hint = f"did you mean {one_of(close)}? " if close else ""
        folder = Path(config.name or "").expanduser()
        if (folder / OPEN_CLIP_CONFIG).is_file():
            hint = f"the folder is named by {LOCAL_DIR}{config.name}. "
        elif folder.is_dir():
            hint = f"{LOCAL_DIR}PATH is for a folder with an {OPEN_CLIP_CONFIG}, model.pretrained for a run. "
        raise InputError(f"model.name: open_clip has no architecture {config.name}; {hint}all there are: clipft models")
    model_cfg = open_clip.get_model_config(arch)
    tag = sources.tag_cfg(config.pretrained, arch)
    if tag:
        check_tag(arch, str(config.pretrained), tag)
    source: sources.Source = sources.RandomWeights("model.pretrained is null")
    if config.pretrained is not None:
        source = sources.pretrained(config.pretrained, arch)
    return Recipe(
        name=arch,
        model_cfg=model_cfg,
        preprocess_cfg=merge_preprocess_dict(asdict(PreprocessCfg()), tag),
        preprocess_from=f"of {config.pretrained}" if tag else "OpenAI's",
        source=source,
        text_folder=_text_folder(model_cfg, f"model.name: {arch}"),
    )


def _local_dir(config: ModelConfig, folder: Path) -> Recipe:
    what = f"model.name: {config.name}"
    path = config_path(folder)
    if path is None:
        there = f"has no {OPEN_CLIP_CONFIG}" if folder.is_dir() else "is not there"
        expected = "expected a folder that open_clip or `clipft export` wrote"
        if (folder / PLAIN_MODEL / OPEN_CLIP_CONFIG).is_file():
            expected = (
                "it is an export with prompt vectors or adapters; the model without them is named by "
                f"{LOCAL_DIR}{folder / PLAIN_MODEL}"
            )
        if (folder / HUGGING_FACE_CONFIG).is_file():
            expected = f"of a folder that transformers wrote, write name: ARCHITECTURE and pretrained: {folder}"
        raise InputError(f"{what}: {folder} {there}; {expected}")
    model_cfg, preprocess_cfg = read_config_file(path, what)
    model_cfg, notes = find_folders(model_cfg, folder)
    source = (
        sources.folder_weights(folder) if config.pretrained is None else sources.pretrained(config.pretrained, None)
    )
    return Recipe(
        name=f"{LOCAL_DIR}{folder}",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        preprocess_from=f"of {path}",
        source=source,
        text_folder=_text_folder(model_cfg, what),
        notes=notes,
    )


def _hub(config: ModelConfig, repo: str) -> Recipe:
    what = f"model.name: {config.name}"
    instead = f"fetch the repository elsewhere, copy it here and write name: {LOCAL_DIR}PATH"
    path = fetch(repo, [OPEN_CLIP_CONFIG], what=what, instead=instead)
    model_cfg, preprocess_cfg = read_config_file(path, what)
    notes: tuple[str, ...] = ()
    texts = [str(model_cfg["text_cfg"].get(key) or "") for key in ("hf_model_name", "hf_tokenizer_name")]
    timm_name = str(model_cfg["vision_cfg"].get("timm_model_name", ""))
    if timm_name.startswith(LOCAL_DIR) or any(Path(name).is_absolute() for name in texts):
        # an export that was uploaded: the folders are of where it was written, and their files in the repository
        config_files = (HUGGING_FACE_CONFIG, f"{TIMM_FOLDER}/{textencoder.CONFIG}")
        fetch_beside(path, repo, (EXPORT_FACTS, *config_files, *textencoder.TOKENIZER_FILES))
        model_cfg, notes = find_folders(model_cfg, path.parent)
    source: sources.Source = sources.hub_weights(repo)
    if config.pretrained is not None:
        source = sources.pretrained(config.pretrained, None)
    return Recipe(
        name=f"{HF_HUB}{repo}",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        preprocess_from=f"of {HF_HUB}{repo}",
        source=source,
        text_folder=_text_folder(model_cfg, what),
        notes=notes,
    )


def _two_encoders(config: ModelConfig) -> Recipe:
    text_folder = textencoder.find_folder(hf_name(config), f"model.text.encoder: {config.text.encoder}")
    model_cfg, preprocess_cfg = two_encoder_config(config, text_folder)
    source: sources.Source = sources.EncoderWeights(image=not config.image.random, text=not config.text.random)
    if config.pretrained is not None:
        source = sources.pretrained(config.pretrained, None)
    elif config.image.random and config.text.random:
        source = sources.RandomWeights("model.image.random and model.text.random are true")
    return Recipe(
        name=f"{config.image.encoder} + {config.text.encoder}",
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        preprocess_from=f"of {config.image.encoder}",
        source=source,
        text_folder=text_folder,
    )


def _sized(recipe: Recipe, config: ModelConfig) -> Recipe:
    """The recipe with the sizes of the config, or else of the run whose weights it starts from."""
    source, own = recipe.source, Sizes()
    if isinstance(source, sources.RunWeights) and is_run(source.path):
        own = _sizes_of_run(peek_state(source.path)["model"], recipe, config)
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    context_length, embed_dim = config.context_length or own.context_length, config.embed_dim or own.embed_dim
    wanted = Sizes(size or own.image_size, context_length, embed_dim)
    if wanted.context_length is not None and recipe.text_folder is not None:
        encoder = textencoder.read_config(recipe.text_folder, "model.name")
        check_context(wanted.context_length, encoder, f"model.name: {recipe.name}")
    notes = (*recipe.notes, *_hugging_face_context(recipe, config), *_width_notes(recipe, config, own))
    return replace(recipe, sizes=wanted, base_sizes=own, notes=notes)


def _sizes_of_run(saved: dict[str, Any], recipe: Recipe, config: ModelConfig) -> Sizes:
    """The sizes of a run's model; its width only where it is the model of the recipe or the width that is asked for.

    Another model's weights do not fit, and are to be refused for what they are.
    """
    sizes = sizes_of(saved["model_cfg"])
    fits = saved["name"] == recipe.name or sizes.embed_dim == config.embed_dim
    return sizes if fits else replace(sizes, embed_dim=None)


def _width_notes(recipe: Recipe, config: ModelConfig, own: Sizes) -> tuple[str, ...]:
    """A line where a named model has the width that is asked for already, or a run has another that nobody wrote."""
    built = recipe.model_cfg["embed_dim"]
    if config.embed_dim is None and own.embed_dim not in (None, built):
        return (f"model.embed_dim: {own.embed_dim} in place of {built}, as model.pretrained has it",)
    if config.name is None or config.embed_dim != (own.embed_dim or built):
        return ()
    return (
        f"model.embed_dim: {config.embed_dim} is this model's own width, so its projections stay; projection: reset "
        "draws new ones",
    )


def _hugging_face_context(recipe: Recipe, config: ModelConfig) -> tuple[str, ...]:
    """A Hugging Face encoder has positions to spare: nothing is resized, captions are cut elsewhere."""
    own = sizes_of(recipe.model_cfg).context_length
    if recipe.text_folder is None or config.context_length in (None, own):
        return ()
    return (f"model.context_length: captions are cut at {config.context_length} tokens, in place of {own}",)


def _text_folder(model_cfg: dict[str, Any], what: str) -> Path | None:
    name = model_cfg["text_cfg"].get("hf_model_name")
    if not name:
        return None
    folder = textencoder.find_folder(name, f"{what}: hf_model_name {name}")
    textencoder.read_config(folder, what)
    return folder

"""From a recipe to an open_clip model without weights, and to its tokenizer."""

from __future__ import annotations

from copy import deepcopy

import open_clip
import torch
from torch import nn

from clipft.errors import InputError
from clipft.model import textencoder
from clipft.model.recipe import Recipe
from clipft.model.tokenizer import KNOWN_TEXT, Tokenizer, hf_tokenizer, native_tokenizer


def construct(recipe: Recipe) -> nn.Module:
    """The model as `open_clip.create_model` would make it, without its downloads and logging; in evaluation mode."""
    cfg = deepcopy(recipe.model_cfg)
    if recipe.text_folder is not None:
        cfg["text_cfg"] |= {"hf_model_name": str(recipe.text_folder), "hf_model_pretrained": False}
    if cfg["vision_cfg"].get("timm_model_name"):
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    custom = cfg.pop("custom_text", False) or recipe.text_folder is not None
    kind = open_clip.CoCa if "multimodal_cfg" in cfg else open_clip.CustomTextCLIP
    try:
        model: nn.Module = kind(**cfg) if custom else open_clip.CLIP(**cfg)
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        # an architecture of open_clip's own that does not build is no mistake of the user's
        if recipe.name in open_clip.list_models():
            raise
        raise InputError(f"model.name: {recipe.name}: open_clip cannot build its config: {error!r}") from error
    # a Hugging Face config in half precision would make a half-precision tower
    return model.float().eval()


def draw(recipe: Recipe, seed: int) -> nn.Module:
    """The model with random weights that depend on the seed alone; torch's own generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' generators too
        model = construct(recipe)
        if isinstance(model, open_clip.CoCa):
            # open_clip 3.3 leaves it as the memory happened to be; so its own, uncalled init_parameters would draw it
            projection = model.text_decoder.text_projection
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
        return model


def make_tokenizer(recipe: Recipe) -> Tokenizer:
    """The tokenizer that the model's config names."""
    text_cfg = recipe.sized_cfg["text_cfg"]
    if recipe.tokenizer_name is None:
        return native_tokenizer(text_cfg)
    what = f"{recipe.name}: hf_tokenizer_name {recipe.tokenizer_name}"
    folder = textencoder.tokenizer_folder(recipe.tokenizer_name, what)
    encoder_config = None if recipe.text_folder is None else textencoder.read_config(recipe.text_folder, what)
    tokenizer = hf_tokenizer(folder, text_cfg, encoder_config, what)
    known = int(tokenizer([KNOWN_TEXT]).max())
    if encoder_config is None and known >= text_cfg["vocab_size"]:
        raise InputError(
            f"{what}: the tokenizer in {folder} gives token {known} for a known text, but the model's config has "
            f"vocab_size {text_cfg['vocab_size']}; take tokenizer and model from one source"
        )
    return tokenizer

"""A model with weights and all that goes with it: towers, tokenizer, preprocessing, and where it is from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from clipft.model.alter import Altered
from clipft.model.fill import Filled, is_drawn
from clipft.model.lora import scale_lora
from clipft.model.prompt_layout import PromptTokenizer
from clipft.model.recipe import Recipe
from clipft.model.tokenizer import Tokenizer
from clipft.model.tower import Tower


@dataclass
class ClipModel:
    """A model with weights, and what turns images and texts into its inputs.

    Args:
        name: what the user called it.
        model: open_clip's CLIP or CustomTextCLIP in float32, on the CPU until moved, in evaluation mode.
        image: its image tower.
        text: its text tower.
        model_cfg: the model half of an open_clip_config.json.
        preprocess_cfg: the preprocessing half.
        preprocess: an image to a tensor (3, H, W), as open_clip evaluates.
        tokenizer: texts to tokens.
        base: one phrase for where the weights are from.
        random: whether any of the base's weights are drawn, so that no file can bring them back.
        resized: parameters that were resampled from the base's, or drawn in their place.
        notes: lines to say.
    """

    name: str
    model: nn.Module
    image: Tower
    text: Tower
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Tokenizer
    base: str
    random: bool
    resized: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of what cosines are multiplied by."""
        assert isinstance(self.model.logit_scale, nn.Parameter)
        return self.model.logit_scale

    @property
    def scale(self) -> float:
        """What cosines are multiplied by: exp(logit_scale)."""
        return float(self.logit_scale.detach().exp())

    @contextmanager
    def without_prompts(self) -> Iterator[None]:
        """Within, texts and images come without prompt vectors, as the base knows them."""
        kept = self.tokenizer, self.image.prompt, self.text.prompt
        if isinstance(self.tokenizer, PromptTokenizer):
            self.tokenizer = self.tokenizer.words
        self.image.prompt = self.text.prompt = None
        try:
            yield
        finally:
            self.tokenizer, self.image.prompt, self.text.prompt = kept

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Within, the model goes its base's way: past prompt vectors, feature adapters and LoRA, to the bit.

        Adapters stay, which begin as the identity. The values of the weights are those of now.
        """
        towers = (self.image, self.text)
        kept = [tower.feature_adapter for tower in towers]
        for tower in towers:
            tower.feature_adapter = None
        scale_lora(self.model, 0.0)
        try:
            with self.without_prompts():
                yield
        finally:
            scale_lora(self.model, 1.0)
            for tower, adapter in zip(towers, kept, strict=True):
                tower.feature_adapter = adapter


def join(
    recipe: Recipe,
    model: nn.Module,
    altered: Altered,
    tokenizer: Tokenizer,
    preprocess_cfg: dict[str, Any],
    filled: Filled,
) -> ClipModel:
    """The parts as one; the image size is the model's own, as in open_clip."""
    visual: Any = model.visual
    preprocess_cfg = {**preprocess_cfg, "size": visual.image_size}
    set_model_preprocess_cfg(model, preprocess_cfg)
    return ClipModel(
        name=recipe.name,
        model=model,
        image=altered.image,
        text=altered.text,
        model_cfg=recipe.sized_cfg,
        preprocess_cfg=preprocess_cfg,
        preprocess=image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False),
        tokenizer=tokenizer,
        base=filled.base,
        random=is_drawn(recipe),
        resized=altered.resized,
        notes=(*recipe.notes, *filled.notes),
    )

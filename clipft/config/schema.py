"""What a user may write: one class a section, one sentence a field; here the model, and all sections together.

Sources of the defaults stand beside them; titles: CLIP (Radford et al., 2021), CLIPFit (Vision-Language Model
Fine-Tuning via Simple Parameter-Efficient Modification, EMNLP 2024), BitFit (Simple Parameter-efficient Fine-tuning for
Transformer-based Masked Language-models, ACL 2022), FT-CLIP (CLIP Itself is a Strong Fine-tuner, 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from clipft.config.additions_schema import (
    AdapterConfig,
    FeatureAdapterConfig,
    ImagePromptConfig,
    LoraConfig,
    TextPromptConfig,
)
from clipft.config.checkpoint_schema import CheckpointConfig
from clipft.config.data_schema import DataConfig
from clipft.config.evaluate_schema import EvaluateConfig
from clipft.config.loss_schema import LossConfig
from clipft.config.optim_schema import OptimConfig
from clipft.config.stage_schema import StageConfig, StageTower
from clipft.config.strategy_schema import Strategies
from clipft.config.train_schema import TrainConfig
from clipft.config.values import Kinds, Layers, Pattern, PositiveFloat, Rate, Section, refuse

ImageSize = Annotated[int, Field(ge=1)] | Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)]

FREEZE_KEYS = ("freeze_pattern", "freeze_layers", "freeze_backbone")
"""What of a backbone is frozen; of those that one level sets the first wins."""
FREEZES_ALL: Mapping[str, object] = {"freeze_pattern": "all", "freeze_layers": -1, "freeze_backbone": True}
"""The value of each that freezes a whole backbone."""


class LogitScaleConfig(Section):
    """What multiplies the cosines before the loss."""

    train: bool = True
    """Whether `logit_scale` trains; `logit_bias` follows it."""
    init: PositiveFloat | None = None
    """The scale to start from, as exp(logit_scale); null keeps the weights' own (CLIP: from 1/0.07 to 100)."""
    min: PositiveFloat = 1.0
    """The scale is held above this after each step, as exp(logit_scale); ours: at 1 cosines say almost nothing."""
    max: PositiveFloat = 100.0
    """The scale is held below this after each step, as exp(logit_scale) (100: CLIP, section 2.5)."""
    lr: Rate | None = None
    """Its learning rate: a number or a factor of optim.lr; null takes optim.lr_heads."""

    @model_validator(mode="after")
    def _ordered(self) -> LogitScaleConfig:
        if self.min > self.max:
            raise ValueError(f"min: {self.min:g} is above max: {self.max:g}")
        if self.init is not None and not self.min <= self.init <= self.max:
            raise ValueError(f"init: {self.init:g} is not between min: {self.min:g} and max: {self.max:g}")
        return self


class TowerConfig(Section):
    """What the image and the text tower have in common."""

    encoder: str | None = None
    """Another encoder for this tower, with `model.name: null`."""
    random: bool = False
    """With `encoder`: start from random weights, not from the encoder's own pretrained ones."""
    freeze_pattern: Pattern | None = None
    """A regular expression: freezes the backbone parameters whose name it matches; the word `all`
    freezes the backbone. Wins over freeze_layers and freeze_backbone."""
    freeze_layers: Layers | None = None
    """Freezes the embeddings and the first N blocks; 0 freezes nothing, -1 the whole backbone; `depth - 2` all blocks
    but the last two. Wins over freeze_backbone."""
    freeze_backbone: bool | None = None
    """Freezes the whole backbone (true) or nothing (false)."""
    train_only: Kinds | None = None
    """Of what the freeze keys leave training in the backbone, only these: norms (weights and biases of normalisation
    layers: CLIPFit), biases (all there are: BitFit), or both; null has all of it."""
    norm: Literal["train", "freeze"] = "train"
    """Whether norm and pooling train where the freeze keys leave them training."""
    projection: Literal["train", "freeze", "reset"] = "train"
    """Whether the projection into the shared space trains; the three freeze keys never touch it. reset draws fresh
    weights of the same width, which train."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the pooled feature before the projection, in training only."""
    lr: Rate | None = None
    """Learning rate of this backbone: a number or a factor of optim.lr such as x0.5; null takes optim.lr."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each block's rate is this share of the next one's, the embeddings' last (FT-CLIP: 0.6 to 0.65)."""
    lora: LoraConfig | None = None
    """Low-rank matrices beside the backbone's own; null has none."""
    adapter: AdapterConfig | None = None
    """Small networks at the end of the blocks' branches; null has none."""
    feature_adapter: FeatureAdapterConfig | None = None
    """A small network on the tower's output; null has none."""

    @property
    def new(self) -> tuple[str, ...]:
        """The keys of the new parameters that the tower gets."""
        keys = ("prompt", "lora", "adapter", "feature_adapter")
        return tuple(key for key in keys if getattr(self, key, None) is not None)

    @property
    def stopped_by(self) -> str | None:
        """The freeze key that lets nothing of the backbone train; None where there is none."""
        key = next((key for key in FREEZE_KEYS if getattr(self, key) is not None), "freeze_backbone")
        return key if getattr(self, key) == FREEZES_ALL[key] else None

    @property
    def stands_still(self) -> bool:
        """Whether these keys let nothing of the tower train."""
        return self.stopped_by is not None and self.projection == "freeze" and not self.new


class ImageTowerConfig(TowerConfig):
    """The image tower: backbone and projection."""

    encoder: Annotated[str, Field(pattern=r"^timm:.+", examples=["timm:NAME"])] | None = None
    """Another image encoder: timm:NAME, with `model.name: null` and a text encoder beside it."""
    prompt: ImagePromptConfig | None = None
    """Learnt vectors among the patches; null has none."""


class TextTowerConfig(TowerConfig):
    """The text tower: backbone and projection."""

    encoder: Annotated[str, Field(pattern=r"^hf:.+", examples=["hf:NAME"])] | None = None
    """Another text encoder: hf:FOLDER_OR_NAME, with `model.name: null` and an image encoder beside it."""
    pooling: Literal["mean", "cls", "pooler"] | None = None
    """How an `hf:` encoder's tokens become one feature: their mean (default), the first token, or BERT's pooler."""
    prompt: TextPromptConfig | None = None
    """Learnt vectors among the words; null has none."""


class ModelConfig(Section):
    """The model to start from, and what of it trains."""

    name: str | None = None
    """An open_clip architecture (ViT-B-32), hf-hub:ORG/NAME, local-dir:PATH, or null with two encoders."""
    pretrained: str | None = None
    """The weights: an open_clip tag, a .safetensors or .pt file (open_clip's, or transformers' of CLIP or SigLIP, or
    its folder), a clipft run or checkpoint; null is random weights, or those of a hf-hub:, local-dir: or encoder."""
    image_size: ImageSize | None = None
    """Pixels a side, or [height, width]; learnt positions are resampled. null keeps the model's own."""
    context_length: Annotated[int, Field(ge=4)] | None = None
    """Tokens a caption may have; learnt positions are cut or stretched. null keeps the model's own (77 for two
    encoders)."""
    embed_dim: Annotated[int, Field(ge=1)] | None = None
    """Width of the shared space: where it is not the model's own, fresh projections of both towers take the place of
    the old. null keeps the model's own; for two encoders it needs those of equal width and adds no projection."""
    logit_scale: LogitScaleConfig = LogitScaleConfig()
    image: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()

    @model_validator(mode="after")
    def _named_or_two_encoders(self) -> ModelConfig:
        refuse(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[str]:
        towers: dict[str, TowerConfig] = {"image": self.image, "text": self.text}
        given = [tower for tower, section in towers.items() if section.encoder]
        if self.name is None and len(given) < 2:
            yield (
                "name: expected an open_clip architecture such as ViT-B-32, "
                "or null with both image.encoder and text.encoder"
            )
        if self.name is not None and given:
            yield f"{given[0]}.encoder: stands beside name: {self.name}; two encoders need name: null"
        if self.text.pooling is not None and self.text.encoder is None:
            yield "text.pooling: is for text.encoder: hf:...; a named model has its own pooling"
        for tower, section in towers.items():
            if section.random and section.encoder is None:
                yield f"{tower}.random: is for {tower}.encoder; for a named model write pretrained: null"


class RunConfig(Section):
    """Where the run goes and what its chance follows from."""

    dir: str | None = None
    """The run's folder; null is runs/NAME of the config file."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Order, augmentation, dropout and new weights follow from it."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder too (needs the tensorboard package)."""


class Config(Section):
    """One fine-tuning run."""

    strategy: Strategies = ()
    """Defaults for the keys below, by name: full, freeze_image, freeze_text, heads, last_layers, prompt, lora, adapter,
    differential_lr, logit_scale, linear_probe; several in a list. Keys that are written win."""
    model: ModelConfig
    data: DataConfig
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    run: RunConfig = RunConfig()
    stages: Annotated[tuple[StageConfig, ...], Field(strict=False)] = ()
    """Spans of epochs one after the other, each with its own plan; none is one stage of train.epochs."""

    @model_validator(mode="after")
    def _keys_agree(self) -> Config:
        refuse(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[str]:
        stop, best, val = self.train.early_stop, self.evaluate.best, self.data.val
        if stop is not None and stop.metric is None and best is None:
            yield "train.early_stop.metric: name the metric to watch here or in evaluate.best"
        if stop is not None and val is None:
            yield "train.early_stop: watches data.val, which is null"
        if best is not None and val is None:
            yield "evaluate.best: is measured on data.val, which is null"
        if self.evaluate.keep is not None and val is None:
            yield "evaluate.keep: is measured beside data.val, which is null"
        if self.evaluate.novel_classes is not None and val is None:
            yield "evaluate.novel_classes: are measured on data.val, which is null"
        losses = [self.loss, *(stage.loss for stage in self.stages if stage.loss is not None)]
        if self.evaluate.novel_classes is not None and self.model.text.prompt and self.model.text.prompt.class_specific:
            yield "evaluate.novel_classes: have no vectors under model.text.prompt.class_specific; share them"
        if self.evaluate.novel_classes is not None and any(loss.type == "classifier" for loss in losses):
            yield "evaluate.novel_classes: a classifier has no output for classes that it was not trained on"
        epochs = sum(stage.epochs for stage in self.stages)
        if self.stages and "epochs" in self.train.model_fields_set and self.train.epochs != epochs:
            found = self.train.epochs
            yield f"train.epochs: {found}, but the stages have {epochs} together; leave it out or write {epochs}"
        if self.loss.type in ("contrastive", "siglip") and self.train.batch_size < 2:
            yield f"train.batch_size: a {self.loss.type} loss needs at least 2 rows a batch: one pair has no negatives"
        for key in self._idle_in_text():
            yield (
                f"model.text.{key}: stands beside loss.type: classifier, which looks at no text, so it would not "
                f"train; write loss.type: zero_shot, or {key} under model.image"
            )

    def _idle_in_text(self) -> tuple[str, ...]:
        """New parameters of the text tower that no stage's loss sees, and that were not asked for beside others.

        `strategy: lora` means both towers unless it is told otherwise; vectors among words are always meant.
        """
        losses = [stage.loss or self.loss for stage in self.stages] or [self.loss]
        if any(loss.type != "classifier" for loss in losses):
            return ()
        image_moves = not self.model.image.stands_still or any(
            stage.model.image != StageTower() for stage in self.stages
        )
        return tuple(key for key in self.model.text.new if key == "prompt" or not image_moves)

"""The config of each stage: the run's with the stage's keys over it."""

from __future__ import annotations

from typing import Literal, TypeVar

from clipft.config.schema import FREEZE_KEYS, Config, ModelConfig, TowerConfig
from clipft.config.stage_schema import StageConfig, StageTower
from clipft.config.values import Section

S = TypeVar("S", bound=Section)
T = TypeVar("T", bound=TowerConfig)


def stage_configs(config: Config) -> tuple[Config, ...]:
    """One config a stage, each as if the stage were a run of its own; the config itself where it has no stages."""
    if not config.stages:
        return (config,)
    return tuple(_config_of(config, stage) for stage in config.stages)


def classifier_init(config: Config) -> Literal["prompts", "random"] | None:
    """How the run's classifier begins: as the first stage says that trains one; None where none does."""
    losses = (stage.loss for stage in stage_configs(config))
    return next((loss.init for loss in losses if loss.type == "classifier"), None)


def _config_of(config: Config, stage: StageConfig) -> Config:
    model = config.model
    keys = {
        "image": _tower(model.image, stage.model.image),
        "text": _tower(model.text, stage.model.text),
        "logit_scale": _over(model.logit_scale, stage.model.logit_scale),
    }
    return config.model_copy(
        update={
            "model": ModelConfig.model_copy(model, update=keys),
            "optim": _over(config.optim, stage.optim),
            "loss": stage.loss or config.loss,
            "train": config.train.model_copy(update={"epochs": stage.epochs}),
            "stages": (),
        }
    )


def _tower(section: T, stage: StageTower) -> T:
    """A freeze key of the stage clears the run's, as between any two levels, and its train_only: more may thaw."""
    if any(getattr(stage, key) is not None for key in FREEZE_KEYS):
        section = section.model_copy(update=dict.fromkeys((*FREEZE_KEYS, "train_only")))
    return _over(section, stage)


def _over(section: S, stage: Section) -> S:
    """What the stage says, over the run's section; null says nothing."""
    said = {key: getattr(stage, key) for key in type(stage).model_fields}
    return section.model_copy(update={key: value for key, value in said.items() if value is not None})

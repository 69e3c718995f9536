"""What a run holds of its weights a second time, in bytes: `train.ema`'s average, `train.regularize`'s base."""

from __future__ import annotations

from collections.abc import Sequence

from clipft.config.forgetting_schema import regularizers
from clipft.config.train_schema import TrainConfig
from clipft.model.build import MetaModel
from clipft.model.plan import Plan
from clipft.train.base import moving_names


def bytes_of_copies(config: TrainConfig, meta: MetaModel, plan: Plan, plans: Sequence[Plan]) -> int:
    """Bytes of the copies while a stage trains; nothing of the kind is copied for a moment's use (`in_place`).

    Args:
        config: the `train` section.
        meta: the stage's model.
        plan: the stage's, whose parameters `train.ema` averages.
        plans: of all stages, since the base is kept for the whole run.
    """
    state = meta.model.state_dict()
    averaged = [p.name for p in plan.trainable] if config.ema is not None else []
    kept = moving_names(meta.model, plans) if regularizers(config.regularize) else []
    return sum(state[name].nbytes for name in (*averaged, *kept))

"""BatchNorm layers that train: they normalise by each batch's own statistics, and the base's are lost to them."""

from __future__ import annotations

from torch import nn

from clipft.model.plan import Plan
from clipft.model.standstill import moving_modules


def moving_batchnorms(model: nn.Module, plan: Plan) -> list[str]:
    """The BatchNorm layers that a plan puts into training mode, by name."""
    kind = nn.modules.batchnorm._BatchNorm
    return [name for name, module in moving_modules(model, plan) if isinstance(module, kind)]


def batch_statistics_note(model: nn.Module, plan: Plan, batch_size: int) -> str | None:
    """What it means that they train; None where none does."""
    moving = moving_batchnorms(model, plan)
    if not moving:
        return None
    layers = "1 BatchNorm layer trains" if len(moving) == 1 else f"{len(moving)} BatchNorm layers train"
    return (
        f"{layers}, by the statistics of each batch in place of the base's: at batch {batch_size} these are noisy, and "
        "the training loss may jump. A larger train.batch_size steadies them; they stand still where all their "
        "parameters are frozen (freeze_layers, or their names in a freeze_pattern)"
    )

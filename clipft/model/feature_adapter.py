"""CLIP-Adapter: a small network on a tower's output, mixed with it (Better Vision-Language Models with Feature
Adapters, 2021).
"""

from __future__ import annotations

from torch import Tensor, nn

from clipft.config.additions_schema import FeatureAdapterConfig
from clipft.errors import InputError
from clipft.model.tower import Tower


class FeatureAdapter(nn.Module):
    """ratio relu(up relu(down f)) + (1 - ratio) f, without biases (CLIP-Adapter, section 3.2, equations 3 to 5).

    It does not start as the identity: as in the paper, its weights are drawn as nn.Linear draws them.

    Args:
        width: of the feature, D.
    """

    def __init__(self, width: int, config: FeatureAdapterConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // config.reduction, bias=False)
        self.up = nn.Linear(width // config.reduction, width, bias=False)
        self.ratio = config.ratio
        self.strength = 1.0  # of the ratio: less between base and tuned model

    def forward(self, feature: Tensor) -> Tensor:
        """Features (B, D), not normalised, to the same."""
        adapted = self.up(self.down(feature).relu()).relu()
        ratio = self.strength * self.ratio
        mixed: Tensor = ratio * adapted + (1 - ratio) * feature
        return mixed


def add_feature_adapter(model: nn.Module, tower: Tower, config: FeatureAdapterConfig) -> str:
    """Put one behind the tower's projection, at the model's root, and tell the tower. Returns what to say.

    Raises:
        InputError: the feature is narrower than what it is to be divided by.
    """
    if tower.embed_dim < config.reduction:
        raise InputError(
            f"model.{tower.name}.feature_adapter.reduction: {config.reduction} leaves nothing of a feature of "
            f"{tower.embed_dim}; write at most {tower.embed_dim}"
        )
    name = _name(tower)
    adapter = FeatureAdapter(tower.embed_dim, config).eval()
    model.add_module(name, adapter)
    tower.feature_adapter = adapter
    tower.add((f"{name}.{inner}" for inner, _ in adapter.named_parameters()), "adapter", tower.depth)
    return (
        f"{tower.name}: a feature adapter of {tower.embed_dim} x {tower.embed_dim // config.reduction} makes "
        f"{config.ratio:g} of the feature; it starts at random; the base is measured without it"
    )


def take_out_feature_adapter(model: nn.Module, tower: Tower) -> None:
    """Undo `add_feature_adapter`, in place; the tower's other adapters are to be taken out too."""
    if tower.feature_adapter is not None:
        delattr(model, _name(tower))
        tower.feature_adapter = None
        tower.forget("adapter")


def _name(tower: Tower) -> str:
    return f"{tower.name}_feature_adapter"

"""What one image or one text costs a tower: operations, and what stays in memory for the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from clipft.model.describe import ModelFacts
from clipft.model.tally import pretended
from clipft.model.tower import Tower
from clipft.model.walkthrough import blank_inputs

_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class ForwardCost:
    """One tower, one sample.

    Args:
        flops: of a forward pass; a multiplication and its addition count as two.
        kept: bytes that a forward pass in float32 leaves for the backward pass, where everything trains.
    """

    flops: int
    kept: int


@dataclass(frozen=True)
class ModelCost:
    """A model and one pair.

    Args:
        weights: bytes of all parameters in float32.
    """

    image: ForwardCost
    text: ForwardCost
    weights: int

    @property
    def one_pair(self) -> int:
        """Bytes of the weights and of what one image and one text leave for the backward pass."""
        return self.weights + self.image.kept + self.text.kept


def model_cost(model: nn.Module, image: Tower, text: Tower, facts: ModelFacts) -> ModelCost:
    """The cost of one image and one text of full length; nothing is computed, whatever device the model is on."""
    return ModelCost(
        forward_cost(model, image, facts), forward_cost(model, text, facts), weights=facts.parameters * _FLOAT32
    )


def forward_cost(model: nn.Module, tower: Tower, facts: ModelFacts) -> ForwardCost:
    """The cost of one sample through a tower, in evaluation mode as built."""
    names = {name for name, _ in model.named_parameters()}
    with pretended(model, names) as tally, torch.enable_grad():
        pixels, tokens = blank_inputs(model, facts)
        features = tower.encode(pixels if tower.name == "image" else tokens)
        del pixels, tokens  # what the backward pass needs of them stays all the same
        kept = tally.held - features.untyped_storage().nbytes()
    return ForwardCost(tally.flops, kept)

"""What one image or one text costs a tower: operations, and memory for the backward pass; counted on any device.

On the meta device nothing is computed, so that the largest model is counted in a second or two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipft.model.describe import ModelFacts
from clipft.model.tower import Tower
from clipft.model.walkthrough import blank_inputs

_FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class ForwardCost:
    """One tower, one sample.

    Args:
        flops: of a forward pass; a multiplication and its addition count as two.
        kept: bytes that a forward pass in float32 keeps for the backward pass, where everything trains; on the meta
            device attention keeps its whole matrix of weights, which fused kernels do without.
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
        """Bytes of the weights and of what one image and one text keep for the backward pass."""
        return self.weights + self.image.kept + self.text.kept


def model_cost(model: nn.Module, image: Tower, text: Tower, facts: ModelFacts) -> ModelCost:
    """The cost of one image and one text of full length."""
    pixels, tokens = blank_inputs(model, facts)
    costs = forward_cost(model, image, pixels), forward_cost(model, text, tokens)
    return ModelCost(*costs, facts.parameters * _FLOAT32)


def forward_cost(model: nn.Module, tower: Tower, inputs: Tensor) -> ForwardCost:
    """The cost of these inputs: of one image or one text, for one sample.

    Args:
        model: the tower's.
        inputs: images (B, 3, H, W) or token numbers (B, L), on its device.
    """
    kept: dict[int, Tensor] = {}  # by storage; holding the tensors keeps a storage's number from coming twice

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    # with gradient: torch's counter trips over timm's attention pool without one
    with torch.enable_grad(), _plain_attention(), hooks, FlopCounterMode(display=False) as counter:
        tower.encode(inputs)
    own = {_storage(tensor) for tensor in chain(model.parameters(), model.buffers())}
    size = sum(tensor.untyped_storage().nbytes() for number, tensor in kept.items() if number not in own)
    return ForwardCost(int(counter.get_total_flops()), size)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """The fused path of nn.MultiheadAttention in evaluation mode is not seen by torch's counter."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

"""What an image and a text cost: operations by hand, memory as autograd holds it."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from freeze_models import native, on_meta
from torch import Tensor, nn

from clipft.model.describe import ModelFacts, describe
from clipft.model.forward_cost import forward_cost, model_cost
from clipft.model.towers import towers_of


def facts_of(model: nn.Module) -> ModelFacts:
    return describe(model, *towers_of(model), name="x")


def transformer_flops(depth: int, tokens: int, width: int) -> int:
    """A block: 4 products of width x width a token for query, key, value and output, 8 in the MLP; and attention."""
    return depth * 2 * (tokens * 12 * width**2 + 2 * tokens**2 * width)


def test_vit_b_32_by_hand() -> None:
    model = on_meta("ViT-B-32")
    cost = model_cost(model, *towers_of(model), facts_of(model))
    patches = 2 * 49 * 768 * (32 * 32 * 3)
    assert cost.image.flops == patches + transformer_flops(12, 50, 768) + 2 * 768 * 512  # 8.8 GFLOP
    assert cost.text.flops == transformer_flops(12, 77, 512) + 2 * 512 * 512
    assert cost.weights == 4 * 151_277_313
    assert cost.one_pair == cost.weights + cost.image.kept + cost.text.kept


def test_meta_and_values_cost_the_same() -> None:
    with torch.device("meta"):
        sketch = native()
    model = native()
    assert model_cost(model, *towers_of(model), facts_of(model)) == model_cost(
        sketch, *towers_of(sketch), facts_of(sketch)
    )


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_kept_is_what_autograd_saves(number: int) -> None:
    """Each storage that a real forward pass saves, but parameters and buffers, once."""
    model = native()
    tower, facts = towers_of(model)[number], facts_of(model)
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long))[number]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tower.encode(inputs)
    own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
    size = sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in own)
    assert forward_cost(model, tower, facts).kept == pytest.approx(size, rel=0.01)

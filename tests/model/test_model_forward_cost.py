"""What an image and a text cost: operations by hand, memory as autograd holds it."""

from __future__ import annotations

import torch
from freeze_models import native, on_meta
from torch import nn

from clipft.model.describe import describe
from clipft.model.forward_cost import ForwardCost, forward_cost, model_cost
from clipft.model.towers import towers_of


def transformer_flops(depth: int, tokens: int, width: int) -> int:
    """A block: 4 products of width x width a token for query, key, value and output, 8 in the MLP; and attention."""
    return depth * 2 * (tokens * 12 * width**2 + 2 * tokens**2 * width)


def test_vit_b_32_by_hand() -> None:
    model = on_meta("ViT-B-32")
    image, text = towers_of(model)
    cost = model_cost(model, image, text, describe(model, image, text, name="ViT-B-32"))
    patches = 2 * 49 * 768 * (32 * 32 * 3)
    assert cost.image.flops == patches + transformer_flops(12, 50, 768) + 2 * 768 * 512  # 8.8 GFLOP
    assert cost.text.flops == transformer_flops(12, 77, 512) + 2 * 512 * 512
    assert cost.weights == 4 * 151_277_313
    assert cost.one_pair == cost.weights + cost.image.kept + cost.text.kept


def test_meta_and_values_count_alike() -> None:
    on_cpu = native()
    with torch.device("meta"):
        model = native()
    flops = [
        forward_cost(m, towers_of(m)[0], torch.zeros(1, 3, 32, 32, device=device)).flops
        for m, device in ((on_cpu, "cpu"), (model, "meta"))
    ]
    assert flops[0] == flops[1]


def test_what_is_kept_grows_with_the_batch_and_leaves_out_the_weights() -> None:
    model = on_meta("ViT-B-32")
    image, _ = towers_of(model)
    one, two = (forward_cost(model, image, torch.zeros(n, 3, 224, 224, device="meta")) for n in (1, 2))
    assert two == ForwardCost(2 * one.flops, 2 * one.kept)  # a weight in it would not double


def test_what_is_kept_by_hand() -> None:
    """A linear layer keeps its input, a ReLU its output; what both share counts once."""

    class TwoLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))

        def encode(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.layers(inputs)

    model = TwoLayers()
    cost = forward_cost(model, model, torch.zeros(5, 10))  # type: ignore[arg-type]  # only its encode is asked
    assert cost == ForwardCost(flops=2 * 5 * (10 * 20 + 20 * 3), kept=4 * 5 * (10 + 20))


def test_the_fused_path_of_attention_is_as_it_was() -> None:
    model = native()
    image, _ = towers_of(model)
    was = torch.backends.mha.get_fastpath_enabled()
    forward_cost(model, image, torch.zeros(1, 3, 32, 32))
    assert torch.backends.mha.get_fastpath_enabled() == was

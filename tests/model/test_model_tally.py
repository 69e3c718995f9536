"""The tally: bytes that tensors hold and FLOPs, on real tensors and on a model that is given none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clipft.model.tally import Tally, pretended


def test_bytes_come_with_a_tensor_and_go_with_it() -> None:
    there = torch.ones(100)
    with Tally([there]) as tally:
        a = torch.ones(1000)
        b = a * 2  # 8,000 bytes are held
        view, again = a[:10], there.view(10, 10)
        b.add_(1)
        assert (tally.held, tally.most) == (8000, 8000)
        del b
        assert (tally.held, tally.most) == (4000, 8000)
        del a
        assert tally.held == 4000  # the view keeps them
        del view
    assert (tally.held, tally.most, len(again)) == (0, 8000, 10)
    assert (tally.top(), tally.most) == (8000, 0)


def test_what_a_graph_keeps_is_held() -> None:
    weight = torch.ones(10, 10, requires_grad=True)
    x = torch.ones(50, 10)
    with Tally([weight, x]) as tally:
        y = (x @ weight).exp().sum()  # exp keeps its result, 2,000 bytes
        assert tally.held == 2004
        y.backward()
    assert tally.held == 4 + 400  # the sum and the gradient


def linear(x: Tensor) -> Tensor:
    return F.linear(x.flatten(1), torch.ones(7, 16 * 8 * 8, requires_grad=True))


def convolution(x: Tensor, groups: int = 1) -> Tensor:
    return F.conv2d(x, torch.ones(32, 16 // groups, 3, 3, requires_grad=True), stride=2, groups=groups)


def attention(x: Tensor) -> Tensor:
    q = x.flatten(2).view(2, 4, 16, 16)
    return F.scaled_dot_product_attention(q, q, q)


@pytest.mark.parametrize("function", [linear, convolution])
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_flops_are_those_of_torchs_counter(function: Callable[[Tensor], Tensor], needs_gradient: bool) -> None:
    def both_passes() -> None:
        x = torch.ones(2, 16, 8, 8, requires_grad=needs_gradient)
        function(x).sum().backward()

    with FlopCounterMode(display=False) as counter:
        both_passes()
    with Tally() as tally:
        both_passes()
    assert tally.flops == counter.get_total_flops() > 0


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_convolutions_backward_pass_is_twice_its_forward_pass_in_groups_too(groups: int) -> None:
    """The counter of torch 2.15 takes the weight's gradient for one without groups."""
    x = torch.ones(2, 16, 8, 8, requires_grad=True)
    with Tally() as tally:
        y = convolution(x, groups)
        assert tally.lap() == 2 * y.numel() * (16 // groups) * 9
        y.sum().backward()
        assert tally.lap() == 2 * 2 * y.numel() * (16 // groups) * 9


def test_attention_is_the_matrix_products_it_stands_for() -> None:
    x = torch.ones(2, 16, 8, 8, requires_grad=True)
    with Tally() as tally:
        y = attention(x)
        forward = tally.lap()
        y.sum().backward()
    assert forward == 2 * 2 * (2 * 4) * 16 * 16 * 16  # two products for 2 rows of 4 heads, 16 tokens of width 16
    assert tally.lap() == 2 * forward
    with Tally() as plain:
        q = x.flatten(2).view(2, 4, 16, 16)
        ((q @ q.transpose(-1, -2)).softmax(-1) @ q).sum().backward()
    assert plain.flops == tally.flops


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_pretended_model_computes_nothing_and_is_itself_again(device: str) -> None:
    with torch.device(device):
        model = tied()
    before = dict(model.state_dict(keep_vars=True))
    with pretended(model, {"0.weight"}) as tally:
        assert model[0].weight is model[2].weight is not before["0.weight"]
        assert (model[0].weight.device.type, model[0].weight.requires_grad) == ("cpu", True)
        assert not model[2].bias.requires_grad
        y = model(torch.empty(10**6, 64))
        assert y.shape == (10**6, 64)
        y.sum().backward()
        assert model[0].weight.grad is not None
    assert tally.flops == 2 * 2 * 10**6 * 64 * 64 + 3 * 2 * 10**6 * 64 * 64  # the input has no gradient
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert all(p.grad is None for p in model.parameters())


def test_it_is_itself_again_after_an_error_too() -> None:
    model = nn.Linear(4, 4)
    weight, fast = model.weight, torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(KeyError), pretended(model, ()):
        raise KeyError
    assert model.weight is weight
    assert torch.backends.mha.get_fastpath_enabled() == fast

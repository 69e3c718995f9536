from __future__ import annotations

import torch
from torch import nn

from clipft.model.share import put_in_place, share


def test_a_tensor_is_replaced_under_all_its_names() -> None:
    """Tied weights stay tied, and the model that shares them keeps its own."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    second = share(model)
    assert second[0].weight is second[1].weight is model[0].weight
    put_in_place(second, "1.weight", torch.zeros(2, 2))
    put_in_place(second, "2.running_mean", torch.ones(2))
    assert second[0].weight is second[1].weight
    assert not second[0].weight.any()
    assert model[0].weight.any()
    assert not model[2].running_mean.any()
    assert second[2].running_mean.all()
    assert second[2].running_var is model[2].running_var

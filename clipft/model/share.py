"""A second model on the tensors of a first: no weight is held twice, and what changes in one is its own."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain

from torch import Tensor, nn


def share(model: nn.Module) -> nn.Module:
    """A copy of all modules around the very same parameters and buffers."""
    return deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


def put_in_place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a model another tensor under a name, and under all others of the same; the old one stays what it was.

    Args:
        name: of a parameter or a buffer, as the state dict has it.
        tensor: of the same shape; it becomes a parameter where the old one is.
    """
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._parameters:
        old: Tensor = module.get_parameter(leaf)
        new: Tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        old, new = module.get_buffer(leaf), tensor
    for below in model.modules():
        names = [n for n, t in chain(below._parameters.items(), below._buffers.items()) if t is old]
        for inner in names:
            setattr(below, inner, new)

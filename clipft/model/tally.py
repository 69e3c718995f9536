"""What torch does and holds while a model computes, without computing: floating-point operations and bytes.

A model without values is given fake tensors for a while: they have shapes, take the ways that a CPU's tensors take
and hold nothing. (On the meta device attention becomes plain matrix products, whose weights a real step never keeps.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

_aten: Any = torch.ops.aten


class Tally(TorchDispatchMode):
    """Counts what runs while it is entered.

    FLOPs are those of torch's own FlopCounterMode: of matrix products, convolutions and attention, two a multiply-add.
    Two formulas are ours. Attention's backward pass is twice its forward pass, as that of the matrix products it stands
    for; torch has 2.5 times, for a kernel that computes the weights again. A convolution's backward pass is its forward
    pass once for each of input and weight that has a gradient; torch 2.15 counts as many times as there are groups for
    the weight's (pytorch/pytorch#183405), which makes 7 times of a ConvNeXt's.

    Args:
        known: tensors that were there before and do not count.

    Attributes:
        flops: so far.
        held: bytes of all tensors alive that were made since, each storage once.
        most: the largest `held` has been since the last `top`.
    """

    def __init__(self, known: Collection[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.held = 0
        self.most = 0
        self._counted = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def lap(self) -> int:
        """FLOPs since the last lap."""
        since, self._counted = self.flops - self._counted, self.flops
        return since

    def top(self) -> int:
        """The largest `held` has been since the last time this was asked."""
        most, self.most = self.most, self.held
        return most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_(self._see, out)
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

    def _see(self, value: object) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.held += size
            self.most = max(self.most, self.held)
            weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.held -= size


@contextmanager
def pretended(model: nn.Module, trains: Collection[str]) -> Iterator[Tally]:
    """A model with fake tensors in place of its parameters and buffers, and the tally of what is done with them.

    Tensors made inside are fake too. At the end the model has its own tensors again.

    Args:
        model: on any device; only its shapes and types are looked at.
        trains: names of the parameters that have gradients inside.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    slots: list[tuple[dict[str, Any], str, Tensor]] = [
        (kept, key, tensor)
        for module in model.modules()
        for kept in (module._parameters, module._buffers)
        for key, tensor in kept.items()
        if tensor is not None
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel in which no matrix product is seen
    try:
        with FakeTensorMode():
            fakes = {id(t): torch.empty(t.shape, dtype=t.dtype, device="cpu") for _, _, t in slots}
            for kept, key, tensor in slots:
                fake, name = fakes[id(tensor)], names.get(id(tensor))
                if name is not None and not isinstance(fake, nn.Parameter):
                    fake = fakes[id(tensor)] = nn.Parameter(fake, requires_grad=name in trains)
                kept[key] = fake
            with Tally(fakes.values()) as tally:
                yield tally
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for kept, key, tensor in slots:
            kept[key] = tensor


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(_gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _attention(query, key, value)


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *args: Any, **_: Any) -> int:
    """As often the forward pass as there are gradients of input and weight; the last argument says which there are."""
    *settings, wanted = args  # bias sizes, stride, padding, dilation, transposed, output padding, groups
    forward = int(flop_registry[_aten.convolution](inputs, weight, None, *settings[1:], out_val=gradient))
    return forward * (int(wanted[0]) + int(wanted[1]))


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # torch 2.11 has no formula for it
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.convolution_backward: _convolution_backward,
}

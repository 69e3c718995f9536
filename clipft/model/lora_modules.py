"""Modules with LoRA in them: linear layers, nn.MultiheadAttention, and attentions that use their matrices as tensors.

A module stays the very object that it was, with the same parameters under the same names; it gets a child `lora` and
another class, as torch's own parametrizations do. With its old class back it is as before, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipft.config.additions_schema import LoraConfig
from clipft.errors import ClipftError
from clipft.model.low_rank import LowRank, join


class LowRanks(nn.ModuleDict):
    """The low-rank matrices of one module, by target.

    Args:
        plain: the class of the module without them.
        joined: its class with them.
    """

    def __init__(self, plain: type[nn.Module], joined: type[nn.Module]) -> None:
        super().__init__()
        self.plain, self.joined = plain, joined

    def parts(self) -> dict[str, LowRank]:
        """Each by its target."""
        return {target: part for target, part in self.items() if isinstance(part, LowRank)}

    def beside(self, name: str) -> list[LowRank]:
        """Those beside the parameter of that name."""
        return [part for part in self.parts().values() if part.name == name]


def add_low_rank(
    module: nn.Module, target: str, config: LoraConfig, name: str = "weight", rows: tuple[int, int] | None = None
) -> LowRank:
    """Put low-rank matrices beside a matrix of a module, on its device; they are at `module.lora[target]`.

    Args:
        module: a linear layer, an attention, or another module that multiplies by the matrix with F.linear.
        target: what the matrix is, as LoRA's targets are named.
        config: rank, scaling, dropout.
        name: of the parameter that holds the matrix, below the module.
        rows: which of its rows are the matrix, from and to; None takes all.
    """
    weight = module.get_parameter(name).detach()
    rows = rows or (0, len(weight))
    part = LowRank(weight[slice(*rows)], config, name, rows).train(module.training)
    lora = module._modules.get("lora")
    if not isinstance(lora, LowRanks):
        plain = type(module)
        lora = LowRanks(plain, _joined(plain)).train(module.training)
        module.add_module("lora", lora)
        module.__class__ = lora.joined
    lora[target] = part
    return part


def _joined(plain: type[nn.Module]) -> type[nn.Module]:
    """A class that is `plain` but for its forward; the same one each time."""
    if plain not in _JOINED:
        kind = next(kind for base, kind in _KINDS.items() if issubclass(plain, base))
        _JOINED[plain] = type(f"Lora{plain.__name__}", (kind, plain), {"__module__": __name__})
    return _JOINED[plain]


_JOINED: dict[type[nn.Module], type[nn.Module]] = {}


class LoraLinear(nn.Linear):
    """A linear layer, of any subclass of torch's."""

    lora: LowRanks

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return join(self.lora.beside("weight"), input, super().forward(input), self.weight, self.bias)


class LoraMultiheadAttention(nn.MultiheadAttention):
    """torch's attention as open_clip calls it: one way for training and evaluation, batch first or not."""

    lora: LowRanks

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Queries (B, L, W), keys and values (B, S, W), or L and S first, to (B, L, W) and no weights.

        Args:
            attn_mask: (L, S), or (B x heads, L, S) with the heads of a row together; True or -inf where a query must
                not look.
            is_causal: a hint that `attn_mask` is causal, which nothing hangs on here.

        Raises:
            ClipftError: it is called for what the plain one can do and this one cannot.
        """
        asked = {
            "need_weights=True": need_weights,
            "key_padding_mask": key_padding_mask is not None,
            "inputs without a batch": query.dim() != 3,
            "is_causal without attn_mask": is_causal and attn_mask is None,
        }
        if wrong := [what for what, is_so in asked.items() if is_so]:
            raise ClipftError(
                f"attention with LoRA was called with {wrong[0]}, which it does not do; call it with a batch, "
                "need_weights=False and attn_mask, or merge the LoRA first: clipft export"
            )
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads("q", query), self._heads("k", key), self._heads("v", value)
        mask = None if attn_mask is None else _added(attn_mask, q)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2).flatten(2)
        output = self._linear("o", mixed, self.out_proj.weight, self.out_proj.bias)
        return output if self.batch_first else output.transpose(0, 1), None

    def _heads(self, target: str, x: Tensor) -> Tensor:
        """Tokens (B, L, W) through q, k or v: (B, heads, L, W / heads)."""
        third = "qkv".index(target)
        bias = None if self.in_proj_bias is None else self.in_proj_bias.chunk(3)[third]
        y = self._linear(target, x, self.in_proj_weight.chunk(3)[third], bias)
        heads: Tensor = y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def _linear(self, target: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = F.linear(x, weight, bias)
        part = self.lora.parts().get(target)
        return y if part is None else join([part], x, y, weight, bias, part.rows[0])


def _added(mask: Tensor, q: Tensor) -> Tensor:
    """A mask as scaled_dot_product_attention adds it to (B, heads, L, S): torch's two attentions differ in True."""
    if mask.dim() == 3:
        mask = mask.unflatten(0, q.shape[:2])
    if mask.is_floating_point():
        return mask.to(q.dtype)
    return q.new_zeros(mask.shape).masked_fill(mask, float("-inf"))


class LoraInside(nn.Module):
    """A module that multiplies by matrices of its own or of a child without calling that: open_clip's Attention with
    its `in_proj_weight`, timm's EvaAttention with `qkv.weight`.

    Its own forward runs, whatever else is in it; where F.linear is called by such a matrix, the low-rank part joins.
    """

    lora: LowRanks

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """As the plain one.

        Raises:
            ClipftError: a matrix with LoRA is used in another way than by F.linear, so that nothing would train.
        """
        parts = self.lora.parts()
        names = dict.fromkeys(part.name for part in parts.values())
        with _Join([(self.get_parameter(name), self.lora.beside(name)) for name in names]) as joined:
            output = super().forward(*inputs, **options)
        if left := [target for target, part in parts.items() if part not in joined.met]:
            plain = self.lora.plain
            raise ClipftError(
                f"LoRA finds no way into {plain.__module__}.{plain.__name__}: it does not use its "
                f"{parts[left[0]].name} by F.linear; leave {', '.join(left)} out of lora.targets, or write lora: null"
            )
        return output


class _Join(TorchFunctionMode):
    """While it is on, F.linear by one of these weights, or by some of its rows, has the low-rank parts in it."""

    def __init__(self, weights: Sequence[tuple[Tensor, list[LowRank]]]) -> None:
        super().__init__()
        self.weights = weights
        self.met: set[LowRank] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return self._linear(result, *args, **(kwargs or {})) if func is F.linear else result

    def _linear(self, y: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        for whole, parts in self.weights:
            if (first := _first_row(weight, whole)) is not None:
                last = first + len(weight)
                inside = [part for part in parts if first <= part.rows[0] and part.rows[1] <= last]
                self.met.update(inside)
                return join(inside, input, y, weight, bias, first)
        return y


def _first_row(weight: Tensor, whole: Tensor) -> int | None:
    """Which row of `whole` a weight begins with that is a part of it; None where it is none."""
    if weight is whole:
        return 0
    shared = weight.untyped_storage()._cdata == whole.untyped_storage()._cdata
    if not shared or weight.dim() != 2 or weight.stride() != whole.stride():
        return None
    return int(weight.storage_offset() - whole.storage_offset()) // int(whole.stride(0))


_KINDS: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.Linear: LoraLinear,
    nn.MultiheadAttention: LoraMultiheadAttention,
    nn.Module: LoraInside,
}

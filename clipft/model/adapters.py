"""Adapters: small networks that end the branches of a tower's blocks, before the residual.

Titles: Houlsby (Parameter-Efficient Transfer Learning for NLP, ICML 2019), AdaptFormer (Adapting Vision Transformers
for Scalable Visual Recognition, NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from clipft.config.additions_schema import AdapterConfig
from clipft.errors import InputError
from clipft.model.tower import Tower
from clipft.model.tower_parts import Branch

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class Adapter(nn.Module):
    """A bottleneck beside the identity: x + scale up(act(down x)) (Houlsby, section 2.1).

    It starts as the identity: up is zero, down Kaiming-uniform (AdaptFormer, section 3.2, as LoRA's B and A).

    Args:
        width: of the tokens.
    """

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.bottleneck)
        self.act = _ACTIVATIONS[config.activation]()
        self.up = nn.Linear(config.bottleneck, width)
        self.scale = config.scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., W) to tokens (..., W)."""
        adapted: Tensor = x + self.scale * self.up(self.act(self.down(x)))
        return adapted

    def end(self, branch: nn.Module, inputs: Any, output: Any) -> Any:
        """The forward hook of the module that ends a branch: its output, adapted.

        As a method it is copied along with the adapter, so that a copied model's branches end in the copy.
        """
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)


def add_adapters(model: nn.Module, tower: Tower, config: AdapterConfig) -> str:
    """Put an adapter behind each branch that the config names, and tell the tower. Returns what to say.

    An adapter is a child of its block (of a staged network's inner block): `{block}.adapter_attn` and `.adapter_mlp`.
    Whatever computes the branch by then, be it replaced, keeps its name and place.

    Raises:
        InputError: the tower's blocks have no such branches.
    """
    widths = tower.describe().stage_widths
    of_blocks = [_branches(tower, block, config) for block in range(tower.depth)]
    for block, branches in enumerate(of_blocks):
        for branch in branches:
            owner, name = _owner(tower, block, branch), f"adapter_{branch.kind}"
            adapter = Adapter(widths[block] if widths else tower.describe().width, config).eval()
            model.get_submodule(owner).add_module(name, adapter)
            model.get_submodule(branch.path).register_forward_hook(adapter.end)
            names = (f"{owner}.{name}.{inner}" for inner, _ in adapter.named_parameters())
            tower.add(names, "adapter", block)
    count, places = sum(map(len, of_blocks)), " and ".join(config.placement)
    return f"{tower.name}: {count} adapters of width {config.bottleneck} end {places}; they start as the identity"


def take_out_adapters(model: nn.Module, *towers: Tower) -> None:
    """Undo `add_adapters` in all the towers, in place."""
    for module in list(model.modules()):
        for number, hook in list(module._forward_hooks.items()):
            if isinstance(getattr(hook, "__self__", None), Adapter):
                del module._forward_hooks[number]
        for name, child in list(module.named_children()):
            if isinstance(child, Adapter):
                delattr(module, name)
    for tower in towers:
        tower.forget("adapter")


def _branches(tower: Tower, block: int, config: AdapterConfig) -> Sequence[Branch]:
    """Those of a block that an adapter ends."""
    there = tower.branches(block)
    if not there:
        other = "text" if tower.name == "image" else "image"
        raise InputError(
            f"model.{tower.name}.adapter: a {tower.family} tower has no attention and MLP branches for adapters to "
            f"end; write strategy: {{name: adapter, towers: [{other}]}}, or model.{tower.name}.adapter: null; "
            "feature_adapter, train_only: [norms] and the freeze keys work on it"
        )
    return [branch for branch in there if branch.kind in config.placement]


def _owner(tower: Tower, block: int, branch: Branch) -> str:
    """The path of the module that gets the adapter: the block, or the one of its stage that has the branch."""
    staged = tower.describe().stages is not None
    return branch.path.rpartition(".")[0] if staged else tower.block_paths[block]

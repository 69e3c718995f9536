"""FLOPs of LoRA on one layer, forward and backward: ours beside those of peft.

    pip install --no-deps peft accelerate
    python scripts/count_lora_flops.py

Everything but LoRA is frozen, and the input has a gradient, as in every block above the lowest. peft joins
nn.MultiheadAttention by making W + B A anew at each step, so its backward pass goes through the dense matrix; ours
stays factored. Matrix products are counted as torch's FlopCounterMode counts them, attention by formula
(`clipft/model/tally.py`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor, nn

from clipft.config.additions_schema import LoraConfig
from clipft.model.lora_modules import add_low_rank
from clipft.model.tally import Tally

RANK = 8
BATCH = 8
"""Images or texts."""


@dataclass(frozen=True)
class Case:
    """A layer that both join.

    Args:
        name: what it is, and where.
        tokens: of an image or text.
        width: of a token.
        layer: makes it.
        limit: how much of peft's backward pass ours may take.
        peft_rank: with which peft joins it.
        dora: whether rows have learnt lengths.
    """

    name: str
    tokens: int
    width: int
    layer: Callable[[], nn.Linear | nn.MultiheadAttention]
    limit: float
    peft_rank: int = RANK
    dora: bool = False


def attention(width: int) -> Callable[[], nn.MultiheadAttention]:
    """An attention as CLIP's ViTs have it: heads of width 64."""
    return lambda: nn.MultiheadAttention(width, width // 64, batch_first=True)


CASES = (
    Case("nn.MultiheadAttention, ViT-B-32 image", 50, 768, attention(768), 0.6),
    Case("nn.MultiheadAttention, ViT-B-16 image", 197, 768, attention(768), 0.6),
    Case("nn.MultiheadAttention, ViT-L-14 image", 257, 1024, attention(1024), 0.6),
    Case("nn.MultiheadAttention, ViT-B-32 text", 77, 512, attention(512), 0.6),
    Case("linear 768 to 3072, an MLP's first", 197, 768, lambda: nn.Linear(768, 3072), 1.0),
    Case("linear 3072 to 768, an MLP's last", 197, 3072, lambda: nn.Linear(3072, 768), 1.0),
    Case("linear 768 to 768, q of a BERT", 77, 768, lambda: nn.Linear(768, 768), 1.0),
    # one pair of peft's with as many parameters as our three: 12 (768 + 3 x 768) = 3 x 8 (768 + 768)
    Case("linear 768 to 3 x 768, timm's fused q, k, v", 197, 768, lambda: nn.Linear(768, 3 * 768), 1.0, peft_rank=12),
    Case("linear 768 to 3072, DoRA", 197, 768, lambda: nn.Linear(768, 3072), 1.0, dora=True),
)


class Called(nn.Module):
    """A layer under a name, called as a block calls it."""

    def __init__(self, layer: nn.Module, *, attends: bool) -> None:
        super().__init__()
        self.layer, self.attends = layer, attends

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) to (B, L, out)."""
        y: Tensor = self.layer(x, x, x, need_weights=False)[0] if self.attends else self.layer(x)
        return y


def main() -> None:
    """Print a row a case; end with 1 where ours takes more than it may."""
    if importlib.util.find_spec("peft") is None:
        print("peft is not installed, so there is nothing to compare with: pip install --no-deps peft accelerate")
        return
    print(f"torch {version('torch')}, peft {version('peft')}; rank {RANK}, batch {BATCH}, GFLOP\n")
    print("| layer | tokens | forward | peft | backward | peft | ratio | at most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    beyond = [case.name for case in CASES if not _within(case)]
    if beyond:
        raise SystemExit(f"more than it may: {'; '.join(beyond)}")


def _within(case: Case) -> bool:
    ours, theirs = count(ours_on(case), case), count(pefts_on(case), case)
    ratio = ours[1] / theirs[1]
    figures = " | ".join(f"{flops / 1e9:.2f}" for flops in (ours[0], theirs[0], ours[1], theirs[1]))
    print(f"| {case.name} | {case.tokens} | {figures} | {ratio:.3f} | {case.limit} |")
    return ratio <= case.limit


def ours_on(case: Case) -> Called:
    """The layer with LoRA on each of its matrices."""
    layer = case.layer().requires_grad_(False)
    attends, config = isinstance(layer, nn.MultiheadAttention), LoraConfig(rank=RANK, dora=case.dora)
    for target, name, rows in _matrices(layer):
        add_low_rank(layer, target, config, name, rows)
    return Called(layer, attends=attends)


def _matrices(layer: nn.Linear | nn.MultiheadAttention) -> Iterator[tuple[str, str, tuple[int, int] | None]]:
    """Target, parameter and rows of each matrix."""
    name = "weight" if isinstance(layer, nn.Linear) else "in_proj_weight"
    outputs, width = layer.get_parameter(name).shape
    if outputs == 3 * width:
        yield from ((target, name, (i * width, (i + 1) * width)) for i, target in enumerate("qkv"))
    else:
        yield "fc", name, None
    if isinstance(layer, nn.MultiheadAttention):
        yield "o", "out_proj.weight", None


def pefts_on(case: Case) -> Called:
    """The layer with peft's LoRA."""
    peft = importlib.import_module("peft")
    layer = case.layer().requires_grad_(False)
    called = Called(layer, attends=isinstance(layer, nn.MultiheadAttention))
    config = peft.LoraConfig(r=case.peft_rank, target_modules=["layer"], use_dora=case.dora)
    joined = peft.inject_adapter_in_model(config, called)
    assert isinstance(joined, Called)
    return joined


def count(called: Called, case: Case) -> tuple[int, int]:
    """FLOPs of the forward and of the backward pass."""
    x = torch.randn(BATCH, case.tokens, case.width, requires_grad=True)
    with Tally() as tally:
        y = called(x)
        forward = tally.lap()
        y.sum().backward()
        return forward, tally.lap()


if __name__ == "__main__":
    main()

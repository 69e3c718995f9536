"""What a step costs under a plan. Pure data: `train/cost.py` fills it in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clipft.model.describe import Memory


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one step: matrix products, convolutions and attention, two a multiply-add."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Both passes."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Cost:
    """What one optimiser step costs.

    Args:
        memory: bytes of weights, gradients and optimiser state.
        activations: bytes that the forward pass holds beside these where it holds most.
        peak: bytes of all tensors at the moment of the step when there are most; gradients come while activations go,
            so it is below the sum.
        step: under the plan.
        everything: of the same step if all that the loss reaches trained.
        batch_size: rows a step.
        rows_at_once: rows encoded at once; below `batch_size` every row is encoded twice.
        precision: fp32, bf16 or fp16.
        texts_once: whether the text backbone stands still and so is in no step: each caption goes through it once.
        copies: bytes of what `train.ema` and `train.regularize` hold of the weights a second time.
        texts: that a step reads; 0 under a classifier.
        texts_at_once: texts encoded at once; below `texts` every text is encoded twice.
    """

    memory: Memory
    activations: int
    peak: int
    step: Flops
    everything: Flops
    batch_size: int
    rows_at_once: int
    precision: str
    texts_once: bool
    copies: int = 0
    texts: int = 0
    texts_at_once: int = 0

    def to_json(self) -> dict[str, Any]:
        """What `freeze-report --json` has under `cost`."""
        return {
            "batch_size": self.batch_size,
            "rows_at_once": self.rows_at_once,
            "texts": self.texts,
            "texts_at_once": self.texts_at_once,
            "precision": self.precision,
            "bytes": {**asdict(self.memory), "copies": self.copies, "activations": self.activations, "peak": self.peak},
            "flops": {**asdict(self.step), "everything": asdict(self.everything)},
        }

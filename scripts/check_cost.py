"""What `clipft freeze-report` says a step costs, beside a real step of the same config.

    python scripts/check_cost.py                       # ViT-B-32, batch 16, fp32
    python scripts/check_cost.py --device cuda --precision bf16 --batch-size 64

Three ways of training: full, last 2 (the last two blocks, norms and heads of both towers) and heads, from random
weights. Memory is that of all tensors at the step's peak: on a CPU weights, optimiser state and copies plus the highest
sum of what torch's allocator gave and took back since, on a GPU `torch.cuda.max_memory_allocated`. FLOPs are those of
torch's FlopCounterMode with two formulas of our own, below. The second step counts: with it the optimiser has its
state.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from clipft.config.schema import Config
from clipft.data.batches import Batch
from clipft.model.standstill import set_modes
from clipft.train.plan_report import report_plan
from clipft.train.prepare import Prepared, prepare
from clipft.train.start import Started, start

WAYS = ("full", "last 2", "heads")
Shape = Sequence[int]


@dataclass(frozen=True)
class Real:
    """What a real step came to.

    Args:
        peak: bytes of all tensors, weights and optimiser state included, where there are most.
        flops: of matrix products, convolutions and attention, both passes.
    """

    peak: int
    flops: int


def main() -> None:
    """Print a row a way: predicted and real memory and FLOPs, and their ratios."""
    options = _parser().parse_args()
    print(describe_machine(options.device))
    print(f"{options.model}, batch {options.batch_size}, {options.precision}\n")
    print("| trains | memory | real | ratio | TFLOP a step | real | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way in options.ways:
        config = config_of(options, way)
        cost, real = report_plan(config).cost, real_step(config)
        assert cost is not None
        memory = f"{cost.peak / 1e9:.2f} GB | {real.peak / 1e9:.2f} GB | {cost.peak / real.peak:.2f}"
        flops = f"{cost.step.total / 1e12:.3f} | {real.flops / 1e12:.3f} | {cost.step.total / real.flops:.6f}"
        print(f"| {way} | {memory} | {flops} |", flush=True)


def config_of(options: argparse.Namespace, way: str) -> Config:
    """One way of training as a config; its data is only there to make it one."""
    both = {"full": {}, "last 2": {"freeze_layers": options.blocks - 2}, "heads": {"freeze_backbone": True}}[way]
    train = {"batch_size": options.batch_size, "precision": options.precision, "device": options.device}
    return Config.model_validate(
        {
            "model": {"name": options.model, "image": both, "text": both},
            "data": {"train": {"builtin": "hands"}, "workers": 0},
            "train": train,
        }
    )


def real_step(config: Config) -> Real:
    """A config's second step on random images and captions of their own, weights and optimiser state as in a run."""
    prepared = prepare(config)
    started = start(prepared)
    set_modes(started.clip.model, prepared.plan, training=True)
    started.stepper.network.prepare_texts(_captions(config.train.batch_size))
    started.stepper(_batch(prepared, started))
    peak = _peak(prepared, started)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel in which no matrix product is seen
    try:
        with FlopCounterMode(display=False, custom_mapping=OURS) as counter:
            started.stepper(_batch(prepared, started))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return Real(peak, counter.get_total_flops())


def _convolution_backward(_gradient: Shape, inputs: Shape, weight: Shape, *settings: Any, **_: Any) -> int:
    """The forward pass once for each gradient; torch 2.15 forgets the groups of the weight's."""
    transposed, wanted = settings[4], settings[-1]
    positions = inputs if transposed else _gradient
    forward = 2 * math.prod(positions) * math.prod(weight[1:])  # a weight has its group's channels only
    return forward * (int(wanted[0]) + int(wanted[1]))


def _attention_backward(_gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Twice the forward pass's two products; torch has 2.5 times, for kernels that compute the weights again."""
    return 2 * _attention(query, key, value)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Its two matrix products; torch 2.11 has no formula for the CPU's."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


OURS = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    torch.ops.aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    torch.ops.aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
}


def _peak(prepared: Prepared, started: Started) -> int:
    if started.device.type == "cuda":
        started.stepper.optimizer.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats()
        started.stepper(_batch(prepared, started))
        return torch.cuda.max_memory_allocated()
    started.stepper.optimizer.zero_grad(set_to_none=True)
    state = [t for slots in started.stepper.optimizer.state.values() for t in slots.values() if torch.is_tensor(t)]
    base = () if started.base is None else started.base.tensors.values()
    before: int = sum(t.nbytes for t in (*started.clip.model.parameters(), *state, *base))
    before += started.stepper.average.bytes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        started.stepper(_batch(prepared, started))
    return before + _highest(profiler)


def _highest(profiler: Any) -> int:
    """The highest sum of all bytes given and taken back by the allocator while it was profiled."""
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def _batch(prepared: Prepared, started: Started) -> Batch:
    rows = prepared.config.train.batch_size
    size = started.clip.preprocess_cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    numbers = torch.arange(rows)
    labels = numbers % max(1, len(prepared.classes))
    return Batch(torch.randn(rows, 3, height, width), _captions(rows), labels, numbers, numbers, ())


def _captions(rows: int) -> list[str]:
    return [f"a photo of number {i}" for i in range(rows)]


def describe_machine(device: str) -> str:
    """Processor, or GPU, and torch's version in one line."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    return f"{torch.cuda.get_device_name() if device == 'cuda' else processor}; torch {torch.__version__}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--blocks", type=int, default=12, help="of each of the model's towers")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    return parser


if __name__ == "__main__":
    main()

"""Pairs a second and peak memory of clipft beside open_clip_train 3.3, on the same JPEGs, in turn.

    python scripts/bench_step.py                       # ViT-B-32, batch 32, fp32, medians of three turns
    python scripts/bench_step.py --device cuda --precision bf16 --steps 200

Three ways of training: full, last 2 (the last two blocks, norms, pooling and heads of both towers) and heads.
open_clip_train has no such freezing: it gets ours (`clipft freeze-report --json`) on its own loop. Each side runs
alone in a process of its own, from random weights, one loader worker, no evaluation; one hook on torch's optimisers
reads clock and memory after each step on both sides. A frozen text tower is encoded by clipft before its first step
and by open_clip_train in each: that time is measured and shared out over the steps. `whole` is the process from start
to end.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook

from side_by_side import JpegPairs, draw_pairs, peer_arguments, train_peer, write_table

WAYS = ("full", "last 2", "heads")
SIDES = ("clipft", "open_clip_train")
LR, WEIGHT_DECAY = 1e-5, 0.2  # 0.2: open_clip_train's default


@dataclass(frozen=True)
class Figures:
    """What one process came to."""

    pairs_per_second: float
    peak_bytes: int
    whole_seconds: float


@dataclass
class StepClock:
    """Clock and peak memory after each optimiser step."""

    device: str
    times: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def __call__(self, *_: Any) -> None:
        """Take a reading; called by torch after every optimiser step."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.peak_bytes = torch.cuda.max_memory_allocated()
        else:
            self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux
        self.times.append(time.perf_counter())


def main() -> int:
    """Run every way on both sides in turn and print a table; with --side, be one of these processes."""
    options = _parser().parse_args()
    if options.side:
        return _be_one_side(options)
    found: dict[tuple[str, str], list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="clipft-bench-") as folder:
        place = Path(folder)
        prepare(place, options)
        for turn in range(options.turns):
            for way in options.ways:
                for side in SIDES:
                    figures = run_side(place, options, way, side, turn)
                    found.setdefault((way, side), []).append(figures)
                    print(f"turn {turn + 1}  {way:<6}  {side:<15}  {_in_words(figures)}", file=sys.stderr)
    print_table(found, options)
    return 0


def prepare(place: Path, options: argparse.Namespace) -> None:
    """Write the images, their table, and for each way a config and the list of what trains."""
    count = options.batch_size * (options.steps + 1)  # the first step warms up
    write_table(place / "pairs.csv", draw_pairs(place / "images", count))
    for way in options.ways:
        config = _config_path(place, way)
        config.write_text(yaml.safe_dump(config_of(place, options, way)), encoding="utf-8")
        command = [sys.executable, "-m", "clipft", "freeze-report", str(config), "--json"]
        plan = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        trained = [parameter["name"] for parameter in plan["parameters"] if parameter["trainable"]]
        config.with_suffix(".json").write_text(json.dumps(trained), encoding="utf-8")


def config_of(place: Path, options: argparse.Namespace, way: str) -> dict[str, Any]:
    """The YAML of one way of training: open_clip_train's defaults in our keys."""
    return {
        "model": {"name": options.model, "pretrained": None, **_freezing(options.model, way)},
        "data": {
            "train": {"table": str(place / "pairs.csv"), "caption": "caption"},
            "val": None,
            "augment": {"crop_scale": [0.9, 1.0]},
            "workers": 1,
        },
        "optim": {"lr": LR, "weight_decay": WEIGHT_DECAY, "clip_norm": None, "schedule": "constant", "warmup": 0},
        "train": {
            "epochs": 1,
            "batch_size": options.batch_size,
            "precision": options.precision,
            "device": options.device,
        },
    }


def run_side(place: Path, options: argparse.Namespace, way: str, side: str, turn: int) -> Figures:
    """One process of one side."""
    result = place / "figures.json"
    command = [sys.executable, __file__, "--side", side, "--ways", way, "--place", str(place)]
    command += ["--run-dir", str(place / "runs" / f"{_in_path(way)}-{turn}")]
    for name in ("model", "batch-size", "steps", "device", "precision"):
        command += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    whole = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{done.stdout}\nerror: {side} ({way}) ended with exit code {done.returncode}")
    read = json.loads(result.read_text(encoding="utf-8"))
    result.unlink()
    times = read["times"]
    if len(times) != options.steps + 1:
        sys.exit(f"error: {side} ({way}) took {len(times)} steps instead of {options.steps + 1}")
    # of what was done once before the first step for all steps, the timed ones bear their share
    seconds = times[-1] - times[0] + read["before_s"] * options.steps / (options.steps + 1)
    return Figures(options.batch_size * options.steps / seconds, read["peak_bytes"], whole)


def print_table(found: dict[tuple[str, str], list[Figures]], options: argparse.Namespace) -> None:
    """Medians of the turns, clipft beside open_clip_train."""
    print(describe_machine(options.device))
    print(
        f"{options.model}, batch {options.batch_size}, {options.precision}, {options.steps} steps after a first, "
        f"medians of {options.turns}; o = open_clip_train\n"
    )
    print("| trains | pairs/s | o pairs/s | ratio | peak GB | o peak GB | whole s | o whole s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way in options.ways:
        ours, theirs = (_medians(found[way, side]) for side in SIDES)
        ratio = ours.pairs_per_second / theirs.pairs_per_second
        print(
            f"| {way} | {ours.pairs_per_second:.2f} | {theirs.pairs_per_second:.2f} | {ratio:.2f} "
            f"| {ours.peak_bytes / 1e9:.2f} | {theirs.peak_bytes / 1e9:.2f} "
            f"| {ours.whole_seconds:.0f} | {theirs.whole_seconds:.0f} |"
        )


def describe_machine(device: str) -> str:
    """Processor, cores and versions in one line."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    accelerator = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return (
        f"{processor}, {os.cpu_count()} cores{accelerator}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, open_clip {open_clip.__version__}"
    )


def _be_one_side(options: argparse.Namespace) -> int:
    clock = StepClock(options.device)
    register_optimizer_step_post_hook(clock)
    (way,) = options.ways
    sides: dict[str, Callable[[argparse.Namespace, str], float]] = {"clipft": _clipft, "open_clip_train": _peer}
    before = sides[options.side](options, way)
    figures = {"times": clock.times, "peak_bytes": clock.peak_bytes, "before_s": before}
    (options.place / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
    return 0


def _clipft(options: argparse.Namespace, way: str) -> float:
    """Train, and return the seconds spent on frozen texts before the first step."""
    from clipft.cli import main as clipft_main
    from clipft.train.network import Network

    encode, seconds = Network.prepare_texts, [0.0]

    def timed(self: Network, captions: Sequence[str], *watch: Any) -> None:
        started = time.perf_counter()
        encode(self, captions, *watch)
        seconds[0] += time.perf_counter() - started

    Network.prepare_texts = timed  # type: ignore[method-assign, assignment]
    config = str(_config_path(options.place, way))
    sys.argv = ["clipft", "train", config, "--set", f"run.dir={options.run_dir}"]
    try:
        clipft_main()
    except SystemExit as end:
        if end.code:
            raise
    return seconds[0]


def _peer(options: argparse.Namespace, way: str) -> float:
    model, transform, _ = open_clip.create_model_and_transforms(options.model, output_dict=True, device=options.device)
    trained = set(json.loads(_config_path(options.place, way).with_suffix(".json").read_text(encoding="utf-8")))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    with (options.place / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["image"], row["caption"]) for row in csv.DictReader(file)]
    loader = torch.utils.data.DataLoader(
        JpegPairs(rows, transform, open_clip.get_tokenizer(options.model)),
        batch_size=options.batch_size,
        shuffle=True,
        num_workers=1,
        pin_memory=options.device == "cuda",
        drop_last=True,
    )
    args = peer_arguments(
        options.model,
        batch_size=options.batch_size,
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        precision=options.precision,
        device=options.device,
    )
    train_peer(model, loader, args, steps=len(loader))
    return 0.0


def _freezing(model: str, way: str) -> dict[str, Any]:
    if way == "full":
        return {}
    if way == "heads":
        return {"image": {"freeze_backbone": True}, "text": {"freeze_backbone": True}}
    parts = open_clip.get_model_config(model)
    depths = {"image": parts["vision_cfg"]["layers"], "text": parts["text_cfg"]["layers"]}
    return {tower: {"freeze_layers": depth - 2} for tower, depth in depths.items()}


def _config_path(place: Path, way: str) -> Path:
    return place / f"{_in_path(way)}.yaml"


def _in_path(way: str) -> str:
    return way.replace(" ", "-")


def _medians(turns: list[Figures]) -> Figures:
    return Figures(
        statistics.median(turn.pairs_per_second for turn in turns),
        int(statistics.median(turn.peak_bytes for turn in turns)),
        statistics.median(turn.whole_seconds for turn in turns),
    )


def _in_words(figures: Figures) -> str:
    return (
        f"{figures.pairs_per_second:6.2f} pairs/s  {figures.peak_bytes / 1e9:5.2f} GB  {figures.whole_seconds:4.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure clipft's training step beside open_clip_train's.")
    parser.add_argument("--model", default="ViT-B-32", help="a native open_clip architecture; default ViT-B-32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each process, after one; default 4")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # be this side, in one way
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Real photos on a really pretrained base: clothing, sign-language digits and textbook figures, three seeds each.

    python scripts/real_photos.py --base BASE --data DATA --out runs/real-photos [--only clothing]

BASE is an open_clip local-dir with weights, DATA a folder with `clothing`, `signdigits` and `openstax`. Each run is
the command `clipft train`, measured by `clipft evaluate` where a test split is left; every frozen tensor is compared
with the base's by `torch.equal`. Clothing chooses its rate on val, with seed 0. Prints one table a task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from clipft.model.build import build
from clipft.model.saved import load_saved

SEEDS = (0, 1, 2)
CLOTHING_RATES = (3e-4, 1e-3, 3e-3)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Args:
        base: the base's figures.
        tuned: the last epoch's figures, on the test split where there is one.
        frozen: tensors that are `torch.equal` to the base's.
        seconds: of the command, start-up included.
    """

    seed: int
    base: dict[str, float]
    tuned: dict[str, float]
    frozen: int
    seconds: float


def main() -> int:
    """Run what is asked for and print the tables."""
    options = _parser().parse_args()
    tasks = {"clothing": clothing, "signdigits": signdigits, "openstax": openstax}
    for name in options.only or tasks:
        tasks[name](options)
    return 0


def clothing(options: argparse.Namespace) -> None:
    """The image projection trains; the rate is chosen on val, the figures are test's."""
    place = options.data / "clothing"
    config = {
        "model": {
            "name": f"local-dir:{options.base}",
            "image": {"freeze_backbone": True},
            "text": {"freeze_backbone": True, "projection": "freeze"},
        },
        "data": {"train": {"folder": str(place / "train")}, "val": {"folder": str(place / "val")}, "augment": "none"},
        "optim": {"weight_decay": 0.0},
        "train": {"epochs": 10, "batch_size": 64},
    }
    by_rate = {}
    for rate in CLOTHING_RATES:
        run = train(options, f"clothing-{rate:g}-0", config, 0, {"optim.lr": rate})
        by_rate[rate] = json.loads((run / "result.json").read_text(encoding="utf-8"))["tuned"]["zero_shot_top1"]
        print(f"clothing: rate {rate:g} reaches {by_rate[rate]:.3f} on val (seed 0)")
    best = max(by_rate, key=lambda rate: by_rate[rate])
    test = f"folder:{place / 'test'}"
    outcomes = [outcome(options, f"clothing-{best:g}-{seed}", config, seed, {"optim.lr": best}, test) for seed in SEEDS]
    table(f"clothing test, heads, rate {best:g}, 10 epochs", outcomes, ("zero_shot_top1", "mean_per_class"))


def signdigits(options: argparse.Namespace) -> None:
    """The whole image tower trains; val is of signers that train has not, its last epoch counts."""
    place = options.data / "signdigits"
    config = {
        "model": {
            "name": f"local-dir:{options.base}",
            "text": {"freeze_backbone": True, "projection": "freeze"},
        },
        "data": {
            "train": {"folder": str(place / "train")},
            "val": {"folder": str(place / "val")},
            "templates": ["a photo of a hand showing the number {}."],
            "class_names": {str(number): word for number, word in enumerate(DIGITS)},
        },
        "optim": {"lr": 5e-4, "weight_decay": 0.0},
        "train": {"epochs": 4, "batch_size": 64},
    }
    outcomes = [outcome(options, f"signdigits-{seed}", config, seed, {}, None) for seed in SEEDS]
    table("signdigits val (unseen signers), image tower, 4 epochs", outcomes, ("zero_shot_top1", "mean_per_class"))


def openstax(options: argparse.Namespace) -> None:
    """The image tower and both projections train on figures and their alt texts; the figures are test's."""
    source = {"table": str(options.data / "openstax" / "captions.csv"), "caption": "caption"}
    config = {
        "model": {"name": f"local-dir:{options.base}", "text": {"freeze_backbone": True}},
        "data": {"train": {**source, "split": "split=train"}, "val": {**source, "split": "split=val"}},
        "optim": {"lr": 3e-4, "weight_decay": 0.0},
        "train": {"epochs": 3, "batch_size": 64},
    }
    test = f"table:{source['table']},caption=caption,split=split=test"
    outcomes = [outcome(options, f"openstax-{seed}", config, seed, {}, test) for seed in SEEDS]
    table(
        "openstax test, image tower and both projections, 3 epochs", outcomes, ("image_to_text_r5", "text_to_image_r5")
    )


def train(
    options: argparse.Namespace, name: str, config: Mapping[str, Any], seed: int, overrides: Mapping[str, Any]
) -> Path:
    """`clipft train` under a name; a run that is there already is taken as it is."""
    run: Path = options.out / name
    if not (run / "result.json").exists():
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        sets = {"run.dir": run, "run.seed": seed, **overrides}
        words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
        started = time.perf_counter()
        with (options.out / f"{name}.log").open("w", encoding="utf-8") as log:
            subprocess.run([sys.executable, "-m", "clipft", "train", str(path), *words], check=True, stderr=log)
        (options.out / f"{name}.seconds").write_text(f"{time.perf_counter() - started}", encoding="utf-8")
    return run


def outcome(
    options: argparse.Namespace,
    name: str,
    config: Mapping[str, Any],
    seed: int,
    overrides: Mapping[str, Any],
    test: str | None,
) -> Outcome:
    """Train, prove what is frozen, and measure the last checkpoint (on val where there is no test split)."""
    run = train(options, name, config, seed, overrides)
    if test is None:
        figures = json.loads((run / "result.json").read_text(encoding="utf-8"))
    else:
        command = [sys.executable, "-m", "clipft", "evaluate", str(run), "--which", "last", "--data", test, "--json"]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    seconds = float((options.out / f"{name}.seconds").read_text(encoding="utf-8"))
    return Outcome(seed, figures["base"], figures["tuned"], count_frozen(run), seconds)


def count_frozen(run: Path) -> int:
    """How many tensors the plan froze, each `torch.equal` to the base's.

    Raises:
        SystemExit: one of them moved.
    """
    saved = load_saved(run, "last")
    base = build(saved.config.model, saved.config.run.seed).model.state_dict()
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    frozen = [p["name"] for p in plan["parameters"] if not p["trainable"]]
    moved = [name for name in frozen if not torch.equal(base[name], saved.clip.model.state_dict()[name])]
    if moved:
        sys.exit(f"{run}: {len(moved)} frozen tensors moved, the first is {moved[0]}")
    return len(frozen)


def table(title: str, outcomes: Sequence[Outcome], metrics: Sequence[str]) -> None:
    """A line a seed and their mean."""
    print(f"\n{title}")
    print("| seed | " + " | ".join(f"{m}: base | tuned" for m in metrics) + " | frozen, torch.equal | seconds |")
    print("| --- |" + " ---: |" * (2 * len(metrics) + 2))
    for o in outcomes:
        cells = " | ".join(f"{o.base[m]:.3f} | {o.tuned[m]:.3f}" for m in metrics)
        print(f"| {o.seed} | {cells} | {o.frozen} | {o.seconds:.0f} |")
    means = " | ".join(
        f"{outcomes[0].base[m]:.3f} | {statistics.mean(o.tuned[m] for o in outcomes):.3f}" for m in metrics
    )
    print(f"| mean | {means} | | {statistics.mean(o.seconds for o in outcomes):.0f} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train and measure on real photos, three seeds a task.")
    parser.add_argument("--base", type=lambda p: Path(p).resolve(), required=True, help="an open_clip local-dir")
    parser.add_argument("--data", type=lambda p: Path(p).resolve(), required=True, help="folder with the three sets")
    parser.add_argument("--out", type=Path, default=Path("runs/real-photos"))
    parser.add_argument("--only", action="append", choices=("clothing", "signdigits", "openstax"))
    return parser


if __name__ == "__main__":
    sys.exit(main())

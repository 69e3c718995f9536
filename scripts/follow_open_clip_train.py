"""Full fine-tuning in clipft follows open_clip_train 3.3: the same 20 losses, to 1e-4.

    python scripts/follow_open_clip_train.py

Both start from one weights file and see the same batches of distinct captions in fp32, under AdamW (eps 1e-6, no
weight decay), a cosine rate with warm-up, and no clipping. clipft's side is the command `clipft train`, its losses
those of metrics.jsonl. The other side is open_clip_train's own loop and loss with open_clip's own preprocessing
and tokenizer; from clipft it takes nothing but which rows make up a batch. Exits 1 where the losses part.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import open_clip
import torch
import yaml
from open_clip_train.scheduler import cosine_lr
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from clipft.config.source_schema import TableSource
from clipft.data.batches import TrainBatches
from clipft.data.sources import read_source
from side_by_side import TableRow, draw_pairs, peer_arguments, train_peer, write_table

OPENSTAX = Path(__file__).resolve().parents[2] / "shared" / "data" / "openstax"
TOLERANCE = 1e-4
SEED = 0
WARMUP = 5


def main() -> int:
    """Run both sides and print their losses next to each other."""
    options = _parser().parse_args()
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory(prefix="clipft-follow-") as folder:
        place = Path(folder)
        rows = find_rows(place, options.steps * options.batch_size)
        write_table(place / "pairs.csv", rows)
        weights = save_random_weights(options.model, place / "weights.safetensors")
        ours = losses_of_clipft(place, options, weights)
        theirs = losses_of_peer(rows, batches_of_rows(place, options), options, weights)
    return compare(ours, theirs)


def find_rows(place: Path, count: int) -> list[TableRow]:
    """`count` real photos with distinct alt texts where ../shared has them, else drawn ones."""
    table = OPENSTAX / "captions.csv"
    if not table.is_file():
        print("pairs: drawn", file=sys.stderr)
        return draw_pairs(place / "images", count)
    with table.open(encoding="utf-8", newline="") as file:
        by_caption = {row["caption"]: str(OPENSTAX / row["image"]) for row in csv.DictReader(file)}
    if len(by_caption) < count:
        sys.exit(f"error: {table} has {len(by_caption)} distinct captions, and steps x batch asks for {count}")
    print(f"pairs: {table}", file=sys.stderr)
    return [(image, caption) for caption, image in list(by_caption.items())[:count]]


def save_random_weights(model: str, path: Path) -> Path:
    """Random weights of an architecture, in a file that both sides load."""
    state = open_clip.create_model(model, pretrained=None).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def losses_of_clipft(place: Path, options: argparse.Namespace, weights: Path) -> list[float]:
    """The losses that `clipft train` writes."""
    config = {
        "model": {"name": options.model, "pretrained": str(weights)},
        "data": {"train": {"table": str(place / "pairs.csv"), "caption": "caption"}, "val": None, "augment": "none"},
        "optim": {
            "lr": options.lr,
            "weight_decay": 0.0,
            "eps": 1e-6,
            "clip_norm": None,
            "schedule": "cosine",
            "warmup": WARMUP,
        },
        "train": {"epochs": 1, "batch_size": options.batch_size, "precision": "fp32", "device": "cpu"},
        "run": {"dir": str(place / "run"), "seed": SEED},
    }
    (place / "follow.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "clipft", "train", str(place / "follow.yaml")], check=True)
    lines = (place / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [fact["loss"] for fact in map(json.loads, lines) if fact["kind"] == "step"]


def batches_of_rows(place: Path, options: argparse.Namespace) -> list[list[int]]:
    """Which rows clipft puts into each batch of the first epoch, by their place in the table."""
    rows = read_source(TableSource(table=str(place / "pairs.csv"), caption="caption"), {})
    batches = TrainBatches(
        rows,
        lambda image, generator: torch.zeros(3, 1, 1),
        batch_size=options.batch_size,
        seed=SEED,
        workers=0,
        max_bad_fraction=0.0,
    )
    return [batch.indices.tolist() for batch in batches.epoch(0)]


def losses_of_peer(
    rows: Sequence[TableRow], batches: Sequence[Sequence[int]], options: argparse.Namespace, weights: Path
) -> list[float]:
    """The losses of open_clip_train over the same batches."""
    model, _, preprocess = open_clip.create_model_and_transforms(
        options.model, pretrained=str(weights), output_dict=True
    )
    tokenizer = open_clip.get_tokenizer(options.model)

    def feed() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            yield (
                torch.stack([preprocess(Image.open(rows[row][0])) for row in batch]),  # (B, 3, H, W)
                tokenizer([rows[row][1] for row in batch]),  # (B, context_length)
            )

    args = peer_arguments(
        options.model, batch_size=options.batch_size, lr=options.lr, weight_decay=0.0, precision="fp32", device="cpu"
    )

    return train_peer(
        model,
        feed(),
        args,
        steps=len(batches),
        make_scheduler=lambda optimizer: cosine_lr(optimizer, options.lr, WARMUP, len(batches)),
    ).losses


def compare(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """Print both columns and the largest difference; 1 where it is above the tolerance or a step is missing."""
    print(f"{'step':>4}  {'clipft':>10}  {'open_clip_train':>15}  {'difference':>10}")
    for step, (our, their) in enumerate(zip(ours, theirs, strict=False), start=1):
        print(f"{step:>4}  {our:>10.6f}  {their:>15.6f}  {abs(our - their):>10.1e}")
    if len(ours) != len(theirs):
        print(f"clipft took {len(ours)} steps, open_clip_train {len(theirs)}")
        return 1
    largest = max(abs(our - their) for our, their in zip(ours, theirs, strict=True))
    print(f"largest difference {largest:.1e}, allowed {TOLERANCE:.0e}")
    return 0 if largest <= TOLERANCE else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare clipft's losses with open_clip_train's, step by step.")
    parser.add_argument("--model", default="ViT-B-32", help="an open_clip architecture; default ViT-B-32")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-5)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What the comparisons share: pairs of image and caption on disk, and open_clip_train 3.3 as the other side.

The other side is its own `train_one_epoch`, its own loss and arguments, and the optimiser that its `main.py` makes.
Its `main` itself and `open_clip_train.data` need pandas and webdataset; `JpegPairs` does what its `CsvDataset` does.
"""

from __future__ import annotations

import csv
import random
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from open_clip import create_loss
from open_clip_train.params import parse_args
from open_clip_train.train import train_one_epoch
from PIL import Image
from torch import Tensor, nn

PRECISIONS = {"fp32": "fp32", "bf16": "amp_bf16", "fp16": "amp"}
"""Our word to theirs."""

TableRow = tuple[str, str]  # image path, caption


def draw_pairs(folder: Path, count: int) -> list[TableRow]:
    """Draw `count` soft JPEGs of 400x300, each with a caption of about 15 tokens that no other has."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        colours = random.Random(index).randbytes(20 * 15 * 3)
        path = folder / f"{index:05d}.jpg"
        Image.frombytes("RGB", (20, 15), colours).resize((400, 300), Image.Resampling.BICUBIC).save(path, quality=90)
        rows.append((str(path.resolve()), f"a soft pattern of many colours, number {index}, seen on a wall"))
    return rows


def write_table(path: Path, rows: Sequence[TableRow]) -> Path:
    """Write rows as a CSV with columns image and caption, which clipft reads as a table source."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return path


class JpegPairs(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Rows as open_clip_train's CsvDataset gives them: image through the transform, caption through the tokenizer.

    Args:
        rows: image path and caption.
        transform: PIL image to (3, H, W).
        tokenizer: texts to (N, context_length).
    """

    def __init__(
        self,
        rows: Sequence[TableRow],
        transform: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
    ) -> None:
        self.rows = rows
        self.transform = transform
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, caption = self.rows[index]
        return self.transform(Image.open(path)), self.tokenizer([caption])[0]


@dataclass
class Recorder:
    """Stands where open_clip_train writes TensorBoard scalars, and keeps loss and rate of each step."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Take one scalar; called once a step and name."""
        if name == "train/loss":
            self.losses.append(value)
        elif name == "train/lr":
            self.rates.append(value)


def peer_arguments(
    model: str, *, batch_size: int, lr: float, weight_decay: float, precision: str, device: str
) -> Namespace:
    """open_clip_train's own arguments, with what its main sets for one process; betas and eps are its ViT defaults."""
    words = ["--model", model, "--batch-size", str(batch_size), "--lr", str(lr), "--wd", str(weight_decay)]
    words += ["--precision", PRECISIONS[precision], "--log-every-n-steps", "1"]
    args: Namespace = parse_args(words)
    vars(args).update(device=device, distill=False, distributed=False, wandb=False, rank=0, local_rank=0, world_size=1)
    return args


def peer_optimizer(model: nn.Module, args: Namespace) -> torch.optim.AdamW:
    """AdamW in the two groups of open_clip_train's main.py: no decay on vectors, norms, biases and the scale."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in trained if _without_decay(name, p)]
    decayed = [p for name, p in trained if not _without_decay(name, p)]
    param_groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": args.wd}]
    return torch.optim.AdamW(param_groups, lr=args.lr, betas=(args.beta1, args.beta2), eps=args.eps)


def train_peer(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    args: Namespace,
    *,
    steps: int,
    make_scheduler: Callable[[torch.optim.Optimizer], Callable[[int], float]] | None = None,
) -> Recorder:
    """One epoch of open_clip_train over `batches` of (images, tokens), of which there are `steps`.

    Without a scheduler the rate stays as it is.
    """
    optimizer = peer_optimizer(model, args)
    scaler = torch.amp.GradScaler(args.device) if args.precision == "amp" else None
    scheduler = make_scheduler(optimizer) if make_scheduler is not None else None
    args.skip_scheduler = scheduler is None
    recorder = Recorder()
    feed = _Feed(_Loader(batches, steps, steps * args.batch_size))
    train_one_epoch(
        model, {"train": feed}, create_loss(args), 0, optimizer, scaler, scheduler, None, args, tb_writer=recorder
    )
    return recorder


@dataclass(frozen=True)
class _Loader:
    """A DataLoader as train_one_epoch sees it."""

    batches: Iterable[tuple[Tensor, Tensor]]
    num_batches: int
    num_samples: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


@dataclass(frozen=True)
class _Feed:
    """open_clip_train's DataInfo."""

    dataloader: _Loader

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: the batches are for one epoch."""


def _without_decay(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or any(word in name for word in ("bn", "ln", "bias", "logit_scale"))

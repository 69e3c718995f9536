"""What commands take: the arguments and options that they share, and the words an option is chosen from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Layout = Literal["open_clip", "pt", "hf"]
MapMethod = Literal["auto", "pca", "tsne", "umap"]

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; `clipft schema` lists its keys.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the config, such as optim.lr=3e-5. Repeatable."),
]

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run or a checkpoint.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier export there.")]

BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images encoded at once.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="folder:DIR, sidecar:DIR, or table:FILE with its columns as above; the run's data.val if left out.",
    ),
]
Which = Annotated[
    Literal["best", "last"] | None,
    typer.Option("--which", help="A run's best or last checkpoint; the best where the run chose one."),
]
ComputeIn = Annotated[Precision, typer.Option("--precision", help="auto is bf16 where the hardware has it, else fp32.")]
Adapter = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="FILE",
        help="Put this on the model, which is its base then (ARCHITECTURE:TAG too); export --adapter-only writes it.",
    ),
]

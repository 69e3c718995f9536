"""Features as files for elsewhere: tensors a row of the data each (safetensors), or a line an item (Parquet)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from clipft import __version__
from clipft.data.columns import Ints
from clipft.data.rows import Rows
from clipft.embed.features import Embeddings, Features, Side
from clipft.embed.outfile import MARK
from clipft.errors import InputError

_ROOM_FOR_TEXT = 90_000_000  # bytes; safetensors reads headers up to 100 MB (its MAX_HEADER_SIZE)
_LINES_AT_ONCE = 10_000


def write_vectors(embeddings: Embeddings, path: Path) -> None:
    """Write the file in the form that its suffix names."""
    (write_parquet if path.suffix.lower() == ".parquet" else write_safetensors)(embeddings, path)


def checks(path: Path | None) -> Callable[[Rows], None]:
    """What rows must pass to be written to this file."""
    return refuse_too_much_text if path is not None and path.suffix.lower() == ".safetensors" else _anything


def _anything(rows: Rows) -> None:
    pass


def refuse_too_much_text(rows: Rows) -> None:
    """Paths and captions go into the header of a .safetensors file, which is limited.

    Raises:
        InputError: they would not fit.
    """
    size = sum(len(json.dumps(text)) for text in (*_paths(rows), *(rows.captions or ())))
    if size > _ROOM_FOR_TEXT:
        raise InputError(
            f"--out: the {len(rows):,} paths and captions take {size / 1e6:,.0f} MB, more than the header of a "
            ".safetensors file holds; name a .parquet file"
        )


def write_safetensors(embeddings: Embeddings, path: Path) -> None:
    """Tensors in the order of the rows whose image could be read, and what they are as JSON under the key `clipft`.

    `SIDE.image_features` (N, D), `SIDE.caption_features` (N, D), `SIDE.class_features` (C, D) with SIDE base or tuned,
    all float32 and L2-normalised, and `labels` (N,) int64, -1 where a row has none. The metadata has target, data,
    models, precision, images (N paths), captions (N), classes (C), templates and unreadable.
    """
    tensors: dict[str, Tensor] = {}
    for side, features in embeddings.sides.items():
        tensors[f"{side}.image_features"] = features.images[embeddings.image_of]
        if features.captions is not None:
            tensors[f"{side}.caption_features"] = features.captions[embeddings.caption_of]
        if features.classes is not None:
            tensors[f"{side}.class_features"] = features.classes
    if embeddings.classes:
        tensors["labels"] = torch.from_numpy(embeddings.labels())
    rows = embeddings.rows
    facts = _facts(embeddings) | {
        "images": _paths(rows),
        "captions": None if rows.captions is None else list(rows.captions),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"clipft": json.dumps(facts)})


def write_parquet(embeddings: Embeddings, path: Path) -> None:
    """A line an item: model (base, tuned), kind (image, caption, class), path, text, label, class, feature.

    `path` is the image of a row, `text` a caption or a class name, `feature` D float32, L2-normalised. Lines of a kind
    follow the data's order; what an item does not have is null. What it is about is JSON under the key `clipft`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = next(iter(embeddings.sides.values())).images.shape[1]
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("model", "kind", "path", "text")),
            ("label", pa.int32()),
            ("class", pa.string()),
            ("feature", pa.list_(pa.float32(), width)),
        ],
        metadata={"clipft": json.dumps(_facts(embeddings))},
    )
    with pq.ParquetWriter(path, schema) as writer:
        for side, features in embeddings.sides.items():
            for lines in _lines(embeddings, side, features):
                flat = pa.array(lines.features.numpy().reshape(-1))
                columns = [*lines.columns(), pa.FixedSizeListArray.from_arrays(flat, width)]
                writer.write_table(pa.table(columns, schema=schema))


@dataclass(frozen=True, eq=False)
class _Lines:
    """A few lines of a Parquet file."""

    side: Side
    kind: str
    paths: Sequence[str | None]
    texts: Sequence[str | None]
    labels: Ints
    classes: tuple[str, ...]
    features: Tensor

    def columns(self) -> list[Any]:
        """The columns before the features."""
        count = len(self.features)
        known = self.labels.tolist()
        return [
            [self.side] * count,
            [self.kind] * count,
            [None if path is None else printable(path) for path in self.paths],
            [None if text is None else printable(text) for text in self.texts],
            [label if label >= 0 else None for label in known],
            [printable(self.classes[label]) if label >= 0 else None for label in known],
        ]


def _lines(embeddings: Embeddings, side: Side, features: Features) -> Iterator[_Lines]:
    rows, labels, classes = embeddings.rows, embeddings.labels(), embeddings.rows.classes
    for start in range(0, len(rows), _LINES_AT_ONCE):
        some = np.arange(start, min(start + _LINES_AT_ONCE, len(rows)))
        paths = [rows.images[row] for row in range(start, start + len(some))]
        vectors = features.images[embeddings.image_of[some]]
        yield _Lines(side, "image", paths, [None] * len(some), labels[some], classes, vectors)
        if features.captions is not None and rows.captions is not None and embeddings.caption_of is not None:
            vectors = features.captions[embeddings.caption_of[some]]
            yield _Lines(side, "caption", paths, list(rows.captions.take(some)), labels[some], classes, vectors)
    if features.classes is not None:
        numbers = np.arange(len(classes))
        yield _Lines(side, "class", [None] * len(classes), classes, numbers, classes, features.classes)


def _paths(rows: Rows) -> list[str]:
    return [rows.images[row] for row in range(len(rows))]


def _facts(embeddings: Embeddings) -> dict[str, Any]:
    return {
        "written_by": f"{MARK} {__version__}",
        "target": embeddings.target,
        "data": embeddings.rows.name,
        "models": {side: features.name for side, features in embeddings.sides.items()},
        "precision": embeddings.precision,
        "classes": list(embeddings.classes),
        "templates": list(embeddings.templates) if embeddings.classes else [],
        "unreadable": [str(fault) for fault in embeddings.faults],
    }


def printable(text: str) -> str:
    """The text in characters that UTF-8 has: a file name's undecodable bytes as \\udc80 and the like."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

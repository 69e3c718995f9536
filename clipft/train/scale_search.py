"""A run in which nothing but logit_scale (and logit_bias) trains: the optimum is computed, not stepped towards.

Images and texts are encoded once, without augmentation, in evaluation mode; the loss is then a convex function of one
or two numbers (`scale_optimum`). Accuracy cannot change, since no ranking does; what changes is how sure the answers
are. Beside anything else that trains, logit_scale is trained by gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipft.data.batches import resolve_workers
from clipft.data.columns import Ints
from clipft.data.draws import ORDER, shuffled
from clipft.data.rows import Rows
from clipft.errors import ClipftError
from clipft.evaluate.measure import encode_rows
from clipft.evaluate.parts import Encode
from clipft.model.clip_model import ClipModel
from clipft.report.train_view import TrainView
from clipft.train.evaluation import Evaluations
from clipft.train.loop import Progress
from clipft.train.losses import Targets, positive_pairs
from clipft.train.metrics_log import MetricsLog
from clipft.train.prepare import Prepared, has_classes
from clipft.train.scale_optimum import Block, Blocks, Figures, Kind, figures, find_optimum
from clipft.train.start import Started
from clipft.train.unreadable import tell_unreadable

_COSINES_AT_ONCE = 1 << 22  # 32 MB in float64


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows as features, and what tells them apart.

    Args:
        name: train or val.
        images: (I, D) of the distinct images.
        texts: (T, D) of the distinct texts: class prompts or captions.
        image_of: (N,) which image a row shows.
        text_of: (N,) which text it has.
        identities: (N,) equal for rows that show the same image.
        labels: (N,) class numbers, -1 for none.
    """

    name: str
    images: Tensor
    texts: Tensor
    image_of: Tensor
    text_of: Tensor
    identities: Tensor
    labels: Tensor

    def class_blocks(self) -> Iterator[Block]:
        """All rows against the prompts of all classes, some rows at a time."""
        for rows in torch.arange(len(self.text_of)).split(max(1, _COSINES_AT_ONCE // len(self.texts))):
            cosines = self.images[self.image_of[rows]].double() @ self.texts.double().T
            positives = torch.zeros(cosines.shape, dtype=torch.bool)
            positives[torch.arange(len(rows)), self.text_of[rows]] = True
            yield Block(cosines, positives)

    def batch_blocks(self, batches: list[Tensor]) -> Iterator[Block]:
        """Rows against each other's captions, batch by batch."""
        for rows in batches:
            cosines = self.images[self.image_of[rows]].double() @ self.texts[self.text_of[rows]].double().T
            yield Block(cosines, positive_pairs(Targets(self.text_of[rows], self.labels[rows], self.identities[rows])))


def search_in_words(prepared: Prepared) -> str:
    """What will be searched for, before it is."""
    train, bounds = prepared.splits.train, prepared.config.model.logit_scale
    among = f"the prompts of all {len(set(train.classes) - set(train.novel))} classes"
    if not prepared.asks_classes:
        among = f"the captions of fixed batches of {prepared.arithmetic.batch_size}"
    what = " and ".join(p.name for p in prepared.plan.trainable)
    return (
        f"the best {what} between {bounds.min:g} and {bounds.max:g} for {among}, computed over all training rows as "
        "they are (no augmentation, no epochs, no rates)"
    )


def search_scale(
    prepared: Prepared,
    started: Started,
    progress: Progress,
    evaluations: Evaluations | None,
    view: TrainView,
    log: MetricsLog,
    *,
    save: Callable[[], None],
) -> None:
    """Find the scale (and bias), put it into the model, measure, save: all of the run's training.

    A row with a class is asked which of all classes that train it is, by the prompts that evaluation asks with; rows
    with captions alone are told apart in batches of train.batch_size in the first epoch's order, as training would.
    Under siglip each of these pairs is a yes or no.

    Raises:
        InputError: too many images cannot be read.
    """
    if progress.step:  # resumed after the search
        return
    sources = {"train": prepared.splits.train, "val": prepared.splits.val}
    asks = prepared.asks_classes
    named = set[str]() if evaluations is None else evaluations.unreadable
    encoded = [
        _encode(name, rows, prepared, started, view, named)
        for name, rows in sources.items()
        if rows is not None and has_classes(rows) == asks
    ]
    kind: Kind = "sigmoid" if prepared.loss == "siglip" else "classes" if asks else "pairs"
    blocks = {e.name: e.class_blocks if asks else _batched(e, prepared) for e in encoded}
    bounds = prepared.config.model.logit_scale
    before = _point(started.clip, kind)
    found = find_optimum(blocks["train"], kind, before, low=bounds.min, high=bounds.max)
    _put(started.clip, found)
    after = _point(started.clip, kind)  # as float32 holds it
    changes = {name: (figures(of, kind, before), figures(of, kind, after)) for name, of in blocks.items()}
    _say(before, found, changes, bounds.min, bounds.max, view)
    progress.step = progress.epoch = 1
    now = changes["train"][1]
    progress.epoch_losses = [now.nll if asks else now.loss]  # beside val, what evaluation calls so
    log.write("search", stage=0, epoch=1, step=1, **_facts(before, after, changes))
    if evaluations is not None:
        evaluations()
    save()


def _encode(name: str, rows: Rows, prepared: Prepared, started: Started, view: TrainView, named: set[str]) -> Encoded:
    config, device = prepared.config, started.device
    autocast = lambda: started.precision.autocast(device)  # noqa: E731  # a context, made anew each time
    seen = encode_rows(
        started.clip,
        rows,
        batch_size=config.train.batch_size,
        workers=resolve_workers(config.data.workers),
        device=device,
        autocast=autocast,
        watch=view.watch,
    )
    tell_unreadable(seen.faults, seen.rows.name, len(rows), config.data.max_bad_fraction, view, named)
    encode = Encode(started.clip, config.data.templates, device, autocast)
    labels = seen.labels
    if has_classes(rows):
        trained = [name for name in rows.classes if name not in prepared.splits.train.novel]
        columns = torch.tensor([trained.index(name) if name in trained else -1 for name in rows.classes])
        text_of = torch.where(labels >= 0, columns[labels.clamp(min=0)], -1)
        texts, kept = encode.classes(trained), (text_of >= 0).nonzero()[:, 0]
    else:
        assert seen.rows.captions is not None  # a source has one or the other
        codes = seen.rows.captions.codes()
        texts = encode.captions(seen.rows.captions.take(np.unique(codes, return_index=True)[1]))
        text_of, kept = torch.from_numpy(codes), torch.arange(len(codes))
    identities = torch.from_numpy(seen.rows.identities)
    return Encoded(name, seen.images, texts, seen.image_of[kept], text_of[kept], identities[kept], labels[kept])


def _batched(encoded: Encoded, prepared: Prepared) -> Blocks:
    """Full batches in the order of the first epoch; fewer rows than a batch are one."""
    size = min(prepared.arithmetic.batch_size, len(encoded.text_of))
    order: Ints = shuffled(len(encoded.text_of), ORDER, prepared.config.run.seed, 0)
    batches = [rows for rows in torch.from_numpy(order).split(size) if len(rows) == size]
    return lambda: encoded.batch_blocks(batches)


# --- the model's own numbers ---------------------------------------------------------------------


def _point(clip: ClipModel, kind: Kind) -> Tensor:
    """The scale, and under `sigmoid` the bias, as they are."""
    numbers = [clip.logit_scale.detach().double().exp()]
    if kind == "sigmoid":
        numbers.append(clip.model.get_parameter("logit_bias").detach().double())
    return torch.cat([number.reshape(1).cpu() for number in numbers])


def _put(clip: ClipModel, point: Tensor) -> None:
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(point[0]))
        if len(point) == 2:
            clip.model.get_parameter("logit_bias").fill_(float(point[1]))


# --- what is told --------------------------------------------------------------------------------


def _say(
    before: Tensor, found: Tensor, changes: dict[str, tuple[Figures, Figures]], low: float, high: float, view: TrainView
) -> None:
    bias = f" · bias {before[1]:.4g} -> {found[1]:.4g}" if len(found) == 2 else ""
    lines = [("scale", f"{before[0]:.4g} -> {found[0]:.4g}{bias}")]
    lines += [(name, _change_in_words(name, *change)) for name, change in changes.items()]
    view.facts(lines)
    for bound, key in ((low, "min"), (high, "max")):
        if float(found[0]) == bound:
            view.warn(f"the scale is held at model.logit_scale.{key}: {bound:g}; its optimum lies beyond")


def _change_in_words(name: str, was: Figures, now: Figures) -> str:
    """A split's figures before and after, its accuracy among them once.

    Raises:
        ClipftError: the accuracy changed, which no positive scale can bring about.
    """
    if was.right != now.right:
        raise ClipftError(
            f"{name}: {was.right} of {was.rows} answers were right before the search for logit_scale and {now.right} "
            "after it, though a scale changes no ranking; this is a bug of clipft"
        )
    loss = f"loss {was.loss:.4f} -> {now.loss:.4f} · " if abs(was.loss - was.nll) > 1e-12 else ""
    return (
        f"{loss}NLL {was.nll:.4f} -> {now.nll:.4f} · ECE {was.ece:.4f} -> {now.ece:.4f} · "
        f"{now.right:,} of {now.rows:,} right, as before"
    )


def _facts(before: Tensor, after: Tensor, changes: dict[str, tuple[Figures, Figures]]) -> dict[str, Any]:
    """The search in metrics.jsonl: numbers, and for each split its figures, before and after."""
    facts: dict[str, Any] = {"logit_scale": {"before": float(before[0]), "after": float(after[0])}}
    if len(after) == 2:
        facts["logit_bias"] = {"before": float(before[1]), "after": float(after[1])}
    return facts | {name: {"before": asdict(was), "after": asdict(now)} for name, (was, now) in changes.items()}

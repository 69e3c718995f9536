"""What a step costs under a plan, counted on a model without values: a step is gone through with fake tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipft.model.build import MetaModel
from clipft.model.cost import Cost, Flops
from clipft.model.describe import memory
from clipft.model.plan import Plan
from clipft.model.standstill import set_modes
from clipft.model.tally import Tally, pretended
from clipft.model.text_prompt import TextPrompt
from clipft.model.tower import FIXED, NOT_IN_LOSS
from clipft.train.losses import Classify, Contrastive, Features, Siglip, Targets, ZeroShot
from clipft.train.network import normalise
from clipft.train.precision import Precision
from clipft.train.step import backward_with

_FLOAT32 = Precision("fp32")


@dataclass(frozen=True)
class StepShape:
    """What a step's cost hangs on beside the model and the plan.

    Args:
        loss: contrastive, siglip, zero_shot or classifier.
        batch_size: rows a step.
        micro_batch_size: rows encoded at once; None takes the batch whole.
        precision: what towers compute in.
        pooled: whether a classifier sees the pooled feature, before the projection.
        optimizer: adamw, adam or sgd.
        device: cpu, cuda or mps; not asked for anything.
        texts: that go through the text tower in a step; None for as many as rows.
    """

    loss: str
    batch_size: int
    micro_batch_size: int | None = None
    precision: Precision = _FLOAT32
    pooled: bool = False
    optimizer: str = "adamw"
    device: str = "cpu"
    texts: int | None = None

    @property
    def rows_at_once(self) -> int:
        """Rows of a piece; the batch where it is taken whole."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    @property
    def in_pieces(self) -> bool:
        """Whether each row is encoded twice: once for the loss, once for its gradient."""
        return self.rows_at_once < self.batch_size

    @property
    def texts_at_once(self) -> int:
        """Texts of a piece."""
        texts = self.batch_size if self.texts is None else self.texts
        return math.ceil(texts * self.rows_at_once / self.batch_size)

    def whole(self, flops: int) -> int:
        """Of a batch, from those of a piece: a tower's FLOPs grow with its rows."""
        return flops * self.batch_size // self.rows_at_once


def step_cost(meta: MetaModel, plan: Plan, shape: StepShape, *, copies: int = 0) -> Cost:
    """The cost of a step under `plan`, and the FLOPs of one that trains everything.

    A text backbone that stands still is not part of a step, since each caption goes through it once in a run. Captions
    count at the model's full context length, and as if no two of a batch were equal. The optimiser's own arithmetic, a
    few operations a parameter, does not count, nor do the base's features under `train.regularize`.

    Args:
        copies: bytes that the run holds beside weights, gradients and optimiser state.
    """
    own = count_step(meta, plan, shape)
    whole = train_everything(plan)
    fixed = memory(plan, shape.optimizer)
    return Cost(
        memory=fixed,
        activations=own.activations,
        peak=fixed.weights + fixed.optimizer + copies + max(own.most, fixed.gradients),
        step=own.flops,
        everything=own.flops if whole == plan else count_step(meta, whole, shape).flops,
        batch_size=shape.batch_size,
        rows_at_once=shape.rows_at_once,
        precision=shape.precision.name,
        texts_once=shape.loss != "classifier" and not _trains(plan, meta.text.body_names()),
        copies=copies,
    )


def train_everything(plan: Plan) -> Plan:
    """The plan of the same model with nothing frozen but what cannot train."""
    parameters = (p if p.rule in (FIXED, NOT_IN_LOSS) else replace(p, trainable=True) for p in plan.parameters)
    return replace(plan, parameters=tuple(parameters))


@dataclass(frozen=True)
class Counted:
    """FLOPs of a step; bytes beside weights and optimiser: before the towers' backward pass, and at any time."""

    flops: Flops
    activations: int
    most: int


Watch = Callable[[nn.Module, Tally], AbstractContextManager[object]]


def count_step(
    meta: MetaModel, plan: Plan, shape: StepShape, watch: Watch = lambda model, tally: nullcontext()
) -> Counted:
    """One step under `plan`, gone through with fake tensors.

    Args:
        watch: a context around the step, in which the model holds the fake tensors that the tally counts.
    """
    set_modes(meta.model, plan, training=True)
    try:
        with pretended(meta.model, {p.name for p in plan.trainable}) as tally, watch(meta.model, tally):
            return _go_through(_encoder(meta, plan, shape), _loss(meta.model, shape), shape, tally)
    finally:
        set_modes(meta.model, plan, training=False)


def _go_through(
    encode: Callable[[], Features], loss: Callable[[Features], Tensor], shape: StepShape, tally: Tally
) -> Counted:
    """One step as `train/step.py` takes it; of many pieces two, since from the second on there are gradients."""
    with torch.set_grad_enabled(not shape.in_pieces):
        features = encode()
    forward = tally.lap()
    rows, texts = slice(shape.rows_at_once), slice(shape.texts_at_once)
    whole = _leaves(features, shape)
    value = loss(whole)
    loss_forward = tally.lap()
    if value.requires_grad:  # not so where the one thing that trains is a head of unknown size
        value.backward()
    del value
    loss_backward = tally.lap()
    if shape.in_pieces:
        features = encode()
        tally.lap()
    activations = tally.most
    backward_with(features, whole, rows, texts)
    backward = tally.lap()
    del features
    if shape.in_pieces:
        backward_with(encode(), whole, rows, texts)
    passes = 2 if shape.in_pieces else 1
    flops = Flops(passes * shape.whole(forward) + loss_forward, shape.whole(backward) + loss_backward)
    return Counted(flops, activations, tally.most)


def _encoder(meta: MetaModel, plan: Plan, shape: StepShape) -> Callable[[], Features]:
    """What gives the features of a piece, as `train/network.py` does: no graph below what trains."""
    image, text = meta.image, meta.text
    image_trains, text_trains = (_trains(plan, tower.body_names()) for tower in (image, text))
    rows = shape.rows_at_once
    there = shape.batch_size if shape.device == "cpu" else rows  # a GPU gets a piece of the batch at a time
    images = torch.empty(there, 3, *_height_and_width(meta))[:rows]
    tokens = torch.zeros(shape.texts_at_once, meta.context_length, dtype=torch.long)
    if isinstance(text.prompt, TextPrompt):
        tokens = text.prompt.put_into(tokens)

    def encode() -> Features:
        with _autocast(shape):
            with torch.set_grad_enabled(image_trains and torch.is_grad_enabled()):
                pooled = image.pool(images)
            seen = image.drop(pooled) if shape.pooled else image.shared(image.drop(pooled))
            if shape.loss == "classifier":
                return Features(normalise(seen), None)
            pooled = text.pool(tokens) if text_trains else torch.empty(len(tokens), text.pooled_width)
            said = text.shared(text.drop(pooled))
        return Features(normalise(seen), normalise(said))

    return encode


@contextmanager
def _autocast(shape: StepShape) -> Iterator[None]:
    """The precision's context on a CPU, which all that is counted seems to be on, with the device's own exceptions."""
    with shape.precision.autocast(torch.device("cpu")):
        if shape.device == "cuda" and shape.precision.name != "fp32":
            with _NormsInFloat32():
                yield
        else:
            yield


class _NormsInFloat32(TorchFunctionMode):
    """CUDA's autocast computes these in float32 (torch.amp, "CUDA Ops that autocast to float32"), a CPU's does not."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.layer_norm, F.group_norm, torch.layer_norm, torch.group_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _leaves(features: Features, shape: StepShape) -> Features:
    """The whole batch's features as the loss gets them, cut off from the towers."""

    def leaf(feature: Tensor, count: int) -> Tensor:
        if not shape.in_pieces:
            return feature.detach().requires_grad_(feature.requires_grad)
        return feature.new_empty(count, feature.shape[1]).requires_grad_()

    texts = shape.batch_size if shape.texts is None else shape.texts
    text = None if features.text is None else leaf(features.text, texts)
    return Features(leaf(features.image, shape.batch_size), text)


def _loss(model: Any, shape: StepShape) -> Callable[[Features], Tensor]:
    """The loss over a batch in which no row is like another; of a head whose classes are unknown, none."""
    numbers = torch.arange(shape.batch_size)
    targets = Targets(numbers, numbers, numbers)
    if shape.loss == "contrastive":
        return lambda features: Contrastive(model.logit_scale)(features, targets)
    if shape.loss == "siglip":
        return lambda features: Siglip(model.logit_scale, model.logit_bias)(features, targets)
    if shape.loss == "zero_shot":
        assert shape.texts is not None
        columns = torch.arange(shape.texts)  # as if each class had one prompt: averaging several is next to nothing
        labels = replace(targets, labels=numbers % shape.texts)
        return lambda features: ZeroShot(model.logit_scale, (), len(columns), columns)(features, labels)
    if hasattr(model, "classifier"):
        return lambda features: Classify(model.classifier)(features, targets)
    return lambda features: features.image.sum()


def _trains(plan: Plan, names: Iterable[str]) -> bool:
    return not {p.name for p in plan.trainable}.isdisjoint(names)


def _height_and_width(meta: MetaModel) -> tuple[int, int]:
    size = meta.image.describe().image_size
    assert size is not None
    return size

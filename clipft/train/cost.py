"""What a step costs under a plan, counted on a model without values: a step is gone through with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from clipft.train.pieces import texts_at_once
from clipft.train.precision import Precision

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
        classes: that zero_shot chooses among, each by as many of the texts.
    """

    loss: str
    batch_size: int
    micro_batch_size: int | None = None
    precision: Precision = _FLOAT32
    pooled: bool = False
    optimizer: str = "adamw"
    device: str = "cpu"
    texts: int | None = None
    classes: int | None = None

    @property
    def rows_at_once(self) -> int:
        """Rows of a piece; the batch where it is taken whole."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    def texts_at_once(self, trains: bool) -> int:
        """Texts in one graph, where the text tower below its pooled feature trains or not; 0 where none are read."""
        if self.loss == "classifier":
            return 0
        of_classes = self.loss == "zero_shot"
        return texts_at_once(
            self.all_texts, self.batch_size, self.micro_batch_size, trains=trains, of_classes=of_classes
        )

    @property
    def all_texts(self) -> int:
        """Texts of a step."""
        return self.batch_size if self.texts is None else self.texts


def step_cost(meta: MetaModel, plan: Plan, shape: StepShape, *, copies: int = 0) -> Cost:
    """The cost of a step under `plan`, and the FLOPs of one that trains everything.

    A text backbone that stands still is not part of a step, since each caption goes through it once in a run. Captions
    count at the model's full context length, and as if no two of a batch were equal. The optimiser's own arithmetic, a
    few operations a parameter, does not count, nor do the base's features under `train.regularize`.

    Args:
        copies: bytes that the run holds beside weights, gradients and optimiser state.
    """
    own, text_trains = count_step(meta, plan, shape), _trains(plan, meta.text.body_names())
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
        texts_once=shape.loss != "classifier" and not text_trains,
        texts=0 if shape.loss == "classifier" else shape.all_texts,
        texts_at_once=shape.texts_at_once(text_trains),
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
            return _go_through(_sides(meta, plan, shape), _loss(meta.model, shape), tally)
    finally:
        set_modes(meta.model, plan, training=False)


@dataclass(frozen=True)
class _Side:
    """A tower in a step: what encodes a piece, how many rows there are, and how many in a piece."""

    encode: Callable[[], Tensor]
    count: int
    at_once: int

    @property
    def in_pieces(self) -> bool:
        """Whether each row is encoded twice: once for the loss, once for its gradient."""
        return self.at_once < self.count

    def whole(self, flops: int) -> int:
        """Of all rows, from those of a piece: a tower's FLOPs grow with its rows."""
        return flops * self.count // self.at_once

    def leaf(self, feature: Tensor) -> Tensor:
        """All rows' features as the loss gets them, cut off from the tower."""
        if not self.in_pieces:
            return feature.detach().requires_grad_(feature.requires_grad)
        return feature.new_empty(self.count, feature.shape[1]).requires_grad_()


def _go_through(sides: Sequence[_Side], loss: Callable[[Features], Tensor], tally: Tally) -> Counted:
    """One step as `train/step.py` takes it; of many pieces two, since from the second on there are gradients."""
    inputs = tally.held
    features, forward = [], 0
    for side in sides:
        with torch.set_grad_enabled(not side.in_pieces):
            features.append(side.encode())
        forward += side.whole(tally.lap()) * (2 if side.in_pieces else 1)
    leaves = [side.leaf(feature) for side, feature in zip(sides, features, strict=True)]
    value = loss(Features(leaves[0], leaves[1] if len(leaves) > 1 else None))
    forward += tally.lap()
    if value.requires_grad:  # not so where the one thing that trains is a head of unknown size
        value.backward()
    del value
    backward = tally.lap()
    activations = highest = tally.top()
    whole = [(f, leaf) for side, f, leaf in zip(sides, features, leaves, strict=True) if not side.in_pieces]
    pieced = [(side, leaf) for side, leaf in zip(sides, leaves, strict=True) if side.in_pieces]
    del features
    _descend(whole)
    del whole
    backward += tally.lap()
    for side, leaf in pieced:
        for _ in range(2):
            highest, before = max(highest, tally.top()), tally.held
            again = side.encode()
            tally.lap()
            activations = max(activations, inputs + tally.most - before)
            _descend([(again, leaf)])
            del again
            of_piece = tally.lap()
        backward += side.whole(of_piece)
    return Counted(Flops(forward, backward), activations, max(highest, tally.top()))


def _descend(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Carry the loss's gradient at the leaves into the towers; of a piece the gradient of as many rows."""
    reached = [(feature, leaf.grad) for feature, leaf in pairs if feature.requires_grad and leaf.grad is not None]
    if reached:
        torch.autograd.backward(
            [feature for feature, _ in reached], [gradient[: len(feature)] for feature, gradient in reached]
        )


def _sides(meta: MetaModel, plan: Plan, shape: StepShape) -> tuple[_Side, ...]:
    """What gives the features of a piece, as `train/network.py` does: no graph below what trains."""
    image, text = meta.image, meta.text
    image_trains, text_trains = (_trains(plan, tower.body_names()) for tower in (image, text))
    rows = shape.rows_at_once
    there = shape.batch_size if shape.device == "cpu" else rows  # a GPU gets a piece of the batch at a time
    images = torch.empty(there, 3, *_height_and_width(meta))[:rows]

    def encode_image() -> Tensor:
        with _autocast(shape):
            with torch.set_grad_enabled(image_trains and torch.is_grad_enabled()):
                pooled = image.pool(images)
            seen = image.drop(pooled) if shape.pooled else image.shared(image.drop(pooled))
        return normalise(seen)

    of_images = _Side(encode_image, shape.batch_size, rows)
    if shape.loss == "classifier":
        return (of_images,)
    at_once = shape.texts_at_once(text_trains)
    tokens = torch.zeros(at_once, meta.context_length, dtype=torch.long)
    if isinstance(text.prompt, TextPrompt):
        tokens = text.prompt.put_into(tokens)

    def encode_text() -> Tensor:
        with _autocast(shape):
            pooled = text.pool(tokens) if text_trains else torch.empty(at_once, text.pooled_width)
            said = text.shared(text.drop(pooled))
        return normalise(said)

    return of_images, _Side(encode_text, shape.all_texts, at_once)


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


def _loss(model: Any, shape: StepShape) -> Callable[[Features], Tensor]:
    """The loss over a batch in which no row is like another; of a head whose classes are unknown, none."""
    numbers = torch.arange(shape.batch_size)
    targets = Targets(numbers, numbers, numbers)
    if shape.loss == "contrastive":
        return lambda features: Contrastive(model.logit_scale)(features, targets)
    if shape.loss == "siglip":
        return lambda features: Siglip(model.logit_scale, model.logit_bias)(features, targets)
    if shape.loss == "zero_shot":
        assert shape.classes is not None
        columns = torch.arange(shape.classes)
        labels = replace(targets, labels=numbers % shape.classes)
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

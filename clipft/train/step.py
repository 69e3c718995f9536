"""One optimiser step: loss, backward, clip, update, clamp, average."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from clipft.data.batches import Batch
from clipft.errors import ClipftError
from clipft.train.average import Average
from clipft.train.losses import Features, Objective, Targets
from clipft.train.network import Network
from clipft.train.pieces import InPieces, texts_at_once
from clipft.train.pulls import Regularizer
from clipft.words import some

MAX_SKIPPED = 20
"""fp16 steps skipped in a row before the run ends; a scaler that starts at 65536 needs few to find its scale."""


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Args:
        loss: the batch's loss before the update, without what `train.regularize` adds.
        gradient_norm: over all trainable parameters, before clipping.
        skipped: whether a loss scaler refused the update (fp16 overflow).
        added: what each kind of `train.regularize` added to the loss.
    """

    loss: float
    gradient_norm: float
    skipped: bool = False
    added: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Stepper:
    """Everything a step needs, settled before the loop.

    Args:
        network: gives features.
        objective: gives the loss.
        optimizer: over what the plan trains.
        scaler: keeps small fp16 gradients above zero; disabled otherwise.
        clip_norm: gradients are scaled down to this norm; None never.
        micro_batch_size: rows encoded at once; None takes the batch whole.
        logit_scale_bounds: (min, max) of exp(logit_scale), held after each step.
        image_name: what to call a row's image in an error.
        regularizer: what pulls back to the base.
        average: follows the weights.
    """

    network: Network
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    clip_norm: float | None
    micro_batch_size: int | None
    logit_scale_bounds: tuple[float, float]
    image_name: Callable[[int], str]
    regularizer: Regularizer = field(default_factory=Regularizer)
    average: Average = field(default_factory=Average)
    _skipped_in_a_row: int = field(init=False, default=0)

    def __call__(self, batch: Batch) -> StepResult:
        """Train on one batch.

        Raises:
            ClipftError: the loss or a gradient is not finite, or a trainable parameter got no gradient. No weight
                has moved then.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, added = self._backward(batch)
        if not math.isfinite(loss):
            raise ClipftError(self._not_finite(f"the loss became {loss}", batch))
        self._check_gradients()
        self.scaler.unscale_(self.optimizer)
        added |= self.regularizer.of_weights()
        norm = self._clip()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise ClipftError(self._not_finite(f"the gradient's norm became {norm} under a loss of {loss:.3f}", batch))
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < before
        self._count_skipped(skipped)
        self._hold_scale()
        if not skipped:
            self.average.update()
        return StepResult(loss, norm, skipped, added)

    def _backward(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """The loss, and what is added to it on features; the gradient of both goes to the parameters."""
        network, size, texts = self.network, len(batch.captions), self._texts(batch)
        rows_at_once = min(self.micro_batch_size or size, size)
        base = self.regularizer.base_features(batch.images, texts, rows_at_once)
        image = InPieces(lambda rows: network.image_features(batch.images[rows]), size, rows_at_once, network.device)
        text = self._encode(texts, size) if network.needs_text else None
        found = self._descend(Features(image.features, None if text is None else text.features), base, batch)
        for tower in (image, text):
            if tower is not None:
                tower.carry_on()
        return found

    def _texts(self, batch: Batch) -> Sequence[str]:
        """What goes through the text tower: the objective's texts, or the batch's captions."""
        return self.objective.texts or batch.captions

    def _descend(self, features: Features, base: Features | None, batch: Batch) -> tuple[float, dict[str, float]]:
        """From the whole batch's features to the loss, and back to where they have their graph from."""
        targets = self._targets(batch)
        loss = self.objective(features, targets)
        added = self.regularizer.of_features(features, base, targets)
        self.scaler.scale(sum(added.values(), loss)).backward()
        return float(loss.detach()), {kind: float(value.detach()) for kind, value in added.items()}

    def _encode(self, texts: Sequence[str], batch_size: int) -> InPieces:
        """The text tower's features of a step."""
        network, of_classes = self.network, bool(self.objective.texts)
        at_once = texts_at_once(
            len(texts), batch_size, self.micro_batch_size, trains=network.text_trains, of_classes=of_classes
        )
        return InPieces(lambda some: network.text_features(texts[some]), len(texts), at_once, network.device)

    def _targets(self, batch: Batch) -> Targets:
        device = self.network.device
        captions = caption_numbers(self._texts(batch)).to(device)
        return Targets(captions, batch.labels.to(device), batch.identities.to(device))

    def _check_gradients(self) -> None:
        missing = [
            name
            for group in self.optimizer.param_groups
            for name, p in zip(group["names"], group["params"], strict=True)
            if p.grad is None
        ]
        if missing:
            raise ClipftError(
                f"{len(missing)} parameters are to train but the loss does not reach them: {some(missing, 5)}; "
                "freeze them (freeze_pattern, or optim.groups shows their names)"
            )

    def _clip(self) -> float:
        """The norm of all gradients, before they are scaled down to `clip_norm`."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        return float(norm)

    def _count_skipped(self, skipped: bool) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise ClipftError(
                f"fp16 gradients overflowed in {MAX_SKIPPED} steps in a row (loss scale "
                f"{self.scaler.get_scale():.2g}), so nothing is learnt; set train.precision: "
                "bf16 or fp32, or lower optim.lr"
            )

    def _hold_scale(self) -> None:
        low, high = (math.log(bound) for bound in self.logit_scale_bounds)
        scale = self.network.clip.logit_scale
        if scale.requires_grad:
            with torch.no_grad():
                scale.clamp_(low, high)

    def _not_finite(self, what: str, batch: Batch) -> str:
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        scale = self.network.clip.scale
        return (
            f"{what} with learning rates {', '.join(f'{r:.3g}' for r in rates)} and logit_scale {scale:.1f}; "
            f"the batch's first images: {', '.join(self.image_name(int(i)) for i in batch.indices[:3])}. Lower "
            "optim.lr, or set train.precision: fp32"
        )


def caption_numbers(captions: Sequence[str]) -> Tensor:
    """(B,) numbers that are equal where captions are equal."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(caption, len(first)) for caption in captions])

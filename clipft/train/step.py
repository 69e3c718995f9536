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
from clipft.train.pulls import Regularizer
from clipft.train.randomness import random_states, restore_random_states

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
        size, texts = len(batch.captions), self._texts(batch)
        rows_at_once = min(self.micro_batch_size or size, size)
        base = self.regularizer.base_features(batch.images, texts, rows_at_once)
        if rows_at_once == size:
            return self._descend(self.network.features(batch.images, texts), base, batch)
        return self._backward_in_pieces(batch, base)

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

    def _backward_in_pieces(self, batch: Batch, base: Features | None) -> tuple[float, dict[str, float]]:
        """The whole batch's gradient from pieces: features first, loss once, then each piece again with its gradient.

        Gradient cache: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
        section 3. The second pass replays the first one's random numbers, so dropout is the same.
        """
        assert self.micro_batch_size is not None
        texts = self._texts(batch)
        pieces = piece_slices(len(batch.captions), len(texts), self.micro_batch_size)
        states, features = [], []
        with torch.no_grad():
            for rows, some in pieces:
                states.append(random_states(self.network.device))
                features.append(self.network.features(batch.images[rows], texts[some]))
        whole = _leaves(features)
        loss, added = self._descend(whole, base, batch)
        end = random_states(self.network.device)
        for (rows, some), state in zip(pieces, states, strict=True):
            restore_random_states(state, self.network.device)
            again = self.network.features(batch.images[rows], texts[some])
            backward_with(again, whole, rows, some)
        restore_random_states(end, self.network.device)
        return loss, added

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
                f"{len(missing)} parameters are to train but the loss does not reach them: {', '.join(missing[:5])}; "
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


def piece_slices(rows: int, texts: int, size: int) -> list[tuple[slice, slice]]:
    """A batch in pieces of `size` rows, its texts in as many pieces: which rows, and which texts, of each."""
    count = math.ceil(rows / size)
    of_texts = math.ceil(texts / count)
    return [(slice(i * size, (i + 1) * size), slice(i * of_texts, (i + 1) * of_texts)) for i in range(count)]


def caption_numbers(captions: Sequence[str]) -> Tensor:
    """(B,) numbers that are equal where captions are equal."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(caption, len(first)) for caption in captions])


def _leaves(pieces: Sequence[Features]) -> Features:
    image = torch.cat([p.image for p in pieces]).requires_grad_()
    texts = [p.text for p in pieces if p.text is not None]
    return Features(image, torch.cat(texts).requires_grad_() if texts else None)


def backward_with(piece: Features, whole: Features, rows: slice, texts: slice) -> None:
    """Carry the loss's gradient at the features on into the towers; a frozen tower's features have no graph."""
    outputs, gradients = [], []
    for ours, all_rows, which in ((piece.image, whole.image, rows), (piece.text, whole.text, texts)):
        if ours is not None and ours.requires_grad and all_rows is not None and all_rows.grad is not None:
            outputs.append(ours)
            gradients.append(all_rows.grad[which])
    if outputs:
        torch.autograd.backward(outputs, gradients)

"""One optimiser step: loss, backward, clip, update, clamp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipft.data.batches import Batch
from clipft.errors import ClipftError
from clipft.train.losses import Features, Objective, Targets
from clipft.train.network import Network


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Args:
        loss: the batch's loss before the update.
        gradient_norm: over all trainable parameters, before clipping; None under a schedule without clipping.
        skipped: whether a loss scaler refused the update (fp16 overflow).
    """

    loss: float
    gradient_norm: float | None
    skipped: bool = False


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
    """

    network: Network
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    clip_norm: float | None
    micro_batch_size: int | None
    logit_scale_bounds: tuple[float, float]
    image_name: Callable[[int], str]

    def __call__(self, batch: Batch) -> StepResult:
        """Train on one batch.

        Raises:
            ClipftError: the loss is not finite, or a trainable parameter got no gradient.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        if not math.isfinite(loss):
            raise ClipftError(self._not_finite(loss, batch))
        self._check_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._hold_scale()
        return StepResult(loss, norm, skipped=self.scaler.get_scale() < before)

    def _backward(self, batch: Batch) -> float:
        size = len(batch.captions)
        if self.micro_batch_size is None or self.micro_batch_size >= size:
            loss = self.objective(self.network.features(batch.images, batch.captions), self._targets(batch))
            self.scaler.scale(loss).backward()
            return float(loss.detach())
        return self._backward_in_pieces(batch)

    def _backward_in_pieces(self, batch: Batch) -> float:
        """The whole batch's gradient from pieces: features first, loss once, then each piece again with its gradient.

        Gradient cache: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
        section 3. The second pass replays the first one's random numbers, so dropout is the same.
        """
        assert self.micro_batch_size is not None
        pieces = [slice(i, i + self.micro_batch_size) for i in range(0, len(batch.captions), self.micro_batch_size)]
        states, features = [], []
        with torch.no_grad():
            for piece in pieces:
                states.append(_random_state(self.network.device))
                features.append(self.network.features(batch.images[piece], batch.captions[piece]))
        whole = _leaves(features)
        loss = self.objective(whole, self._targets(batch))
        self.scaler.scale(loss).backward()
        end = _random_state(self.network.device)
        for piece, state in zip(pieces, states, strict=True):
            _set_random_state(self.network.device, state)
            again = self.network.features(batch.images[piece], batch.captions[piece])
            _backward_with(again, whole, piece)
        _set_random_state(self.network.device, end)
        return float(loss.detach())

    def _targets(self, batch: Batch) -> Targets:
        device = self.network.device
        return Targets(caption_numbers(batch.captions).to(device), batch.labels.to(device))

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

    def _clip(self) -> float | None:
        if self.clip_norm is None:
            return None
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return float(nn.utils.clip_grad_norm_(parameters, self.clip_norm))

    def _hold_scale(self) -> None:
        low, high = (math.log(bound) for bound in self.logit_scale_bounds)
        scale = self.network.clip.logit_scale
        if scale.requires_grad:
            with torch.no_grad():
                scale.clamp_(low, high)

    def _not_finite(self, loss: float, batch: Batch) -> str:
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        scale = self.network.clip.scale
        return (
            f"the loss became {loss} with learning rates {', '.join(f'{r:.3g}' for r in rates)} and logit_scale "
            f"{scale:.1f}; "
            f"the batch's first images: {', '.join(self.image_name(int(i)) for i in batch.indices[:3])}. Lower "
            f"optim.lr, or set train.precision: fp32"
        )


def caption_numbers(captions: Sequence[str]) -> Tensor:
    """(B,) numbers that are equal where captions are equal."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(caption, len(first)) for caption in captions])


def _leaves(pieces: Sequence[Features]) -> Features:
    image = torch.cat([p.image for p in pieces]).requires_grad_()
    texts = [p.text for p in pieces if p.text is not None]
    return Features(image, torch.cat(texts).requires_grad_() if texts else None)


def _backward_with(piece: Features, whole: Features, rows: slice) -> None:
    """Carry the loss's gradient at the features on into the towers; a frozen tower's features have no graph."""
    outputs, gradients = [], []
    for ours, all_rows in ((piece.image, whole.image), (piece.text, whole.text)):
        if ours is not None and ours.requires_grad and all_rows is not None and all_rows.grad is not None:
            outputs.append(ours)
            gradients.append(all_rows.grad[rows])
    if outputs:
        torch.autograd.backward(outputs, gradients)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)

"""The exact optimum of logit_scale (and logit_bias) over cosines that no longer change.

With every feature fixed the losses are functions of one or two numbers, and convex in the scale itself (not in its
logarithm): log-sum-exp of linear functions less a linear one, or a logistic regression on the cosine. Newton's method
on exact derivatives finds the minimum in a few passes. It is temperature scaling: Guo et al., On Calibration
of Modern Neural Networks (ICML 2017), section 4.2; of zero-shot CLIP: Enabling Calibration In The Zero-Shot Inference
of Large Vision-Language Models (2023), where one temperature for given weights carries over to other data and prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clipft.evaluate.classify import calibration_error

Kind = Literal["classes", "pairs", "sigmoid"]
"""Cross-entropy from image to text; the same both ways and averaged, as CLIP trains; a yes or no for each pair."""

TIE = 1e-11
"""Cosines nearer than this are a tie: products of the same unit vectors differ by some 1e-13."""
_EXACT = 1e-12  # a Newton step, relative, that is no more than the derivative's own rounding
_LEAP_EVERY = 8


@dataclass(frozen=True, eq=False)
class Block:
    """Some images against the texts that they are told apart by.

    Args:
        cosines: (R, T) float64.
        positives: (R, T) bool, at least one in each row; under `pairs` square and symmetric.
    """

    cosines: Tensor
    positives: Tensor


Blocks = Callable[[], Iterator[Block]]
"""Gives all blocks anew: N x T cosines of a large set would not fit in memory, features do."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A loss at a point: its value, its gradient (K,) and its second derivatives (K, K), K = 1 (scale) or 2 (bias)."""

    loss: float
    gradient: Tensor
    hessian: Tensor


@dataclass(frozen=True)
class Figures:
    """What a scale makes of fixed cosines: its loss, and how honest and how right the answers are.

    Args:
        loss: what is minimised.
        nll: mean cross-entropy from image to text.
        ece: calibration error of these answers.
        right: how many rows are nearest to a text of their own; a tie is wrong.
        rows: of so many.
    """

    loss: float
    nll: float
    ece: float
    right: int
    rows: int


def curve(blocks: Blocks, kind: Kind, point: Tensor) -> Curve:
    """The mean loss a row and its derivatives.

    Args:
        blocks: what to sum over.
        kind: which loss.
        point: (1,) the scale, or under `sigmoid` (2,) scale and bias; float64.
    """
    loss, gradient = 0.0, torch.zeros_like(point)
    hessian, rows = torch.zeros(len(point), len(point), dtype=point.dtype), 0
    for block in blocks():
        parts = [_sigmoid(block, point)] if kind == "sigmoid" else [_softmax(block.cosines, block.positives, point)]
        if kind == "pairs":
            parts.append(_softmax(block.cosines.T, block.positives.T, point))
        loss += sum(part.loss for part in parts) / len(parts)
        gradient += torch.stack([part.gradient for part in parts]).mean(dim=0)
        hessian += torch.stack([part.hessian for part in parts]).mean(dim=0)
        rows += len(block.cosines)
    return Curve(loss / rows, gradient / rows, hessian / rows)


def find_optimum(blocks: Blocks, kind: Kind, start: Tensor, *, low: float, high: float) -> Tensor:
    """Where the loss is lowest with the scale between `low` and `high`: where its derivative is zero, or a bound.

    Under `sigmoid` the derivative is taken along the best bias for each scale, which is a function of the scale and
    leaves the loss convex in it.

    Args:
        start: (1,) the scale, or (2,) scale and bias; float64.
    """
    if kind != "sigmoid":

        def slope(scale: float) -> tuple[float, float]:
            at = curve(blocks, kind, _point(scale))
            return float(at.gradient), float(at.hessian)

        return _point(_root(slope, float(start[0]), low, high))

    bias = float(start[1])

    def slope_along(scale: float) -> tuple[float, float]:
        nonlocal bias
        bias = _best_bias(blocks, scale, bias)
        at = curve(blocks, kind, _point(scale, bias))
        (both, mixed), (_, alone) = at.hessian.tolist()
        return float(at.gradient[0]), both - mixed**2 / alone if alone else 0.0

    scale = _root(slope_along, float(start[0]), low, high)
    return _point(scale, _best_bias(blocks, scale, bias))


def figures(blocks: Blocks, kind: Kind, point: Tensor) -> Figures:
    """What the answers are at a scale (and bias)."""
    confidences, hits, nll = [], [], 0.0
    for block in blocks():
        log_probabilities = (block.cosines * point[0]).log_softmax(dim=1)
        nll -= float((_target(block.positives) * log_probabilities).sum())
        own = block.cosines.masked_fill(~block.positives, -torch.inf).max(dim=1).values
        other = block.cosines.masked_fill(block.positives, -torch.inf).max(dim=1).values
        hits.append((point[0] * own > point[0] * other) & (own - other > TIE))
        confidences.append(log_probabilities.max(dim=1).values.exp())
    right = torch.cat(hits)
    loss = curve(blocks, kind, point).loss
    ece = calibration_error(torch.cat(confidences), right)
    return Figures(loss, nll / len(right), ece, int(right.sum()), len(right))


# --- a block's share -----------------------------------------------------------------------------


def _target(positives: Tensor) -> Tensor:
    """(R, T) the target spread evenly over a row's positives, as `contrastive_loss` has it."""
    return positives.double() / positives.sum(dim=1, keepdim=True)


def _softmax(cosines: Tensor, positives: Tensor, point: Tensor) -> Curve:
    """Summed over rows: the derivative is the cosine expected less the cosine found, the second the cosine's spread."""
    target = _target(positives)
    log_probabilities = (cosines * point[0]).log_softmax(dim=1)
    probabilities = log_probabilities.exp()
    # from the cosines found, so that a gradient of 1e-30, where all answers are right and sure, keeps its sign
    beyond = cosines - (target * cosines).sum(dim=1, keepdim=True)
    expected = (probabilities * beyond).sum(dim=1, keepdim=True)  # (R, 1)
    loss = -(target * log_probabilities).sum()
    spread = (probabilities * (beyond - expected) ** 2).sum()
    return Curve(float(loss), expected.sum().reshape(1), spread.reshape(1, 1))


def _sigmoid(block: Block, point: Tensor) -> Curve:
    """Summed over pairs: `siglip_loss` times its rows, as a logistic regression on (cosine, 1)."""
    logits = block.cosines * point[0] + point[1]
    loss = F.softplus(torch.where(block.positives, -logits, logits)).sum()
    share = logits.sigmoid()
    error, weight = share - block.positives.double(), share * (1 - share)
    slope = (weight * block.cosines).sum()
    gradient = torch.stack([(error * block.cosines).sum(), error.sum()])
    hessian = torch.stack([(weight * block.cosines**2).sum(), slope, slope, weight.sum()]).reshape(2, 2)
    return Curve(float(loss), gradient, hessian)


# --- where a derivative is zero -------------------------------------------------------------------


def _point(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _best_bias(blocks: Blocks, scale: float, start: float) -> float:
    """The best bias at a scale; beyond `scale + 50` every answer is no, or yes, to the last bit."""

    def slope(bias: float) -> tuple[float, float]:
        at = curve(blocks, "sigmoid", _point(scale, bias))
        return float(at.gradient[1]), float(at.hessian[1, 1])

    return _root(slope, start, -scale - 50, scale + 50)


def _root(slope: Callable[[float], tuple[float, float]], start: float, low: float, high: float) -> float:
    """Where a rising derivative is zero between two bounds, or the bound that it does not reach zero before.

    Newton's method inside a bracket, which is halved where a step would leave it (Press et al., Numerical Recipes,
    section 9.4); now and then it leaps to the bracket's end, since on the flat far side of a loss the steps stay short.

    Args:
        slope: the derivative and its own derivative.
        start: where to begin.
    """
    bounds, tried = (low, high), set[float]()
    here = min(max(start, low), high)
    for turn in itertools.count(1):
        value, rise = slope(here)
        if value == 0 or here == bounds[value < 0]:
            return here
        low, high = (here, high) if value < 0 else (low, here)
        tried.add(here)
        newton = here - value / rise if rise > 0 else math.copysign(math.inf, -value)
        if abs(newton - here) <= _EXACT * max(1.0, abs(here)):
            return here
        there = min(max(newton, low), high)
        if turn % _LEAP_EVERY == 0:
            there = high if value < 0 else low
        if there in tried:
            there = (low + high) / 2
        if there in tried:
            return here  # no number is left between the two
        here = there
    raise AssertionError  # count() has no end

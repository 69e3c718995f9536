"""The optimum of logit_scale is the optimum: against plain scans, autograd and the losses that training has."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipft.evaluate.zeroshot import zero_shot_metrics
from clipft.train.losses import contrastive_loss, siglip_loss
from clipft.train.scale_optimum import Block, Blocks, Kind, curve, figures, find_optimum

LOW, HIGH = 1.0, 100.0


def unit(count: int, seed: int, width: int = 16) -> Tensor:
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(noise, dim=-1)


def pairs(seed: int, count: int = 12, likeness: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Images, texts that are somewhat like them, and which belong together: the first two rows say the same."""
    images = unit(count, seed)
    texts = F.normalize(images * likeness + unit(count, seed + 1), dim=-1)
    texts[1] = texts[0]
    positives = torch.eye(count, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    return images, texts, positives


def blocks_of(batches: list[tuple[Tensor, Tensor, Tensor]]) -> Blocks:
    def blocks() -> Iterator[Block]:
        for images, texts, positives in batches:
            yield Block(images @ texts.T, positives)

    return blocks


def classes(seed: int = 3) -> tuple[Blocks, Callable[[Tensor], Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Labelled rows in two blocks, their NLL as a function of the scale, and what it was made from."""
    texts, labels = unit(7, seed), torch.arange(60) % 7
    images = F.normalize(0.5 * texts[labels] + unit(60, seed + 1), dim=-1)
    one_hot = F.one_hot(labels, 7).bool()
    blocks = blocks_of([(images[rows], texts, one_hot[rows]) for rows in (slice(0, 40), slice(40, 60))])
    return blocks, lambda scale: F.cross_entropy(scale * images @ texts.T, labels), (images, texts, labels)


def scanned(loss: Callable[[Tensor], Tensor]) -> float:
    """The best scale of a plain scan, made finer and finer."""
    low, high = LOW, HIGH
    for _ in range(12):
        grid = torch.linspace(low, high, 101, dtype=torch.float64)
        best = int(torch.stack([loss(scale) for scale in grid]).argmin())
        low, high = float(grid[max(0, best - 1)]), float(grid[min(100, best + 1)])
    return (low + high) / 2


def start(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("begin", [1.0, 14.3, 100.0])
def test_of_classes_it_is_that_of_a_scan_from_wherever_it_starts(begin: float) -> None:
    blocks, loss, _ = classes()
    (found,) = find_optimum(blocks, "classes", start(begin), low=LOW, high=HIGH).tolist()
    assert LOW < found < HIGH
    assert found == pytest.approx(scanned(loss), rel=1e-6)
    assert abs(float(curve(blocks, "classes", start(found)).gradient)) < 1e-12


def test_of_captions_it_is_that_of_the_loss_that_trains() -> None:
    """The mean over batches of the contrastive loss, rows that say the same as positives of each other."""
    batches = [pairs(seed) for seed in (0, 10, 20)]
    blocks = blocks_of(batches)

    def loss(scale: Tensor) -> Tensor:
        return torch.stack([contrastive_loss(i, t, scale, p) for i, t, p in batches]).mean()

    found = find_optimum(blocks, "pairs", start(14.3), low=LOW, high=HIGH).requires_grad_()
    assert float(found.detach()) == pytest.approx(scanned(lambda scale: loss(scale).detach()), rel=1e-6)
    value = loss(found[0])
    value.backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert abs(float(found.grad)) < 1e-12
    assert curve(blocks, "pairs", found.detach()).loss == pytest.approx(float(value.detach()))


@pytest.mark.parametrize("begin", [(10.0, -10.0), (100.0, 0.0), (1.0, 5.0)])
def test_of_sigmoids_scale_and_bias_are_found_together(begin: tuple[float, float]) -> None:
    batches = [pairs(seed) for seed in (0, 10)]
    blocks = blocks_of(batches)

    def loss(point: Tensor) -> Tensor:
        return torch.stack([siglip_loss(i, t, point[0], point[1], p) for i, t, p in batches]).mean()

    found = find_optimum(blocks, "sigmoid", start(*begin), low=LOW, high=HIGH)
    assert LOW < float(found[0]) < HIGH
    assert torch.autograd.functional.jacobian(loss, found).abs().max() < 1e-11
    now = curve(blocks, "sigmoid", found)
    torch.testing.assert_close(now.hessian, torch.autograd.functional.hessian(loss, found))
    around = [loss(found + torch.tensor(move)) for move in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1, -0.5))]
    assert all(value > now.loss for value in around)


@pytest.mark.parametrize(("kind", "likeness", "bound"), [("pairs", 9.0, HIGH), ("pairs", -1.0, LOW)])
def test_where_the_optimum_lies_beyond_a_bound_it_is_the_bound(kind: Kind, likeness: float, bound: float) -> None:
    images, texts, positives = (part[2:] for part in pairs(0, likeness=likeness))
    blocks = blocks_of([(images, texts, positives[:, 2:])])
    for begin in (LOW, 10.0, HIGH):
        assert find_optimum(blocks, kind, start(begin), low=LOW, high=HIGH).tolist() == [bound]


def test_at_a_bound_the_bias_is_still_the_best() -> None:
    blocks = blocks_of([pairs(0, likeness=-1.0)])
    found = find_optimum(blocks, "sigmoid", start(10.0, -10.0), low=LOW, high=HIGH)
    assert float(found[0]) == LOW
    assert abs(float(curve(blocks, "sigmoid", found).gradient[1])) < 1e-12


def test_figures_are_those_of_evaluation_and_a_scale_changes_no_answer() -> None:
    """Accuracy before and after is the same number; NLL and calibration error are `zero_shot_metrics`' own."""
    blocks, _, (images, texts, labels) = classes()
    found = float(find_optimum(blocks, "classes", start(14.3), low=LOW, high=HIGH))
    for scale in (1.0, 14.3, found, 100.0):
        ours, theirs = figures(blocks, "classes", start(scale)), zero_shot_metrics(images, texts, labels, scale)
        assert ours.right / ours.rows == theirs["zero_shot_top1"]
        assert (ours.loss, ours.nll, ours.ece) == pytest.approx((theirs["nll"], theirs["nll"], theirs["ece"]))
        assert ours.loss >= figures(blocks, "classes", start(found)).loss


def test_classes_with_the_same_prompt_are_a_tie_at_any_scale() -> None:
    images, texts, _ = pairs(0, likeness=9.0)
    blocks = blocks_of([(images, texts, torch.eye(12, dtype=torch.bool))])  # the first two texts are equal
    assert {figures(blocks, "classes", start(scale)).right for scale in (1.0, 33.3, 100.0)} == {10}

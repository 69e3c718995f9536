"""The losses against open_clip's and against NumPy."""

import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import SigLipLoss

from clipft.train.losses import Contrastive, Siglip, Targets, contrastive_loss, positive_pairs, siglip_loss
from clipft.train.step import caption_numbers


def features(rows: int, width: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(rows, width, generator=generator) for _ in range(2))
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def targets(captions: list[str], labels: list[int] | None = None) -> Targets:
    return Targets(caption_numbers(captions), torch.tensor(labels or [-1] * len(captions)), torch.arange(len(captions)))


@pytest.mark.parametrize("rows", [2, 3, 17, 64])
def test_with_distinct_captions_it_is_open_clips_loss(rows: int) -> None:
    image, text = features(rows)
    scale = torch.tensor(14.3)
    ours = contrastive_loss(image, text, scale, positive_pairs(targets([str(i) for i in range(rows)])))
    torch.testing.assert_close(ours, open_clip.ClipLoss()(image, text, scale), rtol=1e-6, atol=1e-6)


def test_gradients_are_open_clips_too() -> None:
    image, text = (f.double().requires_grad_() for f in features(8))
    log_scale = torch.tensor(2.66, dtype=torch.double, requires_grad=True)
    ours = contrastive_loss(image, text, log_scale.exp(), torch.eye(8, dtype=torch.bool))
    theirs = open_clip.ClipLoss()(image, text, log_scale.exp())
    for mine, other in zip(
        torch.autograd.grad(ours, (image, text, log_scale)),
        torch.autograd.grad(theirs, (image, text, log_scale)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 10))
@settings(deadline=None, max_examples=50)
def test_repeated_captions_share_the_target(captions: list[int], seed: int) -> None:
    """P20: a row with the same caption is a positive, never a negative; against the formula written out in NumPy."""
    rows = len(captions)
    image, text = (f.double() for f in features(rows, seed=seed))
    pairs = positive_pairs(targets([str(c) for c in captions]))
    ours = contrastive_loss(image, text, torch.tensor(10.0, dtype=torch.double), pairs)

    logits = 10.0 * image.numpy() @ text.numpy().T

    def half(table: np.ndarray) -> float:
        total = 0.0
        for i in range(rows):
            logs = table[i] - np.log(np.exp(table[i]).sum())
            same = [j for j in range(rows) if captions[j] == captions[i]]
            total -= sum(logs[j] for j in same) / len(same)
        return total / rows

    assert float(ours) == pytest.approx((half(logits) + half(logits.T)) / 2, rel=1e-9)


def test_rows_of_one_class_are_positives_whatever_their_caption() -> None:
    """P21: prompts of one class drawn from several templates differ in words but not in meaning."""
    pairs = positive_pairs(targets(["a cat", "photo of a cat", "a dog", "a cup"], [0, 0, 1, -1]))
    assert pairs.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_rows_of_one_image_are_positives_whatever_their_caption() -> None:
    """P20: an image with several captions is not pushed away from its own."""
    captions = caption_numbers(["a cat", "an animal", "a dog"])
    same_image = Targets(captions, torch.full((3,), -1), torch.tensor([7, 7, 8]))
    assert positive_pairs(same_image).tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_rows_without_a_label_are_not_one_class() -> None:
    assert positive_pairs(targets(["a", "b"], [-1, -1])).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("rows", [2, 9, 32])
def test_siglip_is_open_clips(rows: int) -> None:
    """P23: the sum over pairs divided by rows, with the bias inside."""
    image, text = features(rows)
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    ours = siglip_loss(image, text, scale, bias, torch.eye(rows, dtype=torch.bool))
    theirs = SigLipLoss()(image, text, scale, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_chance_is_the_loss_of_equal_logits() -> None:
    """P18: ln(batch), also when captions repeat."""
    objective = Contrastive(torch.nn.Parameter(torch.tensor(0.0)))
    same = F.normalize(torch.ones(8, 4), dim=-1)
    for captions in (list("abcdefgh"), list("aabbccdd")):
        loss = contrastive_loss(same, same, torch.tensor(1.0), positive_pairs(targets(captions)))
        assert float(loss) == pytest.approx(math.log(8), rel=1e-6)
    assert objective.chance(8) == pytest.approx(math.log(8))


def test_siglip_chance_is_the_best_constant_logit() -> None:
    rows = 16
    same = F.normalize(torch.ones(rows, 4), dim=-1)
    best = min(
        float(siglip_loss(same, same, torch.tensor(0.0), torch.tensor(bias), torch.eye(rows, dtype=torch.bool)))
        for bias in np.linspace(-6, 0, 601).tolist()
    )
    chance = Siglip(torch.nn.Parameter(torch.tensor(0.0)), torch.nn.Parameter(torch.tensor(0.0))).chance(rows)
    assert chance == pytest.approx(best, rel=1e-4)

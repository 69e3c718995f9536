from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from clipft.evaluate.retrieval import rank, recall


def unit(count: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def own_pairs(count: int) -> torch.Tensor:
    return torch.arange(count)[:, None].expand(-1, 2)


def test_recall_equals_sorting_the_whole_matrix() -> None:
    images, captions = unit(60, 8, 0), unit(60, 8, 1)
    similarities = (images @ captions.T).numpy()
    metrics = recall(images, captions, own_pairs(60))
    for k in (1, 5, 10):
        nearest = np.argsort(-similarities, axis=1)[:, :k]
        assert metrics[f"image_to_text_r{k}"] == np.mean([i in nearest[i] for i in range(60)])
        nearest = np.argsort(-similarities.T, axis=1)[:, :k]
        assert metrics[f"text_to_image_r{k}"] == np.mean([i in nearest[i] for i in range(60)])


def test_any_right_caption_and_any_right_image_is_a_hit() -> None:
    """P57: an image with several captions is found by any of them, a caption with several images by any of those."""
    axes = torch.eye(4)
    images = axes[:2]  # image 0 has captions 0 and 1, image 1 has caption 2
    captions = torch.stack([axes[3], axes[0], axes[1]])
    metrics = recall(images, captions, torch.tensor([[0, 0], [0, 1], [1, 2]]))
    assert metrics["image_to_text_r1"] == 1.0  # caption 1 is nearest to image 0, and right
    assert metrics["text_to_image_r1"] == pytest.approx(2 / 3)  # caption 0 is as near to image 1 as to its own
    # another right answer in front is no obstacle
    both = F.normalize(axes[0] + 0.1 * axes[1], dim=0)
    ranks = rank(images, torch.stack([both, axes[0], axes[1]]), torch.tensor([[0, 0], [0, 1], [1, 2]]))
    assert ranks.of_images.tolist() == [0, 0]


def test_ties_count_against_the_model() -> None:
    same = F.normalize(torch.ones(12, 4), dim=-1)
    ranks = rank(same, same, own_pairs(12))
    assert ranks.of_images.tolist() == [11] * 12
    assert recall(same, same, own_pairs(12))["image_to_text_r10"] == 0.0


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images_at_once=st.integers(1, 70),
    captions_at_once=st.integers(1, 70),
    copies=st.integers(0, 20),
)
def test_chunks_change_no_rank(seed: int, images_at_once: int, captions_at_once: int, copies: int) -> None:
    """P58: ranks in tiles of any shape equal those of the whole matrix, with ties and several right answers."""
    generator = torch.Generator().manual_seed(seed)
    images, captions = unit(40, 16, seed), unit(55, 16, seed + 1)
    captions[:copies] = captions[20 : 20 + copies]  # equal vectors tie in whatever tile they land
    pairs = torch.cat(
        [torch.stack([torch.arange(55) % 40, torch.arange(55)], dim=1), torch.randint(40, (10, 2), generator=generator)]
    )
    whole = rank(images, captions, pairs)
    tiled = rank(images, captions, pairs, images_at_once=images_at_once, captions_at_once=captions_at_once)
    assert torch.equal(whole.of_images, tiled.of_images)
    assert torch.equal(whole.of_captions, tiled.of_captions)

    similarities = images.double() @ captions.double().T
    right = torch.zeros(40, 55, dtype=torch.bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    best = similarities.masked_fill(~right, -9).max(dim=1).values
    assert torch.equal(whole.of_images, ((similarities > best[:, None] - 1e-9) & ~right).sum(dim=1))


def test_repeated_pairs_count_once() -> None:
    images, captions = unit(9, 4, 0), unit(9, 4, 1)
    once, twice = own_pairs(9), own_pairs(9).repeat(2, 1)
    assert recall(images, captions, once) == recall(images, captions, twice)


@pytest.mark.slow
def test_100_000_pairs_fit_in_memory() -> None:
    """P58: the whole matrix would be 40 GB in float32; the tiles stay below 600 MB."""
    count = 100_000
    images = unit(count, 64, 0)
    captions = F.normalize(images + 0.1 * unit(count, 64, 1), dim=-1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    metrics = recall(images, captions, own_pairs(count))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 600
    assert metrics["image_to_text_r1"] > 0.99

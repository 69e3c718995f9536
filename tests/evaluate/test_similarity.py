"""How alike different things are, against a loop over all pairs."""

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from clipft.evaluate.parts import Part
from clipft.evaluate.similarity import mean_similarity, similarities


def unit(rows: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows)), dim=-1)


def plain(features: torch.Tensor, kinds: list[int]) -> float:
    pairs = [(a, b) for a, b in combinations(range(len(kinds)), 2) if kinds[a] != kinds[b]]
    return sum(float(features[a] @ features[b]) for a, b in pairs) / len(pairs)


def test_it_is_the_mean_over_pairs_of_different_kinds() -> None:
    """P25: 500 pictures of one class and one of another do not make it high."""
    features, kinds = unit(9), [0, 0, 1, 2, 2, 2, 4, 0, 1]
    assert mean_similarity(features, torch.tensor(kinds)) == pytest.approx(plain(features, kinds))
    one = torch.cat([features[:1].expand(500, -1), features[1:2]])
    found = mean_similarity(one, torch.tensor([0] * 500 + [1]))
    assert found == pytest.approx(float(features[0] @ features[1]))


def test_one_kind_has_no_pairs() -> None:
    assert mean_similarity(unit(4), torch.zeros(4, dtype=torch.int64)) is None


def test_an_image_counts_once_and_only_with_a_text() -> None:
    """Two captions of an image are no pair of images; a row without a class is left out."""
    images, texts = unit(3), unit(4)
    part = Part({}, {}, (), images, texts, torch.tensor([0, 1, 3, -1]))
    found = similarities(part, torch.tensor([0, 0, 1, 2]))
    assert found["image_similarity"] == pytest.approx(float(images[0] @ images[1]))
    assert found["text_similarity"] == pytest.approx(plain(texts, [0, 1, 2, 3]))


def test_a_classifier_has_no_texts() -> None:
    part = Part({}, {}, (), unit(3), None, torch.tensor([0, 1, 0]))
    assert set(similarities(part, torch.arange(3))) == {"image_similarity"}

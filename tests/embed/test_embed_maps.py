from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from clipft.data.columns import TextColumn
from clipft.data.rows import FileImages, Rows
from clipft.embed.features import Embeddings, Features, Side
from clipft.embed.maps import balance, draw_map, principal_axes
from clipft.embed.methods import choose_methods
from clipft.embed.thumbnails import MOST_DRAWN
from clipft.errors import InputError


def made(count: int, classes: int, sides: tuple[Side, ...] = ("base",), gap: float = 0.0) -> Embeddings:
    """Images around their class in 16 dimensions, classes' texts near it but for a gap."""
    rng = torch.Generator().manual_seed(0)
    labels = np.arange(count) % classes
    centres = torch.randn(classes, 16, generator=rng)
    images = normalize(centres[labels] + 0.3 * torch.randn(count, 16, generator=rng), dim=1)
    texts = normalize(centres + gap * torch.ones(16), dim=1)
    numbers = np.arange(count)
    paths = FileImages("", TextColumn.of(f"{i}.jpg" for i in numbers))
    rows = Rows("rows", paths, None, labels, tuple(f"class {i}" for i in range(classes)), numbers, numbers)
    features = Features("a model", 100.0, images, None, texts)
    nothing = (None,) * count
    return Embeddings("it", rows, numbers, None, ("{}",), "fp32", dict.fromkeys(sides, features), nothing, (), ())


def test_principal_axes_are_numpys_svd() -> None:
    """Of weighted points around 0: the right singular vectors of the points times the roots of their weights."""
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(40, 12)) * np.arange(1, 13), rng.integers(1, 4, 40).astype(float)
    axes, shares = principal_axes(torch.from_numpy(points), torch.from_numpy(weights), 5)
    _, singular, right = np.linalg.svd(points * np.sqrt(weights)[:, None], full_matrices=False)
    assert np.abs((axes.numpy() * right[:5].T).sum(axis=0)) == pytest.approx(np.ones(5))
    assert shares.numpy() == pytest.approx((singular**2 / (singular**2).sum())[:5])
    largest = np.abs(axes.numpy()).argmax(axis=0)
    assert (axes.numpy()[largest, range(5)] > 0).all()  # the sign is the same wherever it is drawn


def test_pca_of_a_map_is_numpys_on_the_balanced_rows() -> None:
    embeddings = made(30, 3)
    layout = draw_map(embeddings, ["pca"]).layout("base", "pca")
    features = embeddings.sides["base"]
    assert features.classes is not None
    labels = embeddings.labels()
    kinds = [features.images.double().numpy(), features.classes.double().numpy()[labels]]  # (30, 16) each
    kinds = [kind - kind.mean(axis=0) for kind in kinds]
    kinds = [kind / np.sqrt((kind**2).sum(axis=1).mean()) for kind in kinds]
    both = np.concatenate(kinds)
    _, singular, right = np.linalg.svd(both, full_matrices=False)
    expected = both @ right[:2].T
    found = np.concatenate([layout.points["image"], layout.points["class"][labels]])
    signs = np.sign((found * expected).sum(axis=0))
    assert found * signs == pytest.approx(expected, abs=1e-6)
    assert layout.share == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum())


def test_balance_is_over_rows_and_leaves_out_those_without() -> None:
    vectors, of_row = torch.randn(4, 6), np.array([0, 0, 1, 2, -1, 2, 2])  # nothing has vector 3
    moved = balance(vectors, of_row)
    over_rows = moved[of_row[of_row >= 0]]
    assert over_rows.mean(dim=0).abs().max() < 1e-12
    assert float(over_rows.square().sum(dim=1).mean()) == pytest.approx(1)
    whole = vectors.double()
    stretched = torch.pdist(moved) / torch.pdist(whole)
    assert float(stretched.max() - stretched.min()) < 1e-9  # moved and scaled, not bent
    same = balance(torch.ones(3, 6), np.array([0, 1, 2]))
    assert not same.any()


def test_the_gap_between_images_and_texts_does_not_show() -> None:
    """However far the texts lie off, each class's is nearest to its own images."""
    for gap in (0.0, 3.0):
        layout = draw_map(made(90, 3, gap=gap), ["pca"]).layout("base", "pca")
        images, texts = layout.points["image"], layout.points["class"]
        middles = np.stack([images[np.arange(90) % 3 == label].mean(axis=0) for label in range(3)])
        distances = np.linalg.norm(middles[:, None] - texts[None], axis=2)
        assert distances.argmin(axis=1).tolist() == [0, 1, 2]


def test_models_are_flipped_to_lie_alike() -> None:
    embeddings = made(60, 4, ("base", "tuned"))
    base = embeddings.sides["base"]
    assert base.classes is not None
    mirrored = replace(base, images=-base.images, classes=-base.classes)
    drawn = draw_map(replace(embeddings, sides={"base": base, "tuned": mirrored}), ["pca"])
    one, other = drawn.layout("base", "pca"), drawn.layout("tuned", "pca")
    assert other.points["image"] == pytest.approx(one.points["image"], abs=1e-9)
    assert other.points["class"] == pytest.approx(one.points["class"], abs=1e-9)


def test_captions_and_images_are_paired_by_their_places(captioned: Embeddings) -> None:
    drawn = draw_map(captioned, ["pca"])
    assert (drawn.images.tolist(), drawn.captions.tolist()) == (list(range(8)), list(range(7)))
    assert drawn.pairs.tolist() == [[0, 0], [1, 1], [2, 0], [3, 2], [4, 3], [5, 4], [6, 5], [7, 5], [7, 6]]
    for side in ("base", "tuned"):
        points = drawn.layout(side, "pca").points  # type: ignore[arg-type]
        assert {kind: len(some) for kind, some in points.items()} == {"image": 8, "caption": 7, "class": 3}


def test_of_many_images_one_of_every_so_many_is_drawn() -> None:
    drawn = draw_map(made(MOST_DRAWN + 1, 4), ["pca"])
    assert len(drawn.images) == MOST_DRAWN // 2 + 1
    assert len(drawn.layout("base", "pca").points["image"]) == len(drawn.images)


def test_a_single_image_lies_somewhere() -> None:
    drawn = draw_map(made(1, 1), ["pca", "tsne"])
    assert drawn.methods == ("pca",)
    assert drawn.notes == ("t-SNE needs at least 5 points, found 2",)
    assert np.isfinite(drawn.layout("base", "pca").points["image"]).all()
    assert drawn.layout("base", "pca").share == 0


@pytest.mark.parametrize(
    ("method", "library"),
    [("tsne", "sklearn"), pytest.param("umap", "umap", marks=pytest.mark.slow)],  # numba
)
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_neighbours_stay_neighbours_and_the_map_is_the_same_again(method: str, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    embeddings = made(60, 3)
    points = draw_map(embeddings, ["pca", method]).layout("base", method).points  # type: ignore[list-item, arg-type]
    everything = np.concatenate([points["image"], points["class"]])
    labels = np.concatenate([embeddings.labels(), np.arange(3)])
    distances = np.linalg.norm(everything[:, None] - everything[None], axis=2) + np.diag(np.full(63, np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95
    again = draw_map(embeddings, ["pca", method]).layout("base", method).points  # type: ignore[list-item, arg-type]
    assert np.array_equal(points["image"], again["image"])


def test_methods_are_those_that_are_installed() -> None:
    there = {
        "tsne": importlib.util.find_spec("sklearn") is not None,
        "umap": importlib.util.find_spec("umap") is not None,
    }
    assert choose_methods("pca") == ("pca",)
    assert choose_methods("auto") == ("pca", *[method for method in there if there[method]][:1])
    for method, extra in (("tsne", "plot"), ("umap", "umap")):
        if there[method]:
            assert choose_methods(method) == ("pca", method)  # type: ignore[arg-type]
        else:
            with pytest.raises(InputError, match=rf"--method: {method} needs .* pip install 'clipft\[{extra}\]'"):
                choose_methods(method)  # type: ignore[arg-type]

"""Features in two dimensions: PCA, and t-SNE or UMAP where a library for it is installed.

Images and texts lie in two narrow cones of their own (Liang et al. 2022, Mind the Gap): drawn as they are, all that
shows is the gap. So each kind is moved to its own mean over the rows and scaled to the same spread, and all of them
are laid out together. A distance between an image and a text in the map is therefore no cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipft.data.columns import Ints
from clipft.embed.features import Embeddings, Features, Side
from clipft.embed.methods import NAMES, Method
from clipft.embed.thumbnails import drawn_every

Kind = Literal["image", "caption", "class"]
Points = NDArray[np.float64]

COMPONENTS = 50  # that the other methods start from: van der Maaten & Hinton 2008, section 4.2, has 30
_FEWEST = 5  # points that have neighbours to speak of


@dataclass(frozen=True, eq=False)
class Layout:
    """One model's points by one method.

    Args:
        side: base or tuned.
        method: pca, tsne or umap.
        points: (M, 2) of each kind that there is.
        share: by PCA, the share of all variance that lies in the two axes; else None.
    """

    side: Side
    method: Method
    points: Mapping[Kind, Points]
    share: float | None


@dataclass(frozen=True, eq=False)
class Map:
    """What is drawn.

    Args:
        images: (I,) which of the distinct images.
        captions: (T,) which of the distinct captions.
        pairs: (P, 2) an image and its caption, as places in these two.
        methods: PCA and what else there is.
        layouts: every model by every method.
        notes: what to say about it.
    """

    images: Ints
    captions: Ints
    pairs: Ints
    methods: tuple[Method, ...]
    layouts: tuple[Layout, ...]
    notes: tuple[str, ...]

    def layout(self, side: Side, method: Method) -> Layout:
        """One model by one method."""
        return next(layout for layout in self.layouts if (layout.side, layout.method) == (side, method))


def draw_map(embeddings: Embeddings, methods: Sequence[Method]) -> Map:
    """Lay out every model's images, captions and classes; of many images one of every so many."""
    shown = _shown(embeddings)
    possible, notes = _possible(methods, len(shown.images) + len(shown.captions) + len(embeddings.classes))
    layouts = [
        Layout(side, method, points, share)
        for side, features in embeddings.sides.items()
        for method, points, share in _laid_out(_moved(features, shown), shown.of_rows, possible)
    ]
    return Map(shown.images, shown.captions, shown.pairs(), tuple(possible), tuple(_turned_alike(layouts)), notes)


@dataclass(frozen=True, eq=False)
class _Shown:
    """What of the rows is drawn.

    Args:
        images: (I,) which of the distinct images.
        captions: (T,) which of the distinct captions: theirs.
        of_rows: of each kind that there is (N,) the one that a row has, -1 for none; images and captions by their
            place in the two above.
    """

    images: Ints
    captions: Ints
    of_rows: Mapping[Kind, Ints]

    def pairs(self) -> Ints:
        """(P, 2) the different pairs of an image and a caption."""
        if "caption" not in self.of_rows:
            return np.zeros((0, 2), np.int64)
        return np.unique(np.stack([self.of_rows["image"], self.of_rows["caption"]], axis=1), axis=0)


def _shown(embeddings: Embeddings) -> _Shown:
    count = len(embeddings.first_rows())
    images = np.arange(0, count, drawn_every(len(embeddings.rows)))
    place = np.full(count, -1)
    place[images] = np.arange(len(images))
    rows = np.flatnonzero(place[embeddings.image_of] >= 0)
    of_rows: dict[Kind, Ints] = {"image": place[embeddings.image_of[rows]]}
    captions = np.zeros(0, np.int64)
    if embeddings.caption_of is not None:
        captions, of_rows["caption"] = np.unique(embeddings.caption_of[rows], return_inverse=True)
    if embeddings.classes:
        of_rows["class"] = embeddings.labels()[rows]
    return _Shown(images, captions, of_rows)


def _moved(features: Features, shown: _Shown) -> dict[Kind, Tensor]:
    """Each kind's vectors, balanced."""
    vectors: dict[Kind, Tensor | None] = {
        "image": features.images[shown.images],
        "caption": None if features.captions is None else features.captions[shown.captions],
        "class": features.classes,
    }
    return {kind: balance(some, shown.of_rows[kind]) for kind, some in vectors.items() if some is not None}


def _possible(methods: Sequence[Method], points: int) -> tuple[Sequence[Method], tuple[str, ...]]:
    """Without the methods that look for neighbours, where there are hardly any."""
    if points >= _FEWEST:
        return methods, ()
    return ("pca",), tuple(f"{NAMES[m]} needs at least {_FEWEST} points, found {points}" for m in methods if m != "pca")


def balance(vectors: Tensor, of_row: Ints) -> Tensor:
    """(M, D) float64, the vectors moved and scaled so that over the rows their mean is 0 and their mean square 1.

    Args:
        vectors: (M, D) of one kind.
        of_row: (N,) which of them each row has, -1 for none.
    """
    whole, weights = vectors.double(), _weights(of_row, len(vectors))
    moved = whole - weights @ whole
    spread = (weights @ moved.square().sum(dim=1)).sqrt()
    return moved / spread if spread > 1e-9 else moved


def _weights(of_row: Ints, count: int) -> Tensor:
    """(count,) the share of the rows that have each."""
    rows = torch.from_numpy(np.bincount(of_row[of_row >= 0], minlength=count)).double()
    return rows / rows.sum().clamp(min=1)


def principal_axes(points: Tensor, weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions in which points around 0 spread most, and the share of the variance in each.

    Args:
        points: (M, D) float64.
        weights: (M,) how much each counts.
        count: how many directions.

    Returns:
        (D, count) orthonormal, the entry that is largest in size positive; (count,) the shares.
    """
    covariance = (points * weights[:, None]).T @ points  # (D, D)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    axes = vectors.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return axes * largest.sign(), values.flip(0)[:count].clamp(min=0) / values.sum().clamp(min=1e-12)


def _laid_out(
    moved: Mapping[Kind, Tensor], of_rows: Mapping[Kind, Ints], methods: Sequence[Method]
) -> list[tuple[Method, dict[Kind, Points], float | None]]:
    """Each method's points by kind, and PCA's share; every kind weighs the same, a point as often as rows have it."""
    everything = torch.cat(list(moved.values()))
    weights = torch.cat([_weights(of_rows[kind], len(some)) for kind, some in moved.items()])
    axes, shares = principal_axes(everything, weights, COMPONENTS)
    components = (everything @ axes).numpy()  # (M, up to 50)
    sizes = np.cumsum([len(vectors) for vectors in moved.values()])[:-1]
    found: list[tuple[Method, dict[Kind, Points], float | None]] = []
    ways: dict[Method, Callable[[Points], Points]] = {"pca": _by_pca, "tsne": _by_tsne, "umap": _by_umap}
    for method in methods:
        flat = ways[method](components)
        points = dict(zip(moved, np.split(flat, sizes), strict=True))
        found.append((method, points, float(shares[:2].sum()) if method == "pca" else None))
    return found


def _by_pca(components: Points) -> Points:
    return components[:, :2]


def _by_tsne(components: Points) -> Points:
    """From PCA's map as the start, so that the layout keeps its outline (Kobak & Berens 2019, Nature Comm. 10:5416)."""
    from sklearn.manifold import TSNE

    start = _by_pca(components) / max(components[:, 0].std(), 1e-12) * 1e-4
    perplexity = min(30.0, (len(components) - 1) / 3)  # 30: scikit-learn's default
    flat: Points = TSNE(init=start, perplexity=perplexity, random_state=0).fit_transform(components)
    return flat.astype(np.float64)


def _by_umap(components: Points) -> Points:
    """From the same start (Kobak & Linderman 2021, Nature Biotech. 39:156)."""
    from umap import UMAP

    neighbours = min(15, len(components) - 1)  # 15: umap-learn's default
    start = _by_pca(components).astype(np.float32)
    # one thread: with more, the same seed gives other maps
    made = UMAP(n_neighbors=neighbours, init=start, random_state=0, n_jobs=1)
    flat: Points = made.fit_transform(components)
    return flat.astype(np.float64)


def _turned_alike(layouts: Sequence[Layout]) -> list[Layout]:
    """A map's left and right, up and down mean nothing: flip each so that its images lie as in the first model's."""
    first: dict[Method, Points] = {}
    turned = []
    for layout in layouts:
        images = layout.points["image"]
        like = first.setdefault(layout.method, images)
        signs = np.where((images * (like - like.mean(axis=0))).sum(axis=0) < 0, -1.0, 1.0)
        points = {kind: some * signs for kind, some in layout.points.items()}
        turned.append(Layout(layout.side, layout.method, points, layout.share))
    return turned

"""The methods that lay out a map, and which of them this installation has; without torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from clipft.errors import InputError

Method = Literal["pca", "tsne", "umap"]

NAMES: dict[Method, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_LIBRARIES: dict[Method, tuple[str, str]] = {
    "tsne": ("sklearn", "scikit-learn: pip install 'clipft[plot]'"),
    "umap": ("umap", "umap-learn: pip install 'clipft[umap]'"),
}


def choose_methods(wanted: Literal["auto", "pca", "tsne", "umap"]) -> tuple[Method, ...]:
    """PCA, and beside it what is asked for; `auto` takes t-SNE, else UMAP, where a library for it is installed.

    Raises:
        InputError: the library for it is missing.
    """
    there: list[Method] = [method for method, (library, _) in _LIBRARIES.items() if find_spec(library)]
    if wanted == "pca":
        return ("pca",)
    if wanted == "auto":
        return ("pca", *there[:1])
    if wanted not in there:
        raise InputError(f"--method: {wanted} needs {_LIBRARIES[wanted][1]} (pca needs nothing)")
    return ("pca", wanted)

"""Vectors on a plane: by PCA of scikit-learn or by UMAP, and which of them are nearest to each.

Shapes: N vectors of E dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.pictures.figures.figure import Picture

Method = Literal["pca", "umap"]
NUM_NEAREST = 3
LONGEST_TEXT = 120
FEWEST_FOR_UMAP = 5
"""Fewer vectors have no neighbourhoods to keep, and are mapped by PCA."""


@dataclass(frozen=True)
class Mapped:
    """Makes the picture of vectors in the column `vector` one of places: x and y in its stead, and the nearest rows."""

    vector: str
    names: tuple[str, ...]
    """The columns that name a row."""
    texts: tuple[str, ...]
    method: Method

    def __call__(self, picture: Picture) -> Picture:
        place = picture.columns.index(self.vector)
        vectors_NE = np.array([row[place] for row in picture.rows], dtype=np.float64)
        if not len(vectors_NE):
            return replace(picture, columns=(*_without(picture.columns, place), "x", "y", "nearest (cosine)"))
        places_N2, told = plane(vectors_NE, self.method)
        nearest = self._nearest(picture, vectors_NE)
        rows = tuple(
            (*self._cut(picture.columns, _without(row, place)), round(float(x), 4), round(float(y), 4), near)
            for row, (x, y), near in zip(picture.rows, places_N2, nearest, strict=True)
        )
        figure = replace(picture.figure, notes=(*picture.figure.notes, told))
        return Picture(figure, (*_without(picture.columns, place), "x", "y", "nearest (cosine)"), rows)

    def _nearest(self, picture: Picture, vectors_NE: NDArray[np.float64]) -> list[str]:
        shown = self.texts[:1] or self.names
        of_rows = [picture.column(name) for name in shown]
        named = [", ".join(_short(value) for value in row) for row in zip(*of_rows, strict=True)]
        return [
            "; ".join(f"{named[other]} ({cosine:.2f})" for other, cosine in near) for near in nearest_of(vectors_NE)
        ]

    def _cut(self, columns: Sequence[str], row: Sequence[Any]) -> list[Any]:
        columns = [name for name in columns if name != self.vector]
        return [
            _short(value) if name in self.texts and value is not None else value
            for name, value in zip(columns, row, strict=True)
        ]


def plane(vectors_NE: NDArray[np.float64], method: Method) -> tuple[NDArray[np.float64], str]:
    """Places of vectors on a plane, and in one sentence what the axes are. The same vectors have the same places.

    Raises:
        ConfigError: the method's library is not installed.
    """
    if method == "umap" and len(vectors_NE) >= FEWEST_FOR_UMAP:
        return _by_umap(vectors_NE), (
            "UMAP keeps neighbours together: how far apart groups are, and how large, says little."
        )
    return _by_pca(vectors_NE)


def nearest_of(vectors_NE: NDArray[np.float64]) -> list[list[tuple[int, float]]]:
    """Of each vector the nearest others and their cosine, the nearest first."""
    lengths_N1 = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    unit_NE = np.divide(vectors_NE, lengths_N1, out=np.zeros_like(vectors_NE), where=lengths_N1 > 0)
    cosines_NN = unit_NE @ unit_NE.T
    np.fill_diagonal(cosines_NN, -np.inf)
    order_NK = np.argsort(-cosines_NN, axis=1, kind="stable")[:, : min(NUM_NEAREST, len(vectors_NE) - 1)]
    return [[(int(other), float(cosines_NN[one, other])) for other in near] for one, near in enumerate(order_NK)]


def _by_pca(vectors_NE: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    num_axes = min(2, *vectors_NE.shape)
    places_N2 = np.zeros((len(vectors_NE), 2))
    if not np.ptp(vectors_NE, axis=0).any():
        return places_N2, "All vectors are the same one."
    try:
        from sklearn.decomposition import PCA
    except ImportError as e:
        raise ConfigError('A map of vectors needs scikit-learn: pip install "tidemill[report]".') from e
    found = PCA(num_axes, svd_solver="full", random_state=0)
    places_N2[:, :num_axes] = found.fit_transform(vectors_NE)
    kept = float(found.explained_variance_ratio_.sum())
    return places_N2, (
        f"The axes are the two directions in which the vectors differ most (PCA); they have {kept:.0%} of how they "
        "differ, so rows that lie together may still differ in the rest."
    )


def _by_umap(vectors_NE: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        from umap import UMAP
    except ImportError as e:
        raise ConfigError(
            'report.map = "umap" needs UMAP, which is not installed: pip install "tidemill[umap]". Or set report.map '
            'to "pca".'
        ) from e
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A seed makes it use one thread, and it says so.
        found = UMAP(n_neighbors=min(15, len(vectors_NE) - 1), metric="cosine", random_state=0)
        places: NDArray[np.float64] = np.asarray(found.fit_transform(vectors_NE), dtype=np.float64)
    return places


def _without(values: Sequence[Any], place: int) -> tuple[Any, ...]:
    return (*values[:place], *values[place + 1 :])


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"

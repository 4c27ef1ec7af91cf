"""Vectors on a plane."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.pictures.figures.mapping import nearest_of, plane


def groups(num_rows: int = 40) -> np.ndarray:
    draw = np.random.default_rng(1)
    centres = np.eye(2, 8) * 10
    return centres[np.arange(num_rows) % 2] + draw.normal(size=(num_rows, 8))


def test_groups_that_are_apart_are_apart_on_the_plane_and_the_same_vectors_have_the_same_places():
    places, told = plane(groups(), "pca")

    first, second = places[::2, 0], places[1::2, 0]
    assert max(first) < min(second) or max(second) < min(first)
    assert "PCA" in told
    assert np.array_equal(places, plane(groups(), "pca")[0])


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((5, 4)), np.array([[1.0], [2.0], [3.0]]), np.eye(2)])
def test_few_vectors_equal_ones_and_those_of_one_dimension_have_places(vectors):
    places, told = plane(vectors, "pca")

    assert places.shape == (len(vectors), 2)
    assert np.isfinite(places).all()
    assert told


def test_the_nearest_are_by_cosine_and_none_is_its_own():
    near = nearest_of(np.array([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [0.0, 0.0]]))

    other, cosine = near[0][0]
    assert other == 1
    assert cosine == pytest.approx(0.9998, abs=1e-4)
    assert all(one not in [place for place, _ in others] for one, others in enumerate(near))
    assert nearest_of(np.ones((1, 3))) == [[]]


@pytest.mark.soak
def test_umap_keeps_groups_together():
    places, told = plane(groups(), "umap")

    centres = places[::2].mean(axis=0), places[1::2].mean(axis=0)
    spread = max(np.linalg.norm(places[i::2] - centres[i], axis=1).max() for i in (0, 1))
    assert np.linalg.norm(centres[0] - centres[1]) > spread
    assert "UMAP" in told

"""The map of the catalogue: likeness on paper is likeness in the vectors, and the same each time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_app.gateway.item_map import NEIGHBOURS, item_map, nearest

PER_CLUSTER = NEIGHBOURS + 10


def clusters(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """`PER_CLUSTER` vectors about each of `count` directions, of all lengths."""
    rng = np.random.default_rng(seed)
    middles = np.repeat(rng.standard_normal((count, 16)), PER_CLUSTER, axis=0)
    vectors = middles + 0.2 * rng.standard_normal(middles.shape)
    return (vectors * rng.uniform(0.1, 9.0, (len(vectors), 1))).astype(np.float32)


def test_items_lie_beside_those_they_are_like() -> None:
    places = item_map(clusters(6))
    cluster = np.arange(len(places)) // PER_CLUSTER
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    beside = np.argsort(distance, axis=1)[:, :5]
    assert (cluster[beside] == cluster[:, None]).mean() > 0.95


def test_the_map_fills_the_unit_square_and_no_more() -> None:
    places = item_map(clusters(4))
    assert places.shape == (4 * PER_CLUSTER, 2)
    assert places.min() >= 0.0
    assert places.max() <= 1.0
    assert np.ptp(places, axis=0).max() == pytest.approx(1.0)


def test_the_same_vectors_give_the_same_map() -> None:
    vectors = clusters(3)
    assert np.array_equal(item_map(vectors), item_map(vectors.copy()))


@pytest.mark.parametrize("n_items", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("dimensions", [1, 2, 8])
def test_a_catalogue_of_few_items_has_a_map_too(n_items: int, dimensions: int) -> None:
    vectors = np.random.default_rng(1).standard_normal((n_items, dimensions)).astype(np.float32)
    places = item_map(vectors)
    assert places.shape == (n_items, 2)
    assert np.isfinite(places).all()


def test_equal_items_and_items_without_a_vector_are_placed_all_the_same() -> None:
    vectors = np.zeros((40, 4), np.float32)
    vectors[20:] = 1.0
    places = item_map(vectors)
    assert np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == 40, "dots on one spot cannot be told apart"


def test_neighbours_are_the_most_alike_by_cosine_best_first_without_the_item_itself() -> None:
    vectors = np.array([[1, 0], [5, 5], [0, 3], [2, 0.1], [-1, 0]], np.float32)
    indices, cosines = nearest(vectors, 0, 3)
    assert indices.tolist() == [3, 1, 2]
    assert cosines == pytest.approx([0.99875, np.sqrt(0.5), 0.0], abs=1e-4)
    assert len(nearest(vectors, 0, 99)[0]) == 4

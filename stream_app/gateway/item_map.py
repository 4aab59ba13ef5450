"""A map of the catalogue: item vectors laid out on a plane, so that like items lie together.

Close to UMAP (McInnes, Healy & Melville 2018, arXiv 1802.03426): a graph of nearest neighbours, laid
out by attraction along its edges and repulsion from items drawn at random.  Ours differs: an edge
counts the same however near it is, all edges move at once in each round, and the start is the plane of
the two largest principal components, so that the same vectors give the same map.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS: Final = 15
ROUNDS: Final = 160
REPELLED: Final = 5
"""Items drawn at random, per edge and round."""
_BLOCK: Final = 1024
"""Rows of the similarity matrix that are in memory at once."""
_STEP_MAX: Final = 4.0
_A, _B = 0.02, 1.3
"""UMAP's curve 1 / (1 + a d^2b), its equation 17.  Flat near 0, so that the items of a cluster spread
until their dots can be told apart; with its usual 1.6 and 0.9 a cluster of 50 is one blot."""

Vectors = NDArray[np.float32]


def item_map(vectors: Vectors, *, seed: int = 0) -> Vectors:
    """float32 [items, dimensions] -> float32 [items, 2], every coordinate in [0, 1].

    Likeness is cosine; a vector of zeros is like nothing.  Takes about a second for 2,000 items and
    grows with their square: give it the items one wants to see, not a catalogue of a million.
    """
    n_items = len(vectors)
    if n_items < 3:
        return np.linspace(0.25, 0.75, n_items, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    unit = _unit(vectors)
    heads, tails = _edges(unit, min(NEIGHBOURS, n_items - 1))
    places = _principal_plane(unit)
    rng = np.random.default_rng(seed)
    for round_ in range(ROUNDS):
        _move(places, heads, tails, rng, rate=1.0 - round_ / ROUNDS)
    return _fitted(places)


def nearest(vectors: Vectors, index: int, count: int) -> tuple[NDArray[np.int64], Vectors]:
    """The `count` items most like the one at `index`, itself left out: indices and cosines, best first."""
    unit = _unit(vectors)
    similarity = unit @ unit[index]
    similarity[index] = -np.inf
    order = np.argsort(-similarity, kind="stable")[: min(count, len(vectors) - 1)]
    return order, similarity[order]


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def _edges(unit: Vectors, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every item and its `count` nearest: two int64 [items * count]."""
    tails = np.empty((len(unit), count), np.int64)
    for begin in range(0, len(unit), _BLOCK):
        similarity = unit[begin : begin + _BLOCK] @ unit.T
        rows = np.arange(len(similarity))
        similarity[rows, begin + rows] = -np.inf
        tails[begin : begin + _BLOCK] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return np.repeat(np.arange(len(unit)), count), tails.ravel()


def _principal_plane(unit: Vectors) -> NDArray[np.float64]:
    """The start, about 20 wide: wide enough that clusters can pass each other."""
    centred = (unit - unit.mean(axis=0)).astype(np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    # An eigenvector's sign is a coin toss of the linear algebra at hand: make it ours.
    axes = axes * np.where(np.abs(axes).max(axis=0) == axes.max(axis=0), 1.0, -1.0)
    places = centred @ axes
    if places.shape[1] < 2:
        places = np.column_stack([places, np.zeros(len(places))])
    # Equal vectors would stay on one spot for ever: no direction leads apart.
    places += 1e-4 * np.random.default_rng(0).standard_normal(places.shape)
    plane: NDArray[np.float64] = places / max(float(np.abs(places).max()), 1e-12) * 10.0
    return plane


def _move(
    places: NDArray[np.float64],
    heads: NDArray[np.int64],
    tails: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    rate: float,
) -> None:
    """One round, in place: the gradient of UMAP's cross entropy, clipped as there."""
    apart = places[heads] - places[tails]  # [edges, 2]
    square = (apart**2).sum(axis=1)
    pull = -2.0 * _A * _B * square ** (_B - 1.0) / (1.0 + _A * square**_B)
    pull = np.where(square > 0.0, pull, 0.0)[:, None] * apart
    forces = _summed(heads, pull, len(places)) + _summed(tails, -pull, len(places))

    others = rng.integers(len(places), size=(REPELLED, len(heads))).ravel()
    selves = np.tile(heads, REPELLED)
    apart = places[selves] - places[others]
    square = (apart**2).sum(axis=1)
    push = 2.0 * _B / ((0.001 + square) * (1.0 + _A * square**_B))
    push_along = np.clip(push[:, None] * apart, -_STEP_MAX, _STEP_MAX)
    forces += _summed(selves, push_along, len(places))
    places += rate * np.clip(forces / NEIGHBOURS, -_STEP_MAX, _STEP_MAX)


def _summed(
    rows: NDArray[np.int64], values: NDArray[np.float64], n_rows: int
) -> NDArray[np.float64]:
    return np.column_stack([np.bincount(rows, values[:, axis], n_rows) for axis in (0, 1)])


def _fitted(places: NDArray[np.float64]) -> Vectors:
    """Scaled alike on both axes, and centred."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    fitted: Vectors = (0.5 + (places - (low + high) / 2.0) / span).astype(np.float32)
    return np.clip(fitted, 0.0, 1.0)

"""Two rankers blended: a model's lists and session-kNN's, each made into shares of one."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.errors import ConfigurationError
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists, Ranker, best_of

DEPTH: Final = 100
"""Items taken from each; what neither lists so far up is not listed."""


class BlendRanker:
    """score(j) = weight x model share(j) + (1 - weight) x kNN share(j).

    A model's share is the softmax over its best `DEPTH` scores at `temperature`; a kNN's, whose scores
    are sums of votes, the score divided by the sum over its best `DEPTH`.
    """

    def __init__(
        self, model: Ranker, knn: Ranker, *, weight: float = 0.5, temperature: float = 1.0
    ) -> None:
        if not 0 <= weight <= 1:
            raise ConfigurationError(f"a blend's weight is from 0 to 1, got {weight}")
        self.name = f"{model.name} + {knn.name} ({weight:g})"
        self.catalogue: NDArray[np.bool_] = model.catalogue | knn.catalogue
        self._model, self._knn = model, knn
        self._weight, self._temperature = weight, temperature

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        """Holds the model's `DEPTH` best of every target in memory: 1.2 kB each."""
        n = asked.n_targets
        model_items = np.full((n, DEPTH), -1, dtype=np.int32)
        model_shares = np.zeros((n, DEPTH))
        for part in self._model.lists(asked, DEPTH):
            model_items[part.rows] = part.items
            model_shares[part.rows] = _softmax(part.scores / self._temperature)
        for part in self._knn.lists(asked, DEPTH):
            shares = _shares(part.scores)
            items = np.full((len(part.rows), k), -1, dtype=np.int64)
            scores = np.full((len(part.rows), k), -np.inf)
            for place, row in enumerate(part.rows.tolist()):
                items[place], scores[place] = _merged(
                    np.concatenate([model_items[row], part.items[place]]),
                    np.concatenate(
                        [self._weight * model_shares[row], (1 - self._weight) * shares[place]]
                    ),
                    k,
                )
            yield Lists(part.rows, items, scores)


def _merged(
    items: NDArray[np.int64], shares: NDArray[np.float64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Best `k` by the sum of an item's shares; without -1 and without items that have no share."""
    distinct, place = np.unique(items, return_inverse=True)
    total = np.bincount(place, weights=shares).astype(np.float64, copy=False)
    total[(distinct < 0) | (total <= 0)] = -np.inf
    best, values = best_of(total, k)
    return np.where(best >= 0, distinct[best], -1), values


def _softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    largest = np.max(scores, axis=1, keepdims=True)
    parts = np.exp(np.where(np.isfinite(scores), scores - largest, -np.inf), dtype=np.float64)
    shares: NDArray[np.float64] = parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    return shares


def _shares(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    votes = np.where(np.isfinite(scores), scores, 0.0)
    shares: NDArray[np.float64] = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-300)
    return shares

"""Nearest items to the session in item2vec space: what the vectors alone are worth as a recommender."""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists, best_of_rows

_SCORES_TOGETHER: Final = 2**23


class Item2VecConfig(msgspec.Struct, frozen=True, kw_only=True):
    decay: float = 0.5
    """An item one click further back weighs so much less."""
    seen_weight: float = 0.9
    """Cosine of items that the session clicked already is multiplied by this; 0 lists them last."""


class Item2VecRanker:
    """Largest cosine to the decayed mean of the session's item vectors (Barkan & Koenigstein 2016, 1603.04259,
    for the vectors; the mean over a session is the usual way from items to sessions)."""

    name = "item2vec"

    def __init__(
        self, vectors: NDArray[np.float32], known: NDArray[np.bool_], config: Item2VecConfig
    ) -> None:
        """vectors: float32 [n_items, n_dimensions]; known: bool [n_items], rows that mean something."""
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.catalogue: NDArray[np.bool_] = known & (norms[:, 0] > 0)
        self._unit = np.where(self.catalogue[:, None], vectors / np.maximum(norms, 1e-12), 0.0)
        self._unit = self._unit.astype(np.float32)
        self.config = config

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        together = max(1, _SCORES_TOGETHER // max(1, len(self._unit)))
        starts = asked.sessions.session_starts[:-1][asked.session_numbers]
        for rows, means in decayed_means(asked, self._unit, self.config.decay, together):
            norms = np.linalg.norm(means, axis=1, keepdims=True)
            scores = (means / np.maximum(norms, 1e-12)) @ self._unit.T
            for place, row in enumerate(rows.tolist()):
                seen = asked.sessions.item_indexes[starts[row] : asked.positions[row]]
                seen = np.unique(seen[seen >= 0])
                cosine = scores[place, seen]
                # Scaled on 0 .. 2, so that a negative cosine is not raised.
                scores[place, seen] = (1.0 + cosine) * self.config.seen_weight - 1.0
            scores[:, ~self.catalogue] = -np.inf
            scores[norms[:, 0] == 0] = -np.inf
            items, values = best_of_rows(scores, k)
            yield Lists(rows, items, values)


def decayed_means(
    asked: NextClicks, vectors: NDArray[np.float32], decay: float, together: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Sum over a session's items before each target of decay ** (clicks since) x vector.

    Yields rows (places in `asked.positions`, at most `together` at once) and float32 [n, n_dimensions].
    Items outside the vocabulary add nothing, but count as a click.
    """
    items, starts = asked.sessions.item_indexes, asked.sessions.session_starts
    first = starts[:-1][asked.session_numbers]
    for begin in range(0, asked.n_targets, together):
        rows = np.arange(begin, min(begin + together, asked.n_targets))
        sums = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
        back = 1
        while True:
            position = asked.positions[rows] - back
            inside = np.flatnonzero(position >= first[rows])
            weight = decay ** (back - 1)
            if len(inside) == 0 or weight < 1e-4:
                break
            item = items[position[inside]]
            known = item >= 0
            sums[inside[known]] += np.float32(weight) * vectors[item[known]]
            back += 1
        yield rows, sums

"""The items nearest to the last one by item2vec."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from stream_app.core.pair_rows import Ints
from stream_app.core.records import ItemId
from stream_app.core.sources.source import Asked, Batch, Features, Known, Proposed
from stream_app.core.statistics_recipe import StatisticsRecipe


class Item2vecNeighbours:
    """None where the manifest asks for none, or the model does not know the last item."""

    def __init__(self, known: Known) -> None:
        self._n, self._index_of = known.stage.neighbour_items, known.vocabulary.index_of
        self._directions, self._codes = known.directions, known.codes

    @classmethod
    def of(cls, known: Known) -> Self:
        return cls(known)

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:  # noqa: ARG004
        return "item2vec_cosine", "in_vocabulary"

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        proposed = Proposed.joined([self._nearest(each.recent[-1]) for each in asked])
        return proposed._replace(codes=self._codes.of_indexes(proposed.codes))

    def _nearest(self, item_id: ItemId) -> Ints:
        index, n = self._index_of.get(item_id), self._n
        if n == 0 or index is None or len(self._directions) <= n:
            return np.zeros(0, dtype=np.int64)
        cosines = self._directions @ self._directions[index]
        least = np.partition(cosines, len(cosines) - n)[len(cosines) - n]
        return np.flatnonzero(cosines >= least)[: 2 * n]

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:  # noqa: ARG002
        cosine, known = columns.T
        index_of, indexes = self._index_of, batch.indexes
        last = np.array([index_of.get(each.recent[-1], -1) for each in batch.asked], dtype=np.int64)
        last = last[batch.session]
        known[:] = indexes >= 0
        both = np.flatnonzero((indexes >= 0) & (last >= 0))
        directions = self._directions
        cosine[both] = np.einsum("ij,ij->i", directions[indexes[both]], directions[last[both]])

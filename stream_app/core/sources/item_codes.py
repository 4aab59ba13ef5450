"""One number for each item that statistics or vocabulary know, so that arrays can be joined without looking at ids."""

from typing import Final

import numpy as np

from stream_app.core.pair_rows import Ints
from stream_app.core.records import ItemId
from stream_app.core.statistics_view import StatisticsView
from stream_app.core.vocabulary import ItemVocabulary

_UNASKED: Final = -(2**40)


class _Lookups:
    """Which item of a vocabulary is which number of a version, as far as anybody has asked."""

    def __init__(self, vocabulary: ItemVocabulary) -> None:
        self.vocabulary = vocabulary
        self.code_of_index = np.full(len(vocabulary), _UNASKED, dtype=np.int64)
        self.index_of_number: dict[int, int] = {}

    @classmethod
    def of(cls, vocabulary: ItemVocabulary, statistics: StatisticsView) -> "_Lookups":
        """Kept with the version, and gone with it."""
        found = statistics.kept.get(id(vocabulary))
        if found is None or found.vocabulary is not vocabulary:
            found = statistics.kept[id(vocabulary)] = cls(vocabulary)
        assert isinstance(found, cls)
        return found


class ItemCodes:
    """Of one vocabulary and one version of the statistics.

    An item's code is its number in the statistics, or -1 - its index in the vocabulary where they never
    counted it: int64.
    """

    def __init__(self, vocabulary: ItemVocabulary, statistics: StatisticsView) -> None:
        self._vocabulary, self._statistics = vocabulary, statistics
        lookups = _Lookups.of(vocabulary, statistics)
        self._code_of_index = lookups.code_of_index
        self._index_of_number = lookups.index_of_number

    def of_item(self, item_id: ItemId) -> int | None:
        """None for an item that nobody knows."""
        number = self._statistics.number(item_id)
        if number is not None:
            return number
        index = self._vocabulary.index_of.get(item_id)
        return None if index is None else -1 - index

    def of_indexes(self, indexes: Ints) -> Ints:
        """Codes of the vocabulary's items, int64 [n]."""
        codes = self._code_of_index[indexes]
        if (codes == _UNASKED).any():
            number, known = self._statistics.number, self._vocabulary.ids
            for index in np.unique(indexes[codes == _UNASKED]).tolist():
                found = number(known[index])
                self._code_of_index[index] = -1 - index if found is None else found
            codes = self._code_of_index[indexes]
        return codes

    def indexes(self, codes: Ints) -> Ints:
        """Indexes in the vocabulary, -1 where it lacks the item; int64 [n]."""
        kept, names, index_of = (
            self._index_of_number,
            self._statistics.ids,
            self._vocabulary.index_of,
        )
        distinct, place = np.unique(codes, return_inverse=True)
        new = [code for code in distinct.tolist() if code >= 0 and code not in kept]
        for code, item_id in zip(new, names(new), strict=True):
            kept[code] = index_of.get(item_id, -1)
        indexes = [kept[code] if code >= 0 else -1 - code for code in distinct.tolist()]
        return np.array(indexes, dtype=np.int64)[place]

    def ids(self, codes: Ints) -> list[ItemId]:
        """What the items are called."""
        names, known = self._statistics.ids, self._vocabulary.ids
        counted = iter(names([code for code in codes.tolist() if code >= 0]))
        return [ItemId(next(counted)) if code >= 0 else known[-1 - code] for code in codes.tolist()]

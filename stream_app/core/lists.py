"""The lists of a batch's answers: the model's, one for each row it scored, and the statistics'."""

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.ports import Statistics
from stream_app.core.ranking import (
    SHOWN_MAX,
    hashes_of,
    rank_in_shown,
    round_significant,
    unseen,
)
from stream_app.core.records import ItemId, ScoredItem
from stream_app.core.vocabulary import ItemVocabulary

ShownList = tuple[list[ScoredItem], bytes]
"""A list, and what the session remembers of it (`ranking.hashes_of`)."""


NOTHING_BEST: Final = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
"""`ModelLists.best` of a session that the model does not know."""


class ModelLists:
    """Rows of top items turned into lists."""

    def __init__(
        self,
        scores: NDArray[np.float32],
        items: NDArray[np.int64],
        vocabulary: ItemVocabulary,
        top_k: int,
    ) -> None:
        """scores, items: [n, k], best first; k is above `top_k` where seen items are left out."""
        self._all_scores, self._all_items = scores, items
        self._ids, self._top_k = vocabulary.ids, top_k
        self._ranks = range(1, items.shape[1] + 1)
        self._vocabulary = vocabulary

    def best(self, row: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The model's best `n`, as it gave them: indexes and scores."""
        return self._all_items[row, :n], self._all_scores[row, :n]

    @cached_property
    def _scores(self) -> list[list[float]]:
        rounded: list[list[float]] = round_significant(self._all_scores).tolist()
        return rounded

    @cached_property
    def _items(self) -> list[list[int]]:
        items: list[list[int]] = self._all_items.tolist()
        return items

    @cached_property
    def _hashes(self) -> NDArray[np.uint32]:
        shown = self._all_items[:, :SHOWN_MAX]
        return self._vocabulary.hashes[shown].astype("<u4", copy=False)

    def answer(self, row: int, seen: Collection[str] | None) -> ShownList:
        """seen: items to leave out, None for none."""
        ids = self._ids
        items = list(
            map(
                ScoredItem,
                [ids[index] for index in self._items[row]],
                self._scores[row],
                self._ranks,
            )
        )
        if seen is None:
            return items, self._hashes[row].tobytes()
        items = unseen(items, seen, self._top_k)
        return items, hashes_of(items)


class PopularLists:
    """One list for everybody, made once per batch; one per session where seen items are left out."""

    def __init__(self, statistics: Statistics, top_k: int, *, seen_max: int) -> None:
        """seen_max: items that may have to be left out of a list."""
        self._statistics, self._top_k, self._seen_max = statistics, top_k, seen_max
        self._plain: ShownList | None = None

    def answer(self, seen: Collection[str] | None) -> ShownList:
        """seen: items to leave out, None for none."""
        if seen is not None:
            more = self._statistics.top(self._top_k + self._seen_max)
            items = unseen(more, seen, self._top_k)
            return items, hashes_of(items)
        if self._plain is None:
            items = list(self._statistics.top(self._top_k))
            self._plain = items, hashes_of(items)
        return self._plain

    def rank(self, item_id: ItemId, seen: Collection[str] | None) -> int:
        """Rank of the item in the list for everybody, 0 if it is not there, cut as a shown list is.

        seen: items that nobody would have been shown, None for none.  They do not move others up: one
        list does for the whole batch.
        """
        if seen is not None and item_id in seen:
            return 0
        return rank_in_shown(self.answer(None)[1], item_id)


class AssociatedLists:
    """What follows the last items of each of a batch's sessions, all asked for at once."""

    def __init__(
        self,
        statistics: Statistics,
        sessions: Sequence[Sequence[ItemId]],
        top_k: int,
        *,
        seen_max: int,
    ) -> None:
        """sessions: last items, oldest first.  seen_max: items that may have to be left out of a list."""
        self._top_k = top_k
        self._lists = statistics.associated(sessions, top_k + seen_max) if sessions else []

    def answer(self, row: int, seen: Collection[str] | None) -> ShownList | None:
        """seen: items to leave out, None for none.  None: nothing is known to follow the session's items."""
        items = self._lists[row]
        if items is None:
            return None
        items = list(items[: self._top_k]) if seen is None else unseen(items, seen, self._top_k)
        return items, hashes_of(items)

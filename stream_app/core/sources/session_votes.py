"""What past sessions like this one vote for."""

from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from stream_app.core.pair_rows import Ints
from stream_app.core.session_neighbours import NO_VOTES, SessionNeighbours, Votes
from stream_app.core.sources.item_codes import ItemCodes
from stream_app.core.sources.source import (
    LEAST_SHARE,
    LOG_LEAST,
    Asked,
    Batch,
    Features,
    Known,
    Proposed,
    best_of,
)
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.vocabulary import ItemVocabulary

_SPAN: Final = 2**32
"""More than there are items."""


class SessionVotes:
    """None where the bundle has no past sessions.  Of one batch: `propose` remembers the votes for `tell`."""

    def __init__(
        self,
        n: int,
        neighbours: SessionNeighbours | None,
        vocabulary: ItemVocabulary,
        codes: ItemCodes,
    ) -> None:
        self._n, self._neighbours, self._codes = n, neighbours, codes
        self._index_of = vocabulary.index_of
        self._votes: list[Votes] = []

    @classmethod
    def of(cls, known: Known) -> Self:
        return cls(known.stage.session_items, known.neighbours, known.vocabulary, known.codes)

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:  # noqa: ARG004
        return (
            "votes_share",
            "votes_below_best",
            "votes_rank",
            "in_votes",
            "voters",
            "item_sessions",
        )

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        self._votes = [self._votes_of(each) for each in asked]
        proposed = Proposed.joined(
            [best_of(votes.items, votes.scores, self._n) for votes in self._votes]
        )
        return proposed._replace(codes=self._codes.of_indexes(proposed.codes))

    def _votes_of(self, asked: Asked) -> Votes:
        if self._neighbours is None or self._n == 0:
            return NO_VOTES
        last = asked.recent[-self._neighbours.config.clicks_max :]
        return self._neighbours.votes([self._index_of.get(item, -1) for item in last])

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:  # noqa: ARG002
        """Of every candidate that has votes, not only of those that were proposed for them."""
        share, below, rank, within, voters, sessions = columns.T
        share[:] = below[:] = sessions[:] = LOG_LEAST
        votes, session, indexes = self._votes, batch.session, batch.indexes
        if self._neighbours is not None:
            known = indexes >= 0
            support = self._neighbours.support[indexes[known]]
            sessions[known] = np.log(support / max(1, self._neighbours.n_sessions) + LEAST_SHARE)
        voters[:] = np.log1p([each.neighbours for each in votes])[session]
        sizes = np.array([len(each.items) for each in votes], dtype=np.int64)
        rank[:] = np.log1p(sizes)[session]
        if not sizes.any():
            return
        items = np.concatenate([each.items for each in votes])
        key = np.repeat(np.arange(len(votes)), sizes) * _SPAN + items
        order = np.argsort(key)
        wanted = session * _SPAN + np.maximum(indexes, 0)
        at = np.minimum(np.searchsorted(key, wanted, sorter=order), len(key) - 1)
        place = order[at]
        found = np.flatnonzero((key[place] == wanted) & (indexes >= 0))
        place = place[found]
        of = session[found]
        scores = np.concatenate([each.scores for each in votes])[place]
        sums = np.array([each.scores.sum() for each in votes])
        best = np.array([each.scores.max(initial=0.0) for each in votes])
        share[found] = np.log(scores / sums[of] + LEAST_SHARE)
        below[found] = np.log(scores / best[of] + LEAST_SHARE)
        within[found] = 1.0
        ranks = np.concatenate([_ranks(each) for each in votes])
        rank[found] = np.log1p(ranks[place])


def _ranks(votes: Votes) -> Ints:
    """How many items have more votes, [n]."""
    ordered = np.sort(votes.scores)
    return len(ordered) - np.searchsorted(ordered, votes.scores, side="right")

"""The second stage: candidates of model and statistics, ordered by the ranker that came with the model.

YouTube's two stages (Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations") at the
speed of clicks: the first finds a hundred items, the second knows when to trust whom.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_app.core.candidates import Candidates, CandidateSource, feature_names
from stream_app.core.lists import ShownList
from stream_app.core.ports import Ranker, Scorer, Statistics
from stream_app.core.ranking import hashes_of, round_significant, unseen
from stream_app.core.records import ItemId, ScoredItem
from stream_app.core.sources.source import Asked, Features
from stream_app.core.statistics_view import StatisticsView
from stream_app.core.vocabulary import ItemVocabulary


class Gathered(NamedTuple):
    """A session's candidates."""

    ids: list[ItemId]
    features: Features
    """[n, n_features]."""


class SecondStages:
    """A model's ranker over one version of the statistics, for a batch."""

    def __init__(
        self, ranker: Ranker, vocabulary: ItemVocabulary, statistics: StatisticsView
    ) -> None:
        self.ranker = ranker
        self.source = CandidateSource(
            ranker.stage, vocabulary, ranker.directions, statistics, ranker.neighbours
        )

    @classmethod
    def of(cls, scorer: Scorer | None, statistics: Statistics) -> "SecondStages | None":
        """None where the model has no ranker, nothing was published yet, or it is counted in another way
        than the ranker was trained on: then one stage answers."""
        ranker = scorer.ranker if scorer is not None else None
        if scorer is None or ranker is None or not isinstance(statistics, StatisticsView):
            return None
        if statistics.version is None or ranker.stage.features != feature_names(statistics.recipe):
            return None
        return cls(ranker, scorer.vocabulary, statistics)

    def lists(self, asked: Sequence[Asked], k: int) -> "RankedLists":
        """The best `k` for each session, all scored in one call."""
        candidates = self.source.candidates(asked)
        scores = self.ranker.scores(candidates.features)
        return RankedLists(
            self.source, candidates, self._with_new_items(asked, candidates, scores), k
        )

    def _with_new_items(
        self, asked: Sequence[Asked], candidates: Candidates, scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Scores in which new items stand no lower than the model has them.

        Nothing in the statistics speaks for an item that is new, and the ranker takes that for a sign
        against it: it has learned from items that are not.  So the model's item at place r gets the score of
        the ranker's r-th best, unless its own is higher.
        """
        placed = self.ranker.placed
        if not placed.any():
            return scores
        scores = scores.copy()
        for at, each in enumerate(asked):
            places = np.flatnonzero(placed[each.model_items])
            if not len(places):
                continue
            rows = slice(*candidates.starts[at : at + 2].tolist())
            codes = self.source.codes_of(each.model_items[places])
            new = np.searchsorted(candidates.codes[rows], codes)
            ranked = -np.sort(-scores[rows])
            scores[rows][new] = np.maximum(scores[rows][new], ranked[places])
        return scores


class RankedLists:
    """Scored candidates turned into lists."""

    def __init__(
        self,
        source: CandidateSource,
        candidates: Candidates,
        scores: NDArray[np.float32],
        k: int,
    ) -> None:
        self._source, self._candidates = source, candidates
        starts = candidates.starts.tolist()
        chosen = [_best(scores[first:last], k) + first for first, last in pairwise(starts)]
        places = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
        ids = iter(source.ids(candidates.codes[places]))
        rounded = iter(round_significant(scores[places].astype(np.float64)).tolist())
        exact = iter(scores[places].tolist())
        self._lists: list[list[ScoredItem]] = []
        for part in chosen:
            ordered = sorted((-next(exact), next(ids), next(rounded)) for _ in range(len(part)))[:k]
            self._lists.append(
                [
                    ScoredItem(item_id, score, rank)
                    for rank, (_, item_id, score) in enumerate(ordered, 1)
                ]
            )

    def answer(self, row: int, seen: Collection[str] | None, top_k: int) -> ShownList | None:
        """seen: items to leave out, None for none.  None: there was no candidate at all."""
        items = self._lists[row]
        if not items:
            return None
        items = items[:top_k] if seen is None else unseen(items, seen, top_k)
        return items, hashes_of(items)

    def gathered(self, row: int) -> Gathered:
        """What was asked about a session: what a ranker is trained on."""
        rows = slice(*self._candidates.starts[row : row + 2].tolist())
        ids = self._source.ids(self._candidates.codes[rows])
        return Gathered(ids, self._candidates.features[rows].copy())


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the best `k`, in no order, and of all that tie with the last of them."""
    if len(scores) <= k:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= least)

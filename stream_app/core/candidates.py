"""What the second stage chooses from, and what it is told of each item: the same in training and on the stream.

Candidates of a session are the model's best, what follows its last items in the statistics, the most
popular follow-ups, the item2vec neighbours of its last item, and its own items.  Every source may be
missing.  A whole batch of sessions is gathered at once, item ids are looked at last: a click costs some
200 us.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_app.core.manifest import SecondStage
from stream_app.core.pair_rows import Floats, Ints
from stream_app.core.records import ItemId
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_view import Row, StatisticsView
from stream_app.core.vocabulary import ItemVocabulary

Features = NDArray[np.float32]

LEAST_SHARE: Final = 1e-7
"""Added to shares before their logarithm is taken: what nobody clicks is no further away than this."""
LOG_LEAST: Final = math.log(LEAST_SHARE)
_LAGS: Final = 3
"""A session's last items that are told apart; older ones are alike."""
_SPAN: Final = 2**32
"""More than there are codes, half of them negative."""
_UNASKED: Final = -(2**40)


class Asked(NamedTuple):
    """One session that wants a list."""

    recent: Sequence[ItemId]
    """Last items, oldest first; one at least."""
    clicks: int
    """In the session so far."""
    model_items: NDArray[np.int64]
    """The model's best items, best first, indexes [n]; none where it does not know the session."""
    model_scores: NDArray[np.float32]
    """[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Of a batch of sessions, session after session; each item once per session, in the order of their codes.

    codes: int64 [n]; an item's number in the statistics, or -1 - its index in the vocabulary where they never
    counted it.  starts: int64 [n_sessions + 1].
    """

    codes: Ints
    starts: Ints
    features: Features
    """[n, n_features], in the order of `feature_names`."""


@cache
def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:
    """Of every candidate, in order.  A ranker that was trained on others is not asked."""
    minutes = (recipe.half_life_minutes, *recipe.half_lives_minutes)
    return (
        "model_share",
        "model_rank",
        "in_model",
        "associated",
        "associated_below_best",
        "associated_rank",
        "associated_earlier",
        *(f"pairs_{half_life:g}m" for half_life in recipe.pair_half_lives_minutes),
        *(f"pairs_lift_{half_life:g}m" for half_life in recipe.pair_half_lives_minutes),
        "pairs_of_item_before",
        "pair_count",
        "last_item_clicks",
        *(f"popularity_{half_life:g}m" for half_life in minutes),
        f"popularity_follow_up_{recipe.follow_up_half_life_minutes:g}m",
        "popularity_rank",
        "item2vec_cosine",
        "in_vocabulary",
        *(f"clicked_{lag}_ago" for lag in range(_LAGS)),
        "clicked_before",
        "session_clicks",
    )


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


class CandidateSource:
    """For one model and one version of the statistics: sessions in, candidates with features out."""

    def __init__(
        self,
        stage: SecondStage,
        vocabulary: ItemVocabulary,
        directions: NDArray[np.float32],
        statistics: StatisticsView,
    ) -> None:
        """directions: the items' item2vec vectors at length 1 (0 where there is none), [n_items, dim]."""
        self._stage, self._vocabulary = stage, vocabulary
        self._directions, self._statistics = directions, statistics
        self._n_features = len(feature_names(statistics.recipe))
        lookups = _Lookups.of(vocabulary, statistics)
        self._code_of_index = lookups.code_of_index
        self._index_of_number = lookups.index_of_number

    def candidates(self, asked: Sequence[Asked]) -> Candidates:
        """A session without any is an empty one."""
        n = len(asked)
        model_sizes = np.array([len(each.model_items) for each in asked], dtype=np.int64)
        model_codes = self._codes_of(_joined([each.model_items for each in asked]))
        own = [self._own(each) for each in asked]
        others = [
            self._from_statistics(each, codes) for each, codes in zip(asked, own, strict=True)
        ]
        codes = np.concatenate([model_codes, *others]) if n else np.zeros(0, dtype=np.int64)
        session = np.concatenate(
            [np.repeat(np.arange(n), model_sizes)]
            + [np.full(len(part), at) for at, part in enumerate(others)]
        ).astype(np.int64)
        key, place = np.unique(session * _SPAN + codes + _SPAN // 2, return_inverse=True)
        session, codes = key // _SPAN, key % _SPAN - _SPAN // 2
        starts = np.searchsorted(session, np.arange(n + 1))
        features = np.zeros((len(codes), self._n_features), dtype=np.float32)
        columns = _Columns(features)
        self._model_columns(columns, asked, session, place[: len(model_codes)])
        self._statistics_columns(columns, asked, codes, session, starts)
        self._item_columns(columns, asked, codes, session, starts, own)
        return Candidates(codes, starts, features)

    def ids(self, codes: Ints) -> list[ItemId]:
        """What the items are called."""
        names, known = self._statistics.ids, self._vocabulary.ids
        counted = iter(names([code for code in codes.tolist() if code >= 0]))
        return [ItemId(next(counted)) if code >= 0 else known[-1 - code] for code in codes.tolist()]

    # -- where candidates come from -------------------------------------------------------------------

    def _from_statistics(self, asked: Asked, own: Ints) -> Ints:
        """What follows the session's last items and popular follow-ups (where nothing follows: whatever is
        popular), item2vec neighbours, own items."""
        stage, statistics = self._stage, self._statistics
        scored = statistics.scored(asked.recent, stage.popular_items)
        if scored is None:
            n = stage.popular_items
            numbers = np.concatenate([statistics.follow_ups[:n], statistics.popular(n)])
        else:
            numbers, scores, _ = scored
            n = stage.associated_items
            if len(scores) > n:
                # All that tie with the last, so that nothing depends on how ties are broken.
                numbers = numbers[scores >= np.partition(scores, len(scores) - n)[len(scores) - n]]
        parts = [numbers, own]
        if stage.neighbour_items:
            parts.append(self._neighbours(asked.recent[-1]))
        return np.concatenate(parts)

    def _neighbours(self, item_id: ItemId) -> Ints:
        index, n = self._vocabulary.index_of.get(item_id), self._stage.neighbour_items
        if index is None or len(self._directions) <= n:
            return np.zeros(0, dtype=np.int64)
        cosines = self._directions @ self._directions[index]
        least = np.partition(cosines, len(cosines) - n)[len(cosines) - n]
        return self._codes_of(np.flatnonzero(cosines >= least)[: 2 * n])

    def _own(self, asked: Asked) -> Ints:
        """Codes of the session's items, newest first, each once; without those nobody knows."""
        number, index_of = self._statistics.number, self._vocabulary.index_of
        codes = []
        for item_id in dict.fromkeys(reversed(asked.recent)):
            found = number(item_id)
            if found is None:
                index = index_of.get(item_id)
                if index is None:
                    continue
                found = -1 - index
            codes.append(found)
        return np.array(codes, dtype=np.int64)

    def _codes_of(self, indexes: Ints) -> Ints:
        codes = self._code_of_index[indexes]
        if (codes == _UNASKED).any():
            number, known = self._statistics.number, self._vocabulary.ids
            for index in np.unique(indexes[codes == _UNASKED]).tolist():
                found = number(known[index])
                self._code_of_index[index] = -1 - index if found is None else found
            codes = self._code_of_index[indexes]
        return codes

    def _indexes_of(self, codes: Ints) -> Ints:
        """Indexes in the vocabulary, -1 where it lacks the item."""
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

    # -- what is told of them -------------------------------------------------------------------------

    def _model_columns(
        self, columns: "_Columns", asked: Sequence[Asked], session: Ints, place: Ints
    ) -> None:
        """place: of the model's items, session after session."""
        share, rank, within = columns.take(3)
        sizes = np.array([len(each.model_items) for each in asked], dtype=np.int64)
        least = np.full(len(asked), LOG_LEAST)
        logs, ranks = [], []
        for at, each in enumerate(asked):
            if len(each.model_scores):
                scores = each.model_scores.astype(np.float64)
                scores -= scores[0]
                scores -= math.log(np.exp(scores).sum())
                least[at] = scores[-1] - 1.0
                logs.append(scores)
                ranks.append(np.arange(len(scores)))
        share[:] = least[session]
        rank[:] = np.log1p(sizes)[session]
        if logs:
            share[place] = np.concatenate(logs)
            rank[place] = np.log1p(np.concatenate(ranks))
            within[place] = 1.0

    def _statistics_columns(
        self,
        columns: "_Columns",
        asked: Sequence[Asked],
        codes: Ints,
        session: Ints,
        starts: Ints,
    ) -> None:
        statistics, recipe = self._statistics, self._statistics.recipe
        n_half_lives = len(recipe.pair_half_lives_ms)
        n, counted = len(codes), codes >= 0
        popular = np.full((n, len(recipe.popularity_half_lives_ms) + 1), LOG_LEAST)
        popular[counted] = np.maximum(statistics.log_popularities(codes[counted]), LOG_LEAST)
        newest, earlier, before_last = np.zeros(n), np.zeros(n), np.zeros(n)
        prior = np.zeros(len(asked))
        pairs = np.zeros((n_half_lives, n))
        totals = np.zeros((n_half_lives, len(asked)))
        for at, each in enumerate(asked):
            rows = slice(starts[at], starts[at + 1])
            numbers = codes[rows]
            last = each.recent[-recipe.pair_positions :][::-1]
            for k, (item_id, weight) in enumerate(zip(last, recipe.position_weights, strict=False)):
                row = statistics.row(item_id)
                if row is None:
                    prior[at] += weight * sum(recipe.pair_weights)
                    continue
                prior[at] += weight * row.prior
                where, found = _found(row, numbers)
                if k == 0:
                    newest[rows][where] = weight * row.share[found]
                    pairs[:, rows][:, where] = row.counts[:, found]
                    totals[:, at] = row.totals
                    continue
                if k == 1:
                    before_last[rows][where] = row.share[found]
                earlier[rows][where] += weight * row.share[found]

        popularity = np.exp(popular[:, -1])
        associated = newest + earlier + prior[session] * popularity
        total, below, rank, before = columns.take(4)
        total[:] = np.log(associated + LEAST_SHARE)
        if n:
            best = np.maximum.reduceat(total, starts[:-1][np.diff(starts) > 0])
            below[:] = total - np.repeat(best, np.diff(starts)[np.diff(starts) > 0])
        rank[:] = np.log1p(_ranks(associated, session, starts))
        before[:] = np.log(earlier + LEAST_SHARE)
        for column, counts, clicks in zip(columns.take(n_half_lives), pairs, totals, strict=True):
            column[:] = np.log(counts / (clicks[session] + 1.0) + LEAST_SHARE)
        for column, counts, clicks in zip(columns.take(n_half_lives), pairs, totals, strict=True):
            column[:] = np.log((counts + 0.5) / (popularity * clicks[session] + 0.5))
        second, count, clicks_of_last = columns.take(3)
        second[:] = np.log(before_last + LEAST_SHARE)
        count[:] = np.log1p(pairs[-1])
        clicks_of_last[:] = np.log1p(totals[-1])[session]
        for column, values in zip(columns.take(popular.shape[1]), popular.T, strict=True):
            column[:] = values
        (by_popularity,) = columns.take(1)
        by_popularity[:] = np.log1p(_ranks(popularity, session, starts))

    def _item_columns(
        self,
        columns: "_Columns",
        asked: Sequence[Asked],
        codes: Ints,
        session: Ints,
        starts: Ints,
        own: Sequence[Ints],
    ) -> None:
        cosine, known = columns.take(2)
        indexes = self._indexes_of(codes)
        index_of = self._vocabulary.index_of
        last = np.array([index_of.get(each.recent[-1], -1) for each in asked], dtype=np.int64)
        last = last[session]
        known[:] = indexes >= 0
        both = np.flatnonzero((indexes >= 0) & (last >= 0))
        directions = self._directions
        cosine[both] = np.einsum("ij,ij->i", directions[indexes[both]], directions[last[both]])
        *by_lag, older, clicks = columns.take(_LAGS + 2)
        for at, mine in enumerate(own):
            places = starts[at] + np.searchsorted(codes[starts[at] : starts[at + 1]], mine)
            for column, place in zip(by_lag, places[:_LAGS].tolist(), strict=False):
                column[place] = 1.0
            older[places[_LAGS:]] = 1.0
        clicks[:] = np.log([each.clicks for each in asked])[session]


class _Columns:
    """Hands out the columns of a feature matrix from left to right."""

    def __init__(self, features: Features) -> None:
        self._features, self._next = features, 0

    def take(self, n: int) -> list[NDArray[np.float32]]:
        first, self._next = self._next, self._next + n
        return [self._features[:, column] for column in range(first, self._next)]


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _found(row: Row, numbers: Ints) -> tuple[Ints, Ints]:
    """Where numbers are neighbours of the row, and which of its neighbours they are."""
    if len(row.neighbours) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(row.neighbours, numbers), len(row.neighbours) - 1)
    where = np.flatnonzero(row.neighbours[at] == numbers)
    return where, at[where]


def _ranks(values: Floats, session: Ints, starts: Ints) -> Floats:
    """How many of the session's values are larger, [n]."""
    # Two sorts that the processor helps with, a quarter of the time of np.lexsort; 16 bits are sorted by radix.
    order = np.argsort(-values)
    short = np.int16 if len(starts) < 2**15 else np.int64
    order = order[np.argsort(session[order].astype(short), kind="stable")]
    in_order = values[order]
    first_of_tie = np.ones(len(values), dtype=bool)
    first_of_tie[1:] = (in_order[1:] != in_order[:-1]) | (session[1:] != session[:-1])
    place = np.maximum.accumulate(np.where(first_of_tie, np.arange(len(values)), 0))
    ranks = np.empty(len(values))
    ranks[order] = place - starts[session]
    return ranks

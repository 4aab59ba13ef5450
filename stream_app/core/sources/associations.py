"""What follows the session's last items in the stream statistics, and what is popular."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stream_app.core.manifest import SecondStage
from stream_app.core.pair_rows import Ints
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
from stream_app.core.statistics_view import Row, StatisticsView


class Associations:
    """Co-occurrence, with popularity as its prior."""

    def __init__(self, stage: SecondStage, statistics: StatisticsView) -> None:
        self._stage, self._statistics = stage, statistics

    @classmethod
    def of(cls, known: Known) -> Self:
        return cls(known.stage, known.statistics)

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:
        minutes = (recipe.half_life_minutes, *recipe.half_lives_minutes)
        return (
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
        )

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        return Proposed.joined([self._numbers(each) for each in asked])

    def _numbers(self, asked: Asked) -> Ints:
        """What follows, and popular follow-ups; where nothing follows, whatever is popular."""
        stage, statistics = self._stage, self._statistics
        scored = statistics.scored(asked.recent, stage.popular_items)
        if scored is None:
            n = stage.popular_items
            return np.concatenate([statistics.follow_ups[:n], statistics.popular(n)])
        numbers, scores, _ = scored
        return best_of(numbers, scores, stage.associated_items)

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:  # noqa: ARG002
        statistics, recipe = self._statistics, self._statistics.recipe
        asked, codes, session, starts = batch.asked, batch.codes, batch.session, batch.starts
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
        column: Iterator[NDArray[np.float32]] = iter(columns.T)
        total = next(column)
        total[:] = np.log(associated + LEAST_SHARE)
        below = next(column)
        if n:
            best = np.maximum.reduceat(total, starts[:-1][np.diff(starts) > 0])
            below[:] = total - np.repeat(best, np.diff(starts)[np.diff(starts) > 0])
        next(column)[:] = np.log1p(batch.ranks(associated))
        next(column)[:] = np.log(earlier + LEAST_SHARE)
        for counts, clicks in zip(pairs, totals, strict=True):
            next(column)[:] = np.log(counts / (clicks[session] + 1.0) + LEAST_SHARE)
        for counts, clicks in zip(pairs, totals, strict=True):
            next(column)[:] = np.log((counts + 0.5) / (popularity * clicks[session] + 0.5))
        next(column)[:] = np.log(before_last + LEAST_SHARE)
        next(column)[:] = np.log1p(pairs[-1])
        next(column)[:] = np.log1p(totals[-1])[session]
        for values in popular.T:
            next(column)[:] = values
        next(column)[:] = np.log1p(batch.ranks(popularity))


def _found(row: Row, numbers: Ints) -> tuple[Ints, Ints]:
    """Where numbers are neighbours of the row, and which of its neighbours they are."""
    if len(row.neighbours) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(row.neighbours, numbers), len(row.neighbours) - 1)
    where = np.flatnonzero(row.neighbours[at] == numbers)
    return where, at[where]

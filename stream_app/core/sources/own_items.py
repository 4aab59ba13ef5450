"""The session's own items: people come back to what they have seen, each in a way of their own."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import numpy as np

from stream_app.core.pair_rows import Ints
from stream_app.core.records import ItemId
from stream_app.core.sources.item_codes import ItemCodes
from stream_app.core.sources.source import Asked, Batch, Features, Known, Proposed
from stream_app.core.statistics_recipe import StatisticsRecipe

_LAGS: Final = 3
"""A session's last items that are told apart; older ones are alike but for `clicked_nearness`."""


class _Habit(NamedTuple):
    """How a session has come back to its items so far."""

    log_clicks: float
    """Of the session."""
    repeat_share: float
    """Of its remembered clicks, those on an item that it had clicked."""
    new_in_a_row: float
    """log(1 + n): its last n clicks were each on an item that was new to it."""
    same_twice: float
    """The last click was on the item of the one before."""
    back_and_forth: float
    """The last click was on the item of the last but two."""
    same_twice_before: float
    """The last click but one was on the item of the one before it."""


class OwnItems:
    """Newest first, each once; without those nobody knows."""

    def __init__(self, codes: ItemCodes) -> None:
        self._codes = codes

    @classmethod
    def of(cls, known: Known) -> Self:
        return cls(known.codes)

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:  # noqa: ARG004
        by_lag = (f"clicked_{lag}_ago" for lag in range(_LAGS))
        of_item = "clicked_before", "clicked_nearness", "clicked_times", "followed_last_here"
        return *by_lag, *of_item, *(f"session_{name}" for name in _Habit._fields)

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        return Proposed.joined([self._own(each) for each in asked])

    def _own(self, asked: Asked) -> Ints:
        codes = map(self._codes.of_item, _newest_first(asked.recent))
        return np.array([code for code in codes if code is not None], dtype=np.int64)

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:
        *by_lag, older, nearness, times, followed = columns.T[: -len(_Habit._fields)]
        # The lag of each proposed item: sessions follow each other, each newest first.
        session = batch.session[places]
        lags = np.arange(len(places)) - np.searchsorted(session, session)
        for lag, column in enumerate(by_lag):
            column[places[lags == lag]] = 1.0
        older[places[lags >= _LAGS]] = 1.0
        nearness[places] = 1.0 / (1.0 + lags)
        told = [
            (math.log1p(counts[item]), item in followers)
            for each in batch.asked
            for counts, followers in ((Counter(each.recent), _followers(each.recent)),)
            for item in _newest_first(each.recent)
            if self._codes.of_item(item) is not None
        ]
        times[places], followed[places] = np.array(told, dtype=np.float32).reshape(-1, 2).T
        habits = np.array([_habit(each) for each in batch.asked], dtype=np.float32)
        columns[:, -len(_Habit._fields) :] = habits.reshape(-1, len(_Habit._fields))[batch.session]


def _newest_first(recent: Sequence[ItemId]) -> list[ItemId]:
    """Each item once."""
    return list(dict.fromkeys(reversed(recent)))


def _followers(recent: Sequence[ItemId]) -> set[ItemId]:
    """What was clicked right after earlier clicks on the last item."""
    last = recent[-1]
    return {after for item, after in itertools.pairwise(recent) if item == last}


def _habit(asked: Asked) -> _Habit:
    recent = asked.recent
    distinct = set(recent)
    new = 0
    while new < len(recent) and recent[-1 - new] not in recent[: -1 - new]:
        new += 1
    return _Habit(
        math.log(asked.clicks),
        1.0 - len(distinct) / len(recent),
        math.log1p(new),
        _same(recent, 1, 2),
        _same(recent, 1, 3),
        _same(recent, 2, 3),
    )


def _same(recent: Sequence[ItemId], one: int, other: int) -> float:
    """Whether two clicks, so many from the end, were on the same item."""
    return float(len(recent) >= other and recent[-one] == recent[-other])

"""The session's own items: people come back to what they have seen."""

from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from stream_app.core.pair_rows import Ints
from stream_app.core.sources.item_codes import ItemCodes
from stream_app.core.sources.source import Asked, Batch, Features, Known, Proposed
from stream_app.core.statistics_recipe import StatisticsRecipe

_LAGS: Final = 3
"""A session's last items that are told apart; older ones are alike."""


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
        return *by_lag, "clicked_before", "session_clicks"

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        return Proposed.joined([self._own(each) for each in asked])

    def _own(self, asked: Asked) -> Ints:
        codes = map(self._codes.of_item, dict.fromkeys(reversed(asked.recent)))
        return np.array([code for code in codes if code is not None], dtype=np.int64)

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:
        *by_lag, older, clicks = columns.T
        # The lag of each proposed item: sessions follow each other, each newest first.
        session = batch.session[places]
        lags = np.arange(len(places)) - np.searchsorted(session, session)
        for lag, column in enumerate(by_lag):
            column[places[lags == lag]] = 1.0
        older[places[lags >= _LAGS]] = 1.0
        clicks[:] = np.log([each.clicks for each in batch.asked])[batch.session]

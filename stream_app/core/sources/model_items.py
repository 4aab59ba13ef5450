"""The first stage's best items."""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from stream_app.core.pair_rows import Ints
from stream_app.core.sources.item_codes import ItemCodes
from stream_app.core.sources.source import LOG_LEAST, Asked, Batch, Features, Known, Proposed
from stream_app.core.statistics_recipe import StatisticsRecipe


class ModelItems:
    """As many as the caller asked the model for."""

    def __init__(self, codes: ItemCodes) -> None:
        self._codes = codes

    @classmethod
    def of(cls, known: Known) -> Self:
        return cls(known.codes)

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:  # noqa: ARG004
        return "model_share", "model_rank", "in_model"

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        proposed = Proposed.joined([each.model_items for each in asked])
        return proposed._replace(codes=self._codes.of_indexes(proposed.codes))

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:
        share, rank, within = columns.T
        asked, session = batch.asked, batch.session
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
            share[places] = np.concatenate(logs)
            rank[places] = np.log1p(np.concatenate(ranks))
            within[places] = 1.0

"""What evaluation predicts: every click of a session from its second.  No torch."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.metrics import RankingQuality, quality_of_ranks
from stream_app.evaluation.sessions import SessionTable

MISS: Final = np.iinfo(np.int64).max
"""Rank of a target that a ranker cannot reach."""


def target_positions(sessions: SessionTable) -> NDArray[np.int64]:
    """Where in `item_indexes` the next clicks are: everywhere but at a session's first click."""
    is_target = np.ones(sessions.n_clicks, dtype=bool)
    first = sessions.session_starts[:-1]
    is_target[first[first < sessions.n_clicks]] = False
    return np.flatnonzero(is_target)


def targets_of(sessions: SessionTable) -> NDArray[np.int64]:
    """Item index of every next click, int64 [n_targets], in table order; -1: unknown."""
    return sessions.item_indexes[target_positions(sessions)]


def quality_with_cold(ranks: NDArray[np.int64], sessions: SessionTable) -> RankingQuality:
    """Quality of one rank per target, in table order; targets that no model row exists for are missed."""
    warm = targets_of(sessions) >= 0
    return quality_of_ranks(ranks[warm], cold_targets=int((~warm).sum()))

"""Ranking quality of a bundle, through the very graphs that serve: whole catalogue, every next click."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.metrics import CUT, RankingQuality, ranks_in_top
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS, quality_with_cold, target_positions

SESSIONS_TOGETHER: Final = 512


def evaluate_bundle(scorer: OnnxScorer, sessions: SessionTable) -> RankingQuality:
    """Recall@5/10/20 and MRR@20; `sessions` are indexes into the scorer's vocabulary.

    States start at zero and are stored as serving stores them.  Ties count against us, exactly, though
    only the best 21 items are looked at (`core.metrics.ranks_in_top`).  Targets outside the vocabulary
    are misses, and reported as `cold_targets`.
    """
    ranks = np.full(sessions.n_clicks, MISS, dtype=np.int64)
    lengths = sessions.lengths
    longest_first = np.argsort(-lengths, kind="stable")
    longest_first = longest_first[lengths[longest_first] >= 2]
    for first in range(0, len(longest_first), SESSIONS_TOGETHER):
        _rank_sessions(scorer, sessions, longest_first[first : first + SESSIONS_TOGETHER], ranks)
    return quality_with_cold(ranks[target_positions(sessions)], sessions)


def _rank_sessions(
    scorer: OnnxScorer,
    sessions: SessionTable,
    together: NDArray[np.int64],
    ranks: NDArray[np.int64],
) -> None:
    """Fill in `ranks` (by position in the table) for some sessions, longest first, step by step."""
    starts, lengths = sessions.session_starts[together], sessions.lengths[together]
    states = np.zeros((len(together), scorer.state_size_bytes), dtype=np.uint8)
    for position in range(int(lengths[0]) - 1):
        alive = int(np.searchsorted(-lengths, -(position + 1), side="left"))
        states = states[:alive]
        rows = starts[:alive] + position
        clicked, target = sessions.item_indexes[rows], sessions.item_indexes[rows + 1]
        known = np.flatnonzero(clicked >= 0)
        if len(known):
            states[known] = scorer.step(states[known], clicked[known])
        warm = np.flatnonzero(target >= 0)
        if len(warm):
            scores, items = scorer.top_k(states[warm], CUT + 1)
            ranks[rows[warm] + 1] = ranks_in_top(scores, items, target[warm])

"""Ranking quality of a bundle as it will be served: through the scorer, bytes and all."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.metrics import CUT, RankingQuality, quality_of_ranks, ranks_in_top
from stream_app.core.ports import Scorer, StateRows
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import UNKNOWN, SessionTable
from stream_app.evaluation.targets import target_positions

SESSIONS_TOGETHER: Final = 1024


def evaluate_scorer(scorer: Scorer, sessions: SessionTable) -> RankingQuality:
    """Recall@5/10/20 and MRR@20 at every click from a session's second, over the whole catalogue.

    sessions: indexes into `scorer.vocabulary`, -1 for items it lacks.  Such a target is a miss
    (`cold_targets`), such a click leaves the state as it is, as online.  Ties count against the model.
    """
    targets = sessions.item_indexes[target_positions(sessions)]
    ranks = np.zeros(sessions.n_clicks, dtype=np.int64)
    by_length = np.argsort(-sessions.lengths, kind="stable")
    by_length = by_length[sessions.lengths[by_length] >= 2]
    for first in range(0, len(by_length), SESSIONS_TOGETHER):
        _rank_together(scorer, sessions, by_length[first : first + SESSIONS_TOGETHER], ranks)
    warm = ranks[target_positions(sessions)][targets != UNKNOWN]
    return quality_of_ranks(warm, cold_targets=int((targets == UNKNOWN).sum()))


def in_vocabulary_of(
    sessions: SessionTable, known: ItemVocabulary, other: ItemVocabulary
) -> SessionTable:
    """The same sessions as rows of `other`, -1 where it lacks the item.  known: what they index now."""
    index_of = other.index_of
    table = np.array(
        [index_of.get(item, UNKNOWN) for item in known.ids] + [UNKNOWN], dtype=np.int64
    )
    # UNKNOWN is -1, the last entry, and stays unknown.
    return SessionTable(table[sessions.item_indexes], sessions.session_starts, sessions.click_ms)


def _rank_together(
    scorer: Scorer, sessions: SessionTable, chosen: NDArray[np.int64], ranks: NDArray[np.int64]
) -> None:
    """Fill in `ranks` (by click) for the targets of these sessions, longest first."""
    starts, lengths = sessions.session_starts[chosen], sessions.lengths[chosen]
    states: StateRows = np.zeros((len(chosen), scorer.state_size_bytes), dtype=np.uint8)
    for position in range(int(lengths[0]) - 1):
        alive = int((lengths > position + 1).sum())
        states, starts = states[:alive], starts[:alive]
        clicked = sessions.item_indexes[starts + position]
        known = np.flatnonzero(clicked != UNKNOWN)
        states[known] = scorer.step(states[known], clicked[known])
        at = starts + position + 1
        target = sessions.item_indexes[at]
        warm = np.flatnonzero(target != UNKNOWN)
        # One more than the cut: what ties with an item off the list is a miss (`ranks_in_top`).
        scores, items = scorer.top_k(states[warm], CUT + 1)
        ranks[at[warm]] = ranks_in_top(scores, items, target[warm])

"""Session-kNN as a ranker (`core.session_neighbours`)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stream_app.core.session_neighbours import (
    PastSessions,
    SessionKNNConfig,
    SessionNeighbours,
)
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists, best_of, in_parts
from stream_app.evaluation.sessions import SessionTable


class SessionKNNRanker:
    """Answers from the sessions of `train`; those of one click say nothing and are left out."""

    name = "session-knn"

    def __init__(self, train: SessionTable, n_items: int, config: SessionKNNConfig) -> None:
        self.config = config
        self.catalogue: NDArray[np.bool_] = train.support(n_items) > 0
        self._neighbours = SessionNeighbours(past_sessions(train), n_items, config)

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        clicked, starts = asked.sessions.item_indexes, asked.sessions.session_starts
        click_ms, clicks_max = asked.sessions.click_ms, self.config.clicks_max
        begins = np.maximum(starts[asked.session_numbers], asked.positions - clicks_max)
        for rows in in_parts(asked.n_targets):
            items, scores = np.empty((len(rows), k), np.int64), np.empty((len(rows), k))
            for place, row in enumerate(rows.tolist()):
                position = int(asked.positions[row])
                votes = self._neighbours.votes(
                    clicked[begins[row] : position].tolist(), int(click_ms[position - 1])
                )
                best, scores[place] = best_of(votes.scores, k)
                items[place] = np.where(
                    best >= 0, votes.items[np.maximum(best, 0)] if len(votes.items) else -1, -1
                )
            yield Lists(rows, items, scores)


def past_sessions(sessions: SessionTable, clicks_max: int | None = None) -> PastSessions:
    """Those of two known clicks or more; the newest, with at most so many clicks together."""
    useful = sessions.known_only().at_least(2)
    if clicks_max is not None and useful.n_clicks > clicks_max:
        first = int(np.searchsorted(useful.session_starts, useful.n_clicks - clicks_max))
        useful = useful.select(np.arange(first, useful.n_sessions))
    end_ms = useful.click_ms[useful.session_starts[1:] - 1] if useful.n_sessions else None
    return PastSessions(useful.item_indexes, useful.session_starts, end_ms)

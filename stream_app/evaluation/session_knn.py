"""Session-kNN over an index of past sessions: VMIS-kNN with the weights that tuning asks for.

Kersbergen, Sprangers & Schelter 2022, "Serenade" (VMIS-kNN: of the m newest past sessions that share an
item with the running one, the k most similar vote for their items), after Jannach & Ludewig 2017 and
Ludewig & Jannach 2018 (1803.09587, V-SkNN).  Where we differ is told at `SessionKNNConfig`.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.errors import ConfigurationError
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists, best_of
from stream_app.evaluation.sessions import SessionTable

_LOG_WEIGHT_MAX: Final = 500.0
"""Weights grow within a session by exp(1 / decay) a click; beyond exp of this they are scaled back."""


class SessionKNNConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How similar two sessions are, and what a neighbour's items count.

    similarity(s, n) = sum over shared items i of exp(-d / decay) x idf(i) ** idf_shared,
    d: clicks since i in s.  score(j) = sum over neighbours n of similarity(s, n) x place(j, n) x
    idf(j) ** idf.  place(j, n) = exp(-(distance - 1) / place_decay) from the newest shared item in n,
    times `backward` where j comes before it; `self_weight` for that item itself.
    idf(i) = log(1 + past sessions / those with i).

    Serenade has linear weights by position and no `place`; with it Recall@20 on the end of the training
    part rose from .663 to .686 (yoochoose1_64) and from .501 to .508 (diginetica).
    """

    neighbours: int = 500
    """k: sessions that vote."""
    sessions: int = 5000
    """m: newest sessions with a shared item that are looked at."""
    decay: float = 1.0
    """In clicks; a shared item so many clicks back weighs 1 / e."""
    idf: float = 0.5
    """Power of the inverse document frequency of a voted item."""
    idf_shared: float = 1.0
    """The same of a shared item."""
    backward: float = 0.6
    """Weight of a neighbour's items before the newest shared one."""
    self_weight: float = 0.3
    """Weight of the newest shared item itself."""
    place_decay: float = 1.5
    """In places; an item so much further from the newest shared one in n weighs 1 / e."""
    recency_half_life_ms: float | None = None
    """Past sessions lose half their similarity in so long; None: they do not.  Needs a clock."""

    def __post_init__(self) -> None:
        decays = (self.decay, self.place_decay, self.recency_half_life_ms or 1.0)
        if self.neighbours < 1 or self.sessions < 1 or min(decays) <= 0:
            raise ConfigurationError(
                "session-kNN: neighbours and sessions must be at least 1, decays above 0"
            )


class SessionKNNRanker:
    """Answers from the index of `train`; sessions of one click say nothing and are left out."""

    name = "session-knn"

    def __init__(self, train: SessionTable, n_items: int, config: SessionKNNConfig) -> None:
        self.config = config
        self.catalogue: NDArray[np.bool_] = train.support(n_items) > 0
        self._past = train.known_only().at_least(2)
        self._index = _Index(self._past, n_items, config.sessions)
        frequency = self._index.idf(n_items)
        self._idf, self._idf_shared = frequency**config.idf, frequency**config.idf_shared
        self._end_ms = (
            self._past.click_ms[self._past.session_starts[1:] - 1]
            if self._past.n_sessions
            else np.empty(0, dtype=np.int64)
        )

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        """A session's lists in one walk over it: each click adds its postings to the similarities."""
        walk = _Walk(
            self._past, self._index, self._idf, self._idf_shared, self._end_ms, self.config
        )
        items_of = asked.sessions.item_indexes
        starts = asked.sessions.session_starts
        row, n = 0, asked.n_targets
        numbers, positions = asked.session_numbers, asked.positions
        while row < n:
            session = int(numbers[row])
            end = int(np.searchsorted(numbers, session, side="right"))
            items, scores = np.empty((end - row, k), np.int64), np.empty((end - row, k))
            walk.begin()
            position = int(starts[session])
            for place in range(end - row):
                while position < positions[row + place]:
                    walk.click(int(items_of[position]))
                    position += 1
                now_ms = int(asked.sessions.click_ms[position - 1])
                items[place], scores[place] = walk.list(k, now_ms)
            yield Lists(np.arange(row, end), items, scores)
            row = end


class _Index:
    """The newest `m` sessions with each item, newest first, and where in the session it is (its last place)."""

    def __init__(self, past: SessionTable, n_items: int, m: int) -> None:
        session = np.repeat(np.arange(past.n_sessions), past.lengths)
        place = np.arange(past.n_clicks) - past.session_starts[:-1][session]
        # Newest session first, and the last place first within it; then the first of each is kept.
        order = np.lexsort((-place, -session, past.item_indexes))
        item, session, place = past.item_indexes[order], session[order], place[order]
        kept = np.ones(len(item), dtype=bool)
        kept[1:] = (item[1:] != item[:-1]) | (session[1:] != session[:-1])
        item, session, place = item[kept], session[kept], place[kept]
        starts = np.searchsorted(item, np.arange(n_items + 1))
        self.n_sessions = past.n_sessions
        self.sessions_of_item = np.diff(starts)
        within = np.arange(len(item)) - starts[:-1][item] < m
        item = item[within]
        self.starts = np.searchsorted(item, np.arange(n_items + 1))
        self.session, self.place = session[within], place[within]

    def idf(self, n_items: int) -> NDArray[np.float64]:
        assert len(self.sessions_of_item) == n_items
        frequency: NDArray[np.float64] = np.log1p(
            self.n_sessions / np.maximum(self.sessions_of_item, 1)
        )
        return frequency


class _Walk:
    """One running session.  Arrays over all past sessions are cleaned up, not made anew, between sessions."""

    def __init__(
        self,
        past: SessionTable,
        index: _Index,
        idf: NDArray[np.float64],
        idf_shared: NDArray[np.float64],
        end_ms: NDArray[np.int64],
        config: SessionKNNConfig,
    ) -> None:
        self._past, self._index, self._end_ms = past, index, end_ms
        self._idf, self._idf_shared = idf, idf_shared
        self._config = config
        n = past.n_sessions
        self._similarity = np.zeros(n)
        """To be multiplied by exp(-self._log_weight)."""
        self._shared_place = np.zeros(n, dtype=np.int64)
        """Place of the newest shared item in the past session."""
        self._met = np.zeros(n, dtype=bool)
        self._slot = np.zeros(len(idf), dtype=np.int64)
        self._newest_first = np.arange(n) / max(1, n) * 1e-9
        self._touched: list[NDArray[np.int64]] = []
        self._weight_of: dict[int, float] = {}
        self._log_weight = 0.0

    def begin(self) -> None:
        for sessions in self._touched:
            self._similarity[sessions] = 0.0
            self._met[sessions] = False
        self._touched = []
        self._weight_of = {}
        self._log_weight = 0.0

    def click(self, item: int) -> None:
        """One more click.  Instead of shrinking what is there, the new item weighs more."""
        self._log_weight += 1 / self._config.decay
        if self._log_weight > _LOG_WEIGHT_MAX:
            self._scale_back()
        if item < 0:
            return
        rows = slice(self._index.starts[item], self._index.starts[item + 1])
        sessions = self._index.session[rows]
        weight = float(np.exp(self._log_weight) * self._idf_shared[item])
        # A repeated item counts where it was clicked last.
        self._similarity[sessions] += weight - self._weight_of.get(item, 0.0)
        self._weight_of[item] = weight
        self._shared_place[sessions] = self._index.place[rows]
        new = sessions[~self._met[sessions]]
        self._met[new] = True
        self._touched.append(new)

    def list(self, k: int, now_ms: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
        neighbours, similarity = self._neighbours(now_ms)
        starts = self._past.session_starts
        lengths = starts[neighbours + 1] - starts[neighbours]
        n = int(lengths.sum())
        if n == 0:
            return best_of(np.empty(0), k)
        ends = np.cumsum(lengths)
        place = np.arange(n) - np.repeat(ends - lengths, lengths)
        items = self._past.item_indexes[place + np.repeat(starts[neighbours], lengths)]
        behind = place - np.repeat(self._shared_place[neighbours], lengths)
        config = self._config
        direction = np.array([config.backward, config.self_weight, 1.0])[np.sign(behind) + 1]
        distance = np.maximum(np.abs(behind) - 1, 0)
        votes = np.repeat(similarity, lengths) * direction * np.exp(-distance / config.place_decay)
        # The last place written wins, so each item finds one slot of its own.
        self._slot[items] = np.arange(n)
        slot = self._slot[items]
        scores = np.bincount(slot, weights=votes, minlength=n) * self._idf[items]
        own = np.flatnonzero((slot == np.arange(n)) & (scores > 0))
        best, values = best_of(scores[own], k)
        return np.where(best >= 0, items[own[np.maximum(best, 0)]] if len(own) else -1, -1), values

    def _neighbours(self, now_ms: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        config = self._config
        if not self._touched:
            return np.empty(0, dtype=np.int64), np.empty(0)
        sessions = np.concatenate(self._touched)
        if len(sessions) > config.sessions:
            # Sessions are numbered by time, so the newest have the largest numbers.
            oldest = np.partition(sessions, len(sessions) - config.sessions)[-config.sessions]
            sessions = sessions[sessions >= oldest]
        similarity = self._similarity[sessions] * np.exp(-self._log_weight)
        if config.recency_half_life_ms is not None:
            age = np.maximum(now_ms - self._end_ms[sessions], 0)
            similarity *= np.exp2(-age / config.recency_half_life_ms)
        if len(sessions) > config.neighbours:
            # Equals: the newest first, as in Serenade.
            key = similarity * (1.0 + self._newest_first[sessions])
            best = np.argpartition(key, len(key) - config.neighbours)[-config.neighbours :]
            sessions, similarity = sessions[best], similarity[best]
        return sessions, similarity

    def _scale_back(self) -> None:
        factor = float(np.exp(-self._log_weight))
        for sessions in self._touched:
            self._similarity[sessions] *= factor
        self._weight_of = {item: weight * factor for item, weight in self._weight_of.items()}
        self._log_weight = 0.0

"""Session-kNN: past sessions that are like the running one vote for their items.

Kersbergen, Sprangers & Schelter 2022, "Serenade" (VMIS-kNN: of the m newest past sessions that share an
item with the running one, the k most similar vote for their items), after Jannach & Ludewig 2017 and
Ludewig & Jannach 2018 (1803.09587, V-SkNN).  Where we differ is told at `SessionKNNConfig`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
import numpy as np

from stream_app.core.pair_rows import Floats, Ints

LEAST_WEIGHT: Final = 1e-3
"""A click that weighs less of the last one's weight is not looked at."""
_FARTHEST: Final = 512
"""Places in a past session; further away is as far."""


_BOUNDS: Final = (
    ("neighbours", 1, 100_000),
    ("sessions", 1, 100_000),
    ("decay", 1e-3, 1e3),
    ("idf", 0, 10),
    ("idf_shared", 0, 10),
    ("backward", 0, 1e3),
    ("self_weight", 0, 1e3),
    ("place_decay", 1e-3, 1e3),
    ("recency_half_life_ms", 1e-3, 1e15),
)


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
        """Raises `ValueError`."""
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"session-kNN: {name} is {value}, not {least:g} to {most:g}")

    @property
    def clicks_max(self) -> int:
        """Last clicks of a session that count, see `LEAST_WEIGHT`."""
        return 1 + math.floor(-math.log(LEAST_WEIGHT) * self.decay)


@dataclass(frozen=True, slots=True, eq=False)
class PastSessions:
    """Sessions in the order of their first click, each one's clicks in order.

    items: [n_clicks], indexes into a vocabulary, none unknown.  starts: [n_sessions + 1].
    end_ms: [n_sessions], event time of each one's last click; None where nobody asks for recency.
    """

    items: Ints
    starts: Ints
    end_ms: Ints | None = None

    @property
    def n_sessions(self) -> int:
        return len(self.starts) - 1


class Votes(NamedTuple):
    """What the neighbours of one session vote for, each item once, in no order."""

    items: Ints
    """[n], indexes into the vocabulary."""
    scores: Floats
    """[n], above 0."""
    neighbours: int
    """Sessions that voted."""


NO_VOTES: Final = Votes(np.zeros(0, dtype=np.int64), np.zeros(0), 0)


class SessionNeighbours:
    """An index of past sessions by item.  Answers depend on nothing that was asked before; for one thread."""

    def __init__(self, past: PastSessions, n_items: int, config: SessionKNNConfig) -> None:
        """past: `items` below `n_items`."""
        self.config = config
        self._past, self._n_items = past, n_items
        self._index = _Index(past, n_items, config)
        n = past.n_sessions
        # Arrays over all past sessions and all items are cleaned up, not made anew, between questions.
        self._similarity = np.zeros(n)
        self._shared_place = np.zeros(n, dtype=np.int64)
        """Place, in the past session, of the newest item that it shares."""
        self._order = np.zeros(n, dtype=np.int64)
        self._slot = np.zeros(n_items, dtype=np.int64)
        self._newest_first = 1.0 + np.arange(n) / max(1, n) * 1e-9
        self._place_weights = _place_weights(config)

    @cached_property
    def support(self) -> Ints:
        """Past sessions with each item, [n_items]."""
        return self._index.sessions_of_item

    @property
    def n_sessions(self) -> int:
        return self._past.n_sessions

    def votes(self, clicked: Sequence[int], now_ms: int | None = None) -> Votes:
        """clicked: the running session's items, oldest first, negative where unknown."""
        sessions, similarity = self._neighbours(clicked)
        if len(sessions) == 0:
            return NO_VOTES
        half_life_ms, end_ms = self.config.recency_half_life_ms, self._past.end_ms
        if half_life_ms is not None and end_ms is not None and now_ms is not None:
            age = np.maximum(now_ms - end_ms[sessions], 0)
            similarity = similarity * np.exp2(-age / half_life_ms)
        k = self.config.neighbours
        shared_place = self._shared_place[sessions]
        if len(sessions) > k:
            # Equals: the newest first, as in Serenade.
            key = similarity * self._newest_first[sessions]
            best = np.sort(np.argpartition(key, len(key) - k)[len(key) - k :])
            sessions, similarity, shared_place = (
                sessions[best],
                similarity[best],
                shared_place[best],
            )
        return self._votes_of(sessions, similarity, shared_place)

    def _neighbours(self, clicked: Sequence[int]) -> tuple[Ints, Floats]:
        """The newest sessions that share an item, each once, and how similar they are."""
        config, index = self.config, self._index
        last = clicked[-config.clicks_max :]
        found = []
        weight_of: dict[int, float] = {}
        for back, item in enumerate(reversed(last)):
            if 0 <= item < self._n_items and item not in weight_of:
                weight_of[item] = math.exp(-back / config.decay)
        similarity, shared_place = self._similarity, self._shared_place
        for item in reversed(weight_of):  # the newest last, so that its place stays
            rows = slice(index.starts[item], index.starts[item + 1])
            sessions = index.session[rows]
            similarity[sessions] += weight_of[item] * index.shared[item]
            shared_place[sessions] = index.place[rows]
            found.append(sessions)
        if not found:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        sessions = found[0]
        if len(found) > 1:
            sessions = np.concatenate(found)
            # The last place written wins, so each session finds one place of its own.
            places = np.arange(len(sessions))
            self._order[sessions] = places
            sessions = sessions[self._order[sessions] == places]
        values = similarity[sessions]
        similarity[sessions] = 0.0
        if len(sessions) > config.sessions:
            # Sessions are numbered by time, so the newest have the largest numbers.
            at = len(sessions) - config.sessions
            newest = np.sort(np.argpartition(sessions, at)[at:])
            sessions, values = sessions[newest], values[newest]
        return sessions, values

    def _votes_of(self, sessions: Ints, similarity: Floats, shared_place: Ints) -> Votes:
        starts = self._past.starts
        first = starts[sessions]
        lengths = starts[sessions + 1] - first
        ends = np.cumsum(lengths)
        n = int(ends[-1])
        rows = np.arange(n)
        # From a neighbour's first click, and from its newest shared item, to each of its clicks.
        items = self._past.items[rows + np.repeat(first - ends + lengths, lengths)]
        behind = rows - np.repeat(ends - lengths + shared_place, lengths)
        weights = self._place_weights[np.clip(behind, -_FARTHEST, _FARTHEST) + _FARTHEST]
        votes = np.repeat(similarity, lengths) * weights
        self._slot[items] = rows
        slot = self._slot[items]
        scores = np.bincount(slot, weights=votes, minlength=n)
        own = np.flatnonzero((slot == rows) & (scores > 0))
        chosen = items[own]
        return Votes(
            chosen.astype(np.int64, copy=False),
            scores[own] * self._index.voted[chosen],
            len(sessions),
        )


class _Index:
    """The newest sessions with each item, `config.sessions` at most, newest first, and where in the session it is (its last place)."""

    def __init__(self, past: PastSessions, n_items: int, config: SessionKNNConfig) -> None:
        lengths = np.diff(past.starts)
        session = np.repeat(np.arange(past.n_sessions), lengths)
        place = np.arange(len(past.items)) - past.starts[:-1][session]
        # Newest session first, and the last place first within it; then the first of each is kept.
        order = np.lexsort((-place, -session, past.items))
        item, session, place = past.items[order], session[order], place[order]
        kept = np.ones(len(item), dtype=bool)
        kept[1:] = (item[1:] != item[:-1]) | (session[1:] != session[:-1])
        item, session, place = item[kept], session[kept], place[kept]
        starts = np.searchsorted(item, np.arange(n_items + 1))
        self.sessions_of_item = np.diff(starts)
        within = np.arange(len(item)) - starts[:-1][item] < config.sessions
        item = item[within]
        self.starts: list[int] = np.searchsorted(item, np.arange(n_items + 1)).tolist()
        self.session, self.place = session[within], place[within]
        idf = np.log1p(past.n_sessions / np.maximum(self.sessions_of_item, 1))
        self.voted: Floats = idf**config.idf
        self.shared: list[float] = (idf**config.idf_shared).tolist()


def _place_weights(config: SessionKNNConfig) -> Floats:
    """By clicks from the newest shared item, -_FARTHEST to _FARTHEST."""
    behind = np.arange(-_FARTHEST, _FARTHEST + 1)
    direction = np.array([config.backward, config.self_weight, 1.0])[np.sign(behind) + 1]
    distance = np.maximum(np.abs(behind) - 1, 0)
    weights: Floats = direction * np.exp(-distance / config.place_decay)
    return weights

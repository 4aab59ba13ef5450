"""What is popular right now: click counts that decay with event time, and their ranking.

Forward decay (Cormode et al. 2009, "Forward Decay: A Practical Time Decay Model for Streaming
Systems", section 3): an item is stored as its decayed count at its own last click.  The rank key
`log2(count) + time / half-life` does not depend on when it is looked at, so an item that nobody clicks
needs no update, and the order of two items that nobody clicks never changes.

Event time is the only clock.  The same clicks folded in the same versions give the same floats, bit for
bit, on the stream and in an offline replay.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from stream_app.core.clicks import decode_click
from stream_app.core.ranking import round_significant
from stream_app.core.records import ERASE, Click, ScoredItem

MINUTE_MS: Final = 60_000
DROPPED_SHARE: Final = 0.1
"""Over the bound, so many of the items go at once: finding the least popular costs a sort."""
RANKED_ITEMS_MAX: Final = 1_256
"""Longest list anybody asks for: serving.top_k and the seen items that may be left out of it."""


class DecayedCount(NamedTuple):
    """A count that halves every half-life."""

    value: float
    """As of `time_ms`, its newest click; positive."""
    time_ms: int

    def with_click(self, time_ms: int, half_life_ms: float) -> "DecayedCount":
        """One more click.  A late one weighs what it would weigh now had it come in time."""
        ahead = time_ms - self.time_ms
        if ahead >= 0:
            return DecayedCount(self.value * 2.0 ** (-ahead / half_life_ms) + 1.0, time_ms)
        return DecayedCount(self.value + 2.0 ** (ahead / half_life_ms), self.time_ms)

    def key(self, half_life_ms: float) -> float:
        """Orders counts as they would be ordered at any one moment."""
        return math.log2(self.value) + self.time_ms / half_life_ms


Changes = dict[str, DecayedCount | None]
"""New counts by item id; None: dropped."""


class CountedClick(NamedTuple):
    item_id: str
    time_ms: int


class SessionClick(NamedTuple):
    """A click as the stream statistics take it; or an event that only forgets its session."""

    partition: int
    offset: int
    session_id: str
    item_id: str | None
    """None: nothing to count."""
    time_ms: int
    remembered: bool
    """Whether the session may be followed: not when it is erased, nor without consent."""


def countable(
    record: "StoredClick", *, event_types: frozenset[str], ahead_ms_max: float
) -> SessionClick | None:
    """What the statistics make of a message; None for an event type that means nothing to them.

    Counted without consent too: an item's count says nothing of a visitor.  Raises `BadRecordError`.
    """
    stored_ms = record.timestamp
    click = decode_click(
        record.value,
        kafka_timestamp_ms=stored_ms if stored_ms >= 0 else None,
        ahead_ms_max=ahead_ms_max,
    )
    return session_click(record, click, event_types)


def session_click(
    record: "StoredClick", click: Click, event_types: frozenset[str]
) -> SessionClick | None:
    """The same for a click that is decoded already."""
    counted = click.event_type in event_types
    erased = click.event_type == ERASE
    if not counted and not erased and click.consent:
        return None
    return SessionClick(
        record.partition,
        record.offset,
        click.session_id,
        click.item_id if counted and not erased else None,
        counted_time_ms(click.event_time_ms, record.timestamp),
        click.consent and not erased,
    )


class StoredClick(Protocol):
    """A message of the click topic, as far as it is looked at here."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None


def counted_time_ms(event_time_ms: int, kafka_timestamp_ms: int) -> int:
    """Event time, but never later than Kafka stored it: one producer whose clock runs a day ahead
    would otherwise put its items above all others for a day.  A negative timestamp is none."""
    return min(event_time_ms, kafka_timestamp_ms) if kafka_timestamp_ms >= 0 else event_time_ms


class DecayedCounts:
    """Counts of items and of all clicks, at most `items_max` items after each fold."""

    def __init__(
        self,
        half_life_ms: float,
        items_max: int,
        *,
        items: Mapping[str, DecayedCount] | None = None,
        total: DecayedCount | None = None,
        clicks: int = 0,
    ) -> None:
        self.half_life_ms = half_life_ms
        self.items_max = items_max
        self.items: dict[str, DecayedCount] = dict(items or {})
        self.total = total
        """All clicks, those of dropped items included; None before the first."""
        self.clicks = clicks
        """Clicks ever folded."""

    @property
    def watermark_ms(self) -> int | None:
        """Newest time of a click."""
        return self.total.time_ms if self.total else None

    def fold(self, clicks: Iterable[CountedClick]) -> Changes:
        """Count one version's clicks; what changed, in the order of first mention (an old item that was dropped comes last).

        For equal results everywhere the clicks of a version come in ascending (partition, offset) order.
        """
        items, half_life_ms, total = self.items, self.half_life_ms, self.total
        changed: Changes = {}
        for item_id, time_ms in clicks:
            before = items.get(item_id)
            after = (
                before.with_click(time_ms, half_life_ms) if before else DecayedCount(1.0, time_ms)
            )
            items[item_id] = changed[item_id] = after
            total = total.with_click(time_ms, half_life_ms) if total else DecayedCount(1.0, time_ms)
            self.clicks += 1
        self.total = total
        for item_id in self._drop_least_popular():
            changed[item_id] = None
        return changed

    def _drop_least_popular(self) -> list[str]:
        if len(self.items) <= self.items_max:
            return []
        kept = self.items_max - int(self.items_max * DROPPED_SHARE)
        half_life_ms = self.half_life_ms
        ranked = sorted((-count.key(half_life_ms), name) for name, count in self.items.items())
        dropped = [name for _, name in ranked[kept:]]
        for item_id in dropped:
            del self.items[item_id]
        return dropped


class Ranking:
    """The first items by popularity, kept up to date at the cost of what changed.

    A click only ever raises a key, so the new first `size` are among the old ones and the changed ones;
    only dropping one of them makes a look at all items necessary.
    """

    def __init__(self, half_life_ms: float, *, size: int = RANKED_ITEMS_MAX) -> None:
        self._half_life_ms = half_life_ms
        self._size = size
        self._entries: list[tuple[float, str]] = []
        """(-key, item id): ascending order is ranked order, ties by item id."""

    def rebuild(self, items: Mapping[str, DecayedCount]) -> None:
        half_life_ms = self._half_life_ms
        entries = ((-count.key(half_life_ms), item_id) for item_id, count in items.items())
        self._entries = heapq.nsmallest(self._size, entries)

    def update(
        self, changes: Mapping[str, DecayedCount | None], items: Mapping[str, DecayedCount]
    ) -> None:
        """changes: since the last call; items: all of them, changes included."""
        stay, lost_one = [], False
        for entry in self._entries:
            if entry[1] not in changes:
                stay.append(entry)
            elif changes[entry[1]] is None:
                lost_one = True
        if lost_one and len(items) > len(stay):
            self.rebuild(items)
            return
        half_life_ms = self._half_life_ms
        stay += [
            (-count.key(half_life_ms), item_id)
            for item_id, count in changes.items()
            if count is not None
        ]
        stay.sort()
        self._entries = stay[: self._size]

    def view(self, version: int | None, total: DecayedCount | None) -> "PopularityView":
        total_key = total.key(self._half_life_ms) if total else 0.0
        return PopularityView(version, tuple(self._entries), total_key)


class PopularityView:
    """What was popular at one version; never changes.  Implements `core.ports.Popularity`."""

    __slots__ = ("_entries", "_lists", "_total_key", "version")

    def __init__(
        self, version: int | None, entries: tuple[tuple[float, str], ...], total_key: float
    ) -> None:
        self.version = version
        self._entries = entries
        self._total_key = total_key
        self._lists: dict[int, list[ScoredItem]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def top(self, k: int) -> Sequence[ScoredItem]:
        """Best `min(k, items known)`; score: the item's share of all decayed clicks, 5 digits.

        Ties by item id.  Made once per k.  At most the size the ranking was given can be asked for.
        """
        made = self._lists.get(k)
        if made is None:
            entries = self._entries[:k]
            keys = np.array([-negative_key for negative_key, _ in entries], dtype=np.float64)
            scores = round_significant(np.exp2(keys - self._total_key)).tolist()
            made = [
                ScoredItem(item_id, score, rank)
                for rank, ((_, item_id), score) in enumerate(zip(entries, scores, strict=True), 1)
            ]
            self._lists[k] = made
        return made


class LocalPopularity:
    """Counts and ranking together, for one process that counts for itself (no aggregator, or offline)."""

    def __init__(
        self, half_life_ms: float, items_max: int, *, ranked: int = RANKED_ITEMS_MAX
    ) -> None:
        self.counts = DecayedCounts(half_life_ms, items_max)
        self._ranking = Ranking(half_life_ms, size=ranked)

    def fold(self, clicks: Iterable[CountedClick], *, version: int | None = None) -> PopularityView:
        changes = self.counts.fold(clicks)
        self._ranking.update(changes, self.counts.items)
        return self._ranking.view(version, self.counts.total)

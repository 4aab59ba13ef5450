"""What the gateway remembers of sessions and items it saw on the stream, within bounds."""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import UNREADABLE, Click
from stream_app.gateway.records import Judged

CLICKS_MAX: Final = 50
"""Of one session; the newest."""
ITEMS_MAX: Final = 100_000
HALVING_SECONDS: Final = 600.0
"""A click counts half as much for an item's popularity after so long."""
_FADE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class RememberedClick:
    recommendation_id: str
    item_id: str
    event_time_ms: int
    judged: Judged | None


@dataclass(slots=True)
class SessionTrace:
    """Of one session, the newest."""

    clicks: deque[RememberedClick] = field(default_factory=lambda: deque(maxlen=CLICKS_MAX))
    answers: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    """By recommendation id, as they are on the topic; the last is the newest."""


class SessionMemory:
    """Answers of the sessions touched last, `answers_max` in all.

    Sessions that click through this gateway have half of it for themselves, so that the traffic of others
    does not drive them out.
    """

    def __init__(self, answers_max: int) -> None:
        self._answers_max = answers_max // 2
        self._own = _Pool()
        self._others = _Pool()

    def __len__(self) -> int:
        """Sessions remembered."""
        return len(self._own.traces) + len(self._others.traces)

    def adopt(self, session_id: str) -> None:
        """The session clicks through this gateway."""
        if session_id in self._own.traces:
            return
        trace = self._others.pop(session_id) or SessionTrace()
        self._own.put(session_id, trace)
        self._own.shrink(self._answers_max)

    def add_answer(self, session_id: str, recommendation_id: str, answer: bytes) -> None:
        pool = self._pool_of(session_id)
        trace = pool.touch(session_id)
        if recommendation_id not in trace.answers:
            pool.answers += 1
        trace.answers[recommendation_id] = answer
        if len(trace.answers) > CLICKS_MAX:
            trace.answers.popitem(last=False)
            pool.answers -= 1
        pool.shrink(self._answers_max)

    def add_click(self, session_id: str, click: RememberedClick) -> None:
        self._pool_of(session_id).touch(session_id).clicks.append(click)

    def forget(self, session_id: str) -> None:
        self._own.pop(session_id)
        self._others.pop(session_id)

    def find(self, session_id: str) -> SessionTrace | None:
        return self._own.traces.get(session_id) or self._others.traces.get(session_id)

    def _pool_of(self, session_id: str) -> "_Pool":
        return self._own if session_id in self._own.traces else self._others


class _Pool:
    def __init__(self) -> None:
        self.traces: OrderedDict[str, SessionTrace] = OrderedDict()
        self.answers = 0

    def touch(self, session_id: str) -> SessionTrace:
        trace = self.traces.get(session_id)
        if trace is None:
            trace = self.traces[session_id] = SessionTrace()
        self.traces.move_to_end(session_id)
        return trace

    def put(self, session_id: str, trace: SessionTrace) -> None:
        self.traces[session_id] = trace
        self.answers += len(trace.answers)

    def pop(self, session_id: str) -> SessionTrace | None:
        trace = self.traces.pop(session_id, None)
        if trace is not None:
            self.answers -= len(trace.answers)
        return trace

    def shrink(self, answers_max: int) -> None:
        """The sessions untouched for longest go; ones without an answer (yet) count like one answer."""
        while self.traces and (self.answers > answers_max or len(self.traces) > answers_max):
            _, gone = self.traces.popitem(last=False)
            self.answers -= len(gone.answers)


class _Properties(msgspec.Struct):
    title: str | None = None
    category: str | None = None


_decode_properties: Final = msgspec.json.Decoder(_Properties).decode


@dataclass(slots=True)
class KnownItem:
    title: str | None = None
    category: str | None = None
    weight: float = 0.0
    """Clicks, faded."""


class ItemMemory:
    """Names and recent popularity of items, as clicks told them.  Seconds: a clock that never runs backwards."""

    def __init__(
        self, description_of: Callable[[str], ItemAttributes | None] = lambda _: None
    ) -> None:
        """description_of: what the shop says of an item; names one whose clicks do not, or that has none."""
        self._description_of = description_of
        self._items: OrderedDict[str, KnownItem] = OrderedDict()
        self._faded_at: float | None = None

    def add_click(self, click: Click, now: float) -> None:
        self._fade(now)
        item = self._items.get(click.item_id)
        if item is None:
            item = self._items[click.item_id] = KnownItem()
            if len(self._items) > ITEMS_MAX:
                self._items.popitem(last=False)
        self._items.move_to_end(click.item_id)
        item.weight += 1
        if item.title is None and click.properties:
            _take_names(item, click.properties)

    def title_of(self, item_id: str) -> str | None:
        item = self._items.get(item_id)
        if item is not None and item.title is not None:
            return item.title
        described = self._description_of(item_id)
        return described.title or None if described else None

    def category_of(self, item_id: str) -> str | None:
        item = self._items.get(item_id)
        if item is not None and item.category is not None:
            return item.category
        described = self._description_of(item_id)
        return " > ".join(described.category) or None if described else None

    def ids(self) -> Iterator[str]:
        return iter(self._items)

    def most_popular(self, count: int) -> list[tuple[str, float]]:
        """Items and their shares of the recent clicks, most popular first."""
        ranked = heapq.nlargest(count, self._items.items(), key=lambda pair: pair[1].weight)
        return self.popularity_of([item_id for item_id, _ in ranked])

    def popularity_of(self, item_ids: Iterable[str]) -> list[tuple[str, float]]:
        """These items in their order, and their shares of the recent clicks."""
        total = sum(item.weight for item in self._items.values()) or 1.0
        weights = [(item_id, self._items.get(item_id)) for item_id in item_ids]
        return [(item_id, item.weight / total if item else 0.0) for item_id, item in weights]

    def _fade(self, now: float) -> None:
        if self._faded_at is None:
            self._faded_at = now
        elif now - self._faded_at >= _FADE_SECONDS:
            factor = 0.5 ** ((now - self._faded_at) / HALVING_SECONDS)
            self._faded_at = now
            for item in self._items.values():
                item.weight *= factor


def _take_names(item: KnownItem, properties: msgspec.Raw) -> None:
    try:
        named = _decode_properties(properties)
    except UNREADABLE:
        return  # somebody's own use of the fields
    item.title, item.category = named.title, named.category

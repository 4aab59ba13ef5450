"""What the stream says of itself while it runs: clicks folded beside the worker, answers judged.

Takes records of the click, recommendation and dead-letter topics in whatever order they are fetched,
and counts exactly as `stream_app.core.pipeline` does.  A click is folded once an answer at or beyond
its offset was seen: by then it is known what its session had been shown.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from stream_app.core.clicks import decode_click
from stream_app.core.errors import BadRecordError
from stream_app.core.pipeline import ClickRecord, Judgement, ServingRules
from stream_app.core.ranking import SHOWN_MAX, hashes_of, rank_in_shown
from stream_app.core.records import ERASE, NO_MODEL, UNREADABLE, Click, ItemId, Recommendation
from stream_app.core.session import SessionState, advance
from stream_app.core.statistics import CountedClick, LocalPopularity, counted_time_ms
from stream_app.tools.latencies import Latencies
from stream_app.tools.swap_gaps import SwapGaps

SESSIONS_MAX: Final = 200_000
"""Sessions remembered; the longest untouched is forgotten first, and judged no more."""
TITLES_MAX: Final = 100_000
RECENT_MAX: Final = 50
DEAD_LETTERS_MAX: Final = 200_000
"""Remembered, so that none is counted twice."""
ANSWERED_MAX: Final = 4_000_000
"""Offsets of a partition, the newest, for which it is remembered whether they were answered."""
NAMED_MAX: Final = 5
"""Items of an answer that are kept by id, to be shown."""
POPULARITY_CLICKS: Final = 100
"""Popularity beside the models is brought up to date every so many clicks, sooner than the worker's."""
_RATE_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class StreamTopics:
    """The topics that are looked at."""

    clicks: str
    recommendations: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class SeenClick:
    """One folded click and its answer, for people."""

    session_id: str
    item_id: str
    shown_version: str | None
    """Version whose answer this click judges; None where nothing was shown before."""
    hit_rank: int
    """Rank of the clicked item in that answer, 0 if it was not among the first 20."""
    answer: tuple[str, ...]
    """First items of the answer to this click, best first; empty where it got none."""
    answer_version: str
    latency_ms: int


@dataclass(slots=True)
class VersionQuality:
    """Answers of one model version (popularity: `none`), and what the sessions' next clicks said."""

    first_seen: float
    """Caller's seconds of its first answer."""
    answers: int = 0
    live: Judgement = field(default_factory=Judgement)
    popularity: Judgement = field(default_factory=Judgement)
    """What popularity would have scored on the very same clicks."""


@dataclass(frozen=True, slots=True)
class _Answer:
    version: str
    hashes: bytes
    items: tuple[str, ...]
    latency_ms: int


@dataclass(slots=True)
class _Session:
    state: SessionState
    answer: _Answer | None
    popular: bytes
    """What popularity would have shown, as `hashes_of` gives it."""


class Listener(Protocol):
    """Whoever wants to know of single clicks; called while records are taken."""

    def on_seen(self, record: ClickRecord, click: Click, seen: SeenClick) -> None:
        """A click was folded."""

    def on_forgotten(self, session_id: str) -> None:
        """A session was erased, or gave no consent: nobody may remember it."""


class LiveNumbers:
    """Feed it with `take`; read its fields at any time.

    newest_only: serving.answer_newest_only is on, so a click without an answer was superseded.
    sessions_max: remembered to judge by.  waiting_max: clicks of a partition that wait for an answer; beyond
    it the oldest are passed over, unjudged (None: none is, and a stream that nobody answers fills the memory).
    Seconds are the caller's clock, which never runs backwards.
    """

    def __init__(
        self,
        topics: StreamTopics,
        rules: ServingRules,
        *,
        half_life_ms: float,
        popularity_items_max: int = 1_000_000,
        newest_only: bool = False,
        sessions_max: int = SESSIONS_MAX,
        waiting_max: int | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._topics, self._rules, self._newest_only = topics, rules, newest_only
        self._sessions_max, self._waiting_max, self._listener = sessions_max, waiting_max, listener
        self._partitions: dict[int, _Partition] = {}
        self._sessions: OrderedDict[tuple[int, str], _Session] = OrderedDict()
        self._popularity = LocalPopularity(half_life_ms, popularity_items_max, ranked=SHOWN_MAX)
        self._uncounted: list[CountedClick] = []
        self._popular = b""
        self._dead_letters: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._per_second: deque[tuple[int, int]] = deque()
        self._decode_answer = msgspec.json.Decoder(Recommendation).decode
        self.produced = 0
        """Messages on the click topic."""
        self.recommended = 0
        """Clicks answered, each counted once however often it was answered."""
        self.repeated_answers = 0
        self.dead_lettered = 0
        """Clicks on the dead-letter topic, each counted once."""
        self.foreign_records = 0
        """Records on our topics that somebody else wrote, passed over."""
        self.outcomes: Counter[str] = Counter()
        """Folded clicks by what the rules make of them: answered, dead_lettered, ignored_<reason>."""
        self.sessions_of_two = 0
        """Sessions that reached a second click: what can be learned from."""
        self.versions: dict[str, VersionQuality] = {}
        """In order of first appearance."""
        self.titles: dict[str, str] = {}
        self.recent: deque[SeenClick] = deque(maxlen=RECENT_MAX)
        self.latencies = Latencies()
        self.swap_gaps = SwapGaps()
        self.first_answer_at: float | None = None
        self.first_model_at: float | None = None

    @property
    def ignored(self) -> dict[str, int]:
        """Clicks that deliberately get no answer, by reason."""
        return {
            name.removeprefix("ignored_"): count
            for name, count in sorted(self.outcomes.items())
            if name.startswith("ignored_")
        }

    @property
    def unaccounted(self) -> int:
        """Clicks whose fate is not known (yet): 0 after `finish` if none was lost."""
        return self.produced - self.recommended - self.dead_lettered - sum(self.ignored.values())

    def take(self, records: Iterable[Any], now: float) -> None:
        """Records of any of the three topics, each partition in offset order.  now: seconds."""
        produced_before = self.produced
        touched: set[int] = set()
        for record in records:
            if record.topic == self._topics.clicks:
                self.produced += 1
                self._partition(record.partition).waiting.append(record)
                touched.add(record.partition)
            elif record.topic == self._topics.recommendations:
                self._take_answer(record, now)
                touched.add(record.partition)
            elif record.topic == self._topics.dead_letters:
                self._take_dead_letter(record)
        for number in touched:
            self._fold(self._partition(number))
        self._count_rate(self.produced - produced_before, now)
        self.swap_gaps.settle(now)

    def finish(self) -> None:
        """Fold what is left.  For when the worker is done, so that no answer is still to come."""
        for partition in self._partitions.values():
            if partition.waiting:
                partition.answered_to = partition.waiting[-1].offset
            self._fold(partition)

    def popularity_quality(self) -> VersionQuality:
        """Popularity's own answers where it gave any; else what it would have scored beside the models.

        A log that is streamed after a first training is never answered by popularity.
        """
        own = self.versions.get(NO_MODEL)
        if own is not None and own.live.predictions:
            return own
        beside = VersionQuality(own.first_seen if own else 0.0, own.answers if own else 0)
        for quality in self.versions.values():
            beside.live.predictions += quality.popularity.predictions
            beside.live.hits += quality.popularity.hits
            beside.live.reciprocal_rank += quality.popularity.reciprocal_rank
        beside.popularity = beside.live
        return beside

    def clicks_per_second(self, now: float) -> float:
        """Over the last ten whole seconds, fewer at the beginning."""
        second = int(now)
        window = [(s, n) for s, n in self._per_second if second - _RATE_SECONDS <= s < second]
        return sum(n for _, n in window) / (second - window[0][0]) if window else 0.0

    def title_of(self, item_id: str) -> str:
        """The item's name where a click carried one, else its id."""
        return self.titles.get(item_id, item_id)

    # -- one record -----------------------------------------------------------------------------------

    def _partition(self, number: int) -> "_Partition":
        return self._partitions.setdefault(number, _Partition())

    def _take_answer(self, record: Any, now: float) -> None:
        try:
            answer = self._decode_answer(record.value)
        except (TypeError, *UNREADABLE):  # no value, or somebody else's
            self.foreign_records += 1
            return
        partition = self._partition(answer.source.partition)
        version = answer.model_version or NO_MODEL
        known = _Answer(
            version,
            hashes_of(answer.items),
            tuple(item.item_id for item in answer.items[:NAMED_MAX]),
            answer.latency_ms,
        )
        if self.first_answer_at is None:
            self.first_answer_at = now
        if self.first_model_at is None and version != NO_MODEL:
            self.first_model_at = now
        quality = self.versions.setdefault(version, VersionQuality(now))
        self.swap_gaps.add(version, answer.generated_at, now)
        offset = answer.source.offset
        if partition.note_answered(offset):
            self.recommended += 1
            quality.answers += 1
            self.latencies.add(answer.latency_ms, now)
        else:
            self.repeated_answers += 1
        if offset > partition.folded_to:
            partition.answers[offset] = known
            partition.answered_to = max(partition.answered_to, offset)
        else:
            # Answered again after a crash: what the session saw last is the later answer.
            session = self._sessions.get((answer.source.partition, answer.session_id))
            if session is not None and session.state.last_offset == offset:
                session.answer = known

    def _take_dead_letter(self, record: Any) -> None:
        """Folding does not wait for these: an answer to an earlier click may still be on its way."""
        headers = dict(record.headers)
        try:
            number = int(headers["nextclick-original-partition"])
            offset = int(headers["nextclick-original-offset"])
        except (KeyError, ValueError):
            self.foreign_records += 1
            return
        if (number, offset) in self._dead_letters:
            return
        self.dead_lettered += 1
        self._dead_letters[number, offset] = None
        if len(self._dead_letters) > DEAD_LETTERS_MAX:
            self._dead_letters.popitem(last=False)

    def _count_rate(self, clicks: int, now: float) -> None:
        second = int(now)
        if self._per_second and self._per_second[-1][0] == second:
            clicks += self._per_second.pop()[1]
        self._per_second.append((second, clicks))
        while self._per_second[0][0] < second - _RATE_SECONDS:
            self._per_second.popleft()

    # -- folding --------------------------------------------------------------------------------------

    def _fold(self, partition: "_Partition") -> None:
        waiting = partition.waiting
        while waiting and waiting[0].offset <= partition.answered_to:
            record = waiting.popleft()
            answer = partition.answers.pop(record.offset, None)
            partition.folded_to = record.offset
            self.outcomes[self._fold_click(record, answer)] += 1
        while self._waiting_max is not None and len(waiting) > self._waiting_max:
            partition.folded_to = waiting.popleft().offset

    def _fold_click(self, record: ClickRecord, answer: _Answer | None) -> str:
        """What must become of the click, by the rules alone."""
        try:
            click = decode_click(
                record.value,
                kafka_timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
                ahead_ms_max=self._rules.ahead_ms_max,
            )
        except BadRecordError:
            return "dead_lettered"
        key = (record.partition, click.session_id)
        if click.event_type == ERASE:
            self._forget(key)
            return "ignored_erased"
        if not click.consent:
            self._forget(key)
        if click.event_type not in self._rules.event_types:
            return "ignored_event_type"
        self._count_popularity(click, record.timestamp)
        if not click.consent:
            return "answered"
        before = self._sessions.get(key)
        state = advance(
            before.state if before else None,
            click,
            offset=record.offset,
            limits=self._rules.limits,
        )
        if isinstance(state, str):
            return f"ignored_{state}"
        self._note_title(click)
        shown = before if before and before.answer and state.click_count > 1 else None
        hit_rank = self._judge(shown, click.item_id) if shown else 0
        self.sessions_of_two += state.click_count == 2
        self._remember(key, _Session(state, answer, self._popular))
        seen = _seen(click, shown, hit_rank, answer)
        self.recent.append(seen)
        if self._listener is not None:
            self._listener.on_seen(record, click, seen)
        return "ignored_superseded" if answer is None and self._newest_only else "answered"

    def _judge(self, session: _Session, item_id: ItemId) -> int:
        assert session.answer is not None
        quality = self.versions[session.answer.version]
        rank = rank_in_shown(session.answer.hashes, item_id)
        quality.live.add(rank)
        quality.popularity.add(rank_in_shown(session.popular, item_id))
        return rank

    def _remember(self, key: tuple[int, str], session: _Session) -> None:
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._sessions_max:
            self._sessions.popitem(last=False)

    def _forget(self, key: tuple[int, str]) -> None:
        self._sessions.pop(key, None)
        if self._listener is not None:
            self._listener.on_forgotten(key[1])

    def _count_popularity(self, click: Click, kafka_timestamp_ms: int) -> None:
        time_ms = counted_time_ms(click.event_time_ms, kafka_timestamp_ms)
        self._uncounted.append(CountedClick(click.item_id, time_ms))
        if len(self._uncounted) >= POPULARITY_CLICKS:
            self._popular = hashes_of(self._popularity.fold(self._uncounted).top(SHOWN_MAX))
            self._uncounted.clear()

    def _note_title(self, click: Click) -> None:
        if click.properties and click.item_id not in self.titles and len(self.titles) < TITLES_MAX:
            title = _title(click.properties)
            if title:
                self.titles[click.item_id] = title


@dataclass(slots=True)
class _Partition:
    waiting: deque[ClickRecord] = field(default_factory=deque)
    """Clicks read and not yet folded, in offset order."""
    answers: dict[int, _Answer] = field(default_factory=dict)
    """By the click's offset; taken out when that click is folded."""
    answered_to: int = -1
    folded_to: int = -1
    _first: int | None = None
    _answered: bytearray = field(default_factory=bytearray)
    """A byte per click offset, from `_first` on: 1 once it was answered."""
    _dropped: bool = False

    def note_answered(self, offset: int) -> bool:
        """Whether this is the first answer to the click at `offset`."""
        if self._first is None:
            self._first = offset
        position = offset - self._first
        if position < 0 and self._dropped:
            return False  # so long ago that it was answered before, as good as surely
        if position < 0:
            self._answered[:0] = bytes(-position)
            self._first, position = offset, 0
        if position >= len(self._answered):
            self._answered.extend(bytes(position + 1 - len(self._answered)))
        if self._answered[position]:
            return False
        self._answered[position] = 1
        if len(self._answered) > 2 * ANSWERED_MAX:
            del self._answered[:ANSWERED_MAX]
            self._first += ANSWERED_MAX
            self._dropped = True
        return True


def _seen(click: Click, shown: _Session | None, hit_rank: int, answer: _Answer | None) -> SeenClick:
    return SeenClick(
        session_id=click.session_id,
        item_id=click.item_id,
        shown_version=shown.answer.version if shown and shown.answer else None,
        hit_rank=hit_rank,
        answer=answer.items if answer else (),
        answer_version=answer.version if answer else NO_MODEL,
        latency_ms=answer.latency_ms if answer else 0,
    )


class _Properties(msgspec.Struct):
    title: str | None = None


_properties_decoder = msgspec.json.Decoder(_Properties)


def _title(properties: msgspec.Raw) -> str | None:
    try:
        return _properties_decoder.decode(properties).title
    except UNREADABLE:
        return None  # somebody's own use of the field

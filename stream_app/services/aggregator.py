"""The aggregator: one process counts every click and publishes what changed, seconds later.

A version is one Kafka transaction: the changed items and a marker with the offsets counted.  The offsets
live in that marker and nowhere else, so counts and offsets cannot disagree: after a crash at any point
the next aggregator reads back the last whole version, reads the clicks of the sessions that went on once
more without counting them, and counts on from exactly there.  The transactional id fences: a second
aggregator ends the first.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaError,
    OffsetOutOfRangeError,
    ProducerFencedError,
    TransactionAbortedError,
)

from stream_app.adapters import kafka_topics
from stream_app.adapters.instruments import StatisticsInstruments
from stream_app.adapters.kafka_clients import broker_errors, python_client_options
from stream_app.core.errors import (
    BadRecordError,
    ConfigurationError,
    InvariantError,
    ServiceAwayError,
)
from stream_app.core.recent_sessions import Anchor
from stream_app.core.statistics import SessionClick, countable
from stream_app.core.statistics_counts import Records, StatisticsCounts
from stream_app.core.statistics_records import (
    HistoryKey,
    VersionMarker,
    encode_history,
    encode_marker,
    item_key,
    version_key,
)
from stream_app.logging_setup import get_logger
from stream_app.services.published_statistics import read_published
from stream_app.settings import Settings, statistics_recipe

VERSION_CLICKS_MAX: Final = 100_000
"""Clicks in a version at most: bounds memory while catching up."""
MARKERS_KEPT_MS: Final = 7 * 86_400_000
"""So long a version can be looked up, for an exact offline replay of what was answered."""
HISTORY_VERSIONS_MAX: Final = 512
"""Markers gathered in one history; at most twice as many lie on the topic singly."""
HISTORY_OFFSETS_MAX: Final = 20_000
"""Fewer where there are many partitions: a history must stay well below 1 MB."""
STALE_PER_VERSION: Final = 50_000
"""Tombstones of items that an earlier recipe counted; a million in one transaction would take its time."""
IDLE_MARKER_SECONDS: Final = 60.0
"""Clicks of other event types move the offsets too; without any marker retention would overtake it."""
TRANSACTION_TIMEOUT_MS: Final = 30_000

log = get_logger("statistics")


class Aggregator:
    """Counts clicks from the last published version on.  A context manager; for one thread."""

    def __init__(
        self,
        settings: Settings,
        instruments: StatisticsInstruments,
        *,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """progress: told that we are at work while the counts and their sessions are restored."""
        self._settings, self._instruments = settings, instruments
        self._progress = progress
        self._recipe = statistics_recipe(settings)
        self._event_types = frozenset(settings.serving.event_types)
        self._ahead_ms_max = settings.serving.event_time_ahead_hours_max * 3_600_000
        self._admin: Any = None
        self._producer: Any = None
        self._consumer: Any = None
        self._clicks: list[SessionClick] = []
        """Not yet folded."""
        self._offsets: dict[int, int] = {}
        self._published_offsets: dict[int, int] = {}
        self._markers: deque[VersionMarker] = deque()
        """Single ones on the topic, oldest first."""
        self._histories: deque[HistoryKey] = deque()
        self._stale: list[str] = []
        """Items whose records are still to be dropped: counted by another recipe, and by ours not yet."""
        self._began = 1
        self.version = 0
        self._published_at = time.monotonic()

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """A transaction still open is left to the next aggregator, or to its timeout, to abort."""
        for client in (self._consumer, self._admin):
            if client is not None:
                client.close()
        if self._producer is not None:
            self._producer.close(timeout=2)
        self._consumer = self._admin = self._producer = None

    def _open(self) -> None:
        """Fence the one before us first: nothing can be published behind our back after that."""
        settings, names = self._settings, self._settings.topics
        facts = kafka_topics.ensure_topics(settings.kafka, names)
        self._topic_id = facts[names.clicks].topic_id
        options = python_client_options(settings.kafka)
        with self._errors():
            self._admin = KafkaAdminClient(**options)
            self._producer = KafkaProducer(
                **options,
                transactional_id=f"{names.statistics}-aggregator",
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                delivery_timeout_ms=TRANSACTION_TIMEOUT_MS,
                max_block_ms=TRANSACTION_TIMEOUT_MS,
                allow_auto_create_topics=False,
                acks="all",
                linger_ms=5,
                batch_size=256 * 1024,
            )
            self._producer.init_transactions()
        partitions = facts[names.clicks].partitions
        marker, anchors = self._restore(partitions)
        with self._errors():
            self._consumer = KafkaConsumer(
                **options,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                isolation_level="read_committed",
                max_poll_records=10_000,
                # Nobody waits for single clicks: larger fetches cost a fraction of the CPU.
                fetch_min_bytes=32 * 1024,
                fetch_max_wait_ms=200,
            )
            self._seek(marker, anchors, partitions)
        log.info(
            "statistics_started",
            version=self.version,
            items=len(self._counts),
            sessions=len(self._counts.sessions),
            clicks_counted=self._counts.clicks,
            offsets=self._offsets,
        )

    def _restore(self, partitions: int) -> tuple[VersionMarker | None, dict[int, Anchor]]:
        """The last whole version, bit for bit; where the sessions that went on then are read again."""
        settings = self._settings
        published = read_published(
            settings.kafka, settings.topics.statistics, progress=self._progress
        )
        marker = published.marker
        if marker is not None and marker.topic_id != self._topic_id.hex():
            raise ConfigurationError(
                f"topic {settings.topics.clicks} was deleted and created anew since version "
                f"{marker.version} of the statistics was published, so its offsets start over: delete "
                f"topic {settings.topics.statistics} as well (popularity then starts afresh), or name "
                "another one in topics.statistics"
            )
        self._markers, self._histories = published.markers, published.histories
        self.version = marker.version if marker else 0
        anchors = published.anchors()
        counts = published.counts(self._recipe, partitions=partitions)
        if counts is None:
            counts = StatisticsCounts(self._recipe, partitions=partitions)
            counts.version = self.version
            self._began = self.version + 1
            if marker is not None:
                log.warning(
                    "statistics_begin_anew",
                    version=self.version,
                    reason="their settings changed"
                    if marker.recipe
                    else "an earlier release counted popularity only",
                    items_dropped=len(published.records.keys() | published.of_format_1),
                )
            marker, anchors = None, {}
        elif marker is not None:
            self._began = marker.began
        self._counts = counts
        written = published.records.keys() | published.of_format_1
        self._stale = sorted(written - counts.number_of.keys())
        self._instruments.version.set(self.version)
        self._instruments.items.set(len(counts))
        return marker, anchors

    def _seek(
        self, marker: VersionMarker | None, anchors: dict[int, Anchor], partitions: int
    ) -> None:
        """To the first click that is not counted, by way of those that made the sessions what they are."""
        topic = self._settings.topics.clicks
        assigned = [TopicPartition(topic, number) for number in range(partitions)]
        self._consumer.assign(assigned)
        counted = (
            {int(number): offset for number, offset in marker.offsets.items()} if marker else {}
        )
        begins = self._consumer.beginning_offsets(assigned)
        ends = self._consumer.end_offsets(assigned)
        for tp in assigned:
            offset = counted.get(tp.partition)
            if offset is None:
                offset = begins[tp]
            elif offset > ends[tp]:
                raise ConfigurationError(
                    f"{topic} partition {tp.partition} ends at {ends[tp]}, but version {self.version} "
                    f"of the statistics counted up to {offset}: the topic lost clicks.  Delete topic "
                    f"{self._settings.topics.statistics} (popularity then starts afresh)"
                )
            elif offset < begins[tp]:
                self._count_lost(tp.partition, offset, begins[tp])
                offset = begins[tp]
            self._consumer.seek(tp, offset)
            self._offsets[tp.partition] = offset
        self._remember_sessions(anchors, begins)
        self._published_offsets = dict(self._offsets)

    def _remember_sessions(
        self, anchors: dict[int, Anchor], begins: dict[TopicPartition, int]
    ) -> None:
        """Follow the clicks between the anchors and the offsets counted, and count none of them."""
        sessions, ends = self._counts.sessions, {}
        for tp, begin in begins.items():
            anchor = anchors.get(tp.partition)
            if anchor is None:
                continue
            sessions.resume(tp.partition, anchor)
            first = max(begin, anchor.offset)
            if first > anchor.offset:
                log.warning(
                    "sessions_forgotten",
                    partition=tp.partition,
                    first_offset=anchor.offset,
                    next_offset=begin,
                    reason="retention deleted clicks of sessions that went on: what follows them is not "
                    "learned as pairs with them",
                )
            if first < self._offsets[tp.partition]:
                ends[tp] = self._offsets[tp.partition]
                self._consumer.seek(tp, first)
        self._consumer.pause(*(tp for tp in begins if tp not in ends))
        while ends:
            self._progress()
            for tp, records in self._consumer.poll(timeout_ms=500).items():
                for record in records:
                    if tp in ends and record.offset < ends[tp]:
                        self._follow(record)
            for tp in [tp for tp, end in ends.items() if self._consumer.position(tp) >= end]:
                del ends[tp]
                self._consumer.pause(tp)
                self._consumer.seek(tp, self._offsets[tp.partition])
        self._consumer.resume(*begins)

    def _follow(self, record: Any) -> None:
        try:
            click = self._countable(record)
        except BadRecordError:
            return
        if click is not None:
            self._counts.remember(click)

    def _countable(self, record: Any) -> SessionClick | None:
        return countable(record, event_types=self._event_types, ahead_ms_max=self._ahead_ms_max)

    def _count_lost(self, partition: int, offset: int, begin: int) -> None:
        self._instruments.lost_clicks.inc(begin - offset)
        log.error(
            "clicks_lost",
            partition=partition,
            first_offset=offset,
            next_offset=begin,
            clicks=begin - offset,
            reason="retention deleted them before they were counted",
        )

    def turn(self) -> None:
        """Read what is there, and publish if it is time; takes at most `statistics.publish_seconds`."""
        due_in = self._published_at + self._settings.statistics.publish_seconds - time.monotonic()
        self._read(max(0.0, min(due_in, 0.5)) if self._clicks else 0.5)
        overdue = time.monotonic() - self._published_at
        if (
            len(self._clicks) >= VERSION_CLICKS_MAX
            or (self._clicks and overdue >= self._settings.statistics.publish_seconds)
            or (overdue >= IDLE_MARKER_SECONDS and self._offsets != self._published_offsets)
        ):
            self.publish()
        self._show_lag()

    def _read(self, timeout_seconds: float) -> None:
        try:
            with self._errors():
                found = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except OffsetOutOfRangeError:
            self._check_topic()
            self._skip_what_is_gone()
            return
        outcomes = {"counted": 0, "ignored_event_type": 0, "unusable": 0}
        for tp, records in found.items():
            for record in records:
                try:
                    click = self._countable(record)
                except BadRecordError:
                    outcomes["unusable"] += 1
                    continue
                if click is not None:
                    self._clicks.append(click)
                counted = click is not None and click.item_id is not None
                outcomes["counted" if counted else "ignored_event_type"] += 1
            self._offsets[tp.partition] = records[-1].offset + 1
        for outcome, count in outcomes.items():
            self._instruments.clicks.labels(outcome).inc(count)

    def _skip_what_is_gone(self) -> None:
        with self._errors():
            begins = self._consumer.beginning_offsets(self._consumer.assignment())
        for tp, begin in begins.items():
            offset = self._offsets[tp.partition]
            if offset < begin:
                self._count_lost(tp.partition, offset, begin)
                self._offsets[tp.partition] = begin
            self._consumer.seek(tp, self._offsets[tp.partition])

    def publish(self) -> None:
        """Fold what was read and publish it as the next version; nothing was read: nothing happens."""
        if self._offsets == self._published_offsets:
            return
        began = time.perf_counter()
        self._check_topic()
        self._clicks.sort()
        changes = self._counts.fold(self._clicks, version=self.version + 1)
        stale, known = self._stale[:STALE_PER_VERSION], self._counts.number_of
        changes |= {item_id: None for item_id in stale if item_id not in known}
        marker = self._next_marker()
        with self._errors():
            self._producer.begin_transaction()
            self._send(marker, changes)
            self._producer.commit_transaction()
        self.version = marker.version
        self._published_offsets = dict(self._offsets)
        self._clicks.clear()
        del self._stale[:STALE_PER_VERSION]
        self._published_at = time.monotonic()
        self._markers.append(marker)
        self._show_published(marker, changes, time.perf_counter() - began)

    def _send(self, marker: VersionMarker, changes: Records) -> None:
        topic, send = self._settings.topics.statistics, self._producer.send
        for item_id, value in changes.items():
            send(topic, key=item_key(item_id), value=value, partition=0)
        self._gather_old_markers()
        while self._histories and (
            self._histories[0].published_at < marker.published_at - MARKERS_KEPT_MS
        ):
            send(topic, key=self._histories.popleft().encode(), value=None, partition=0)
        send(topic, key=version_key(marker.version), value=encode_marker(marker), partition=0)

    def _gather_old_markers(self) -> None:
        topic, send = self._settings.topics.statistics, self._producer.send
        group = HISTORY_OFFSETS_MAX // len(self._offsets)
        group = min(HISTORY_VERSIONS_MAX, max(16, group))
        if len(self._markers) < 2 * group:
            return
        gathered = [self._markers.popleft() for _ in range(group)]
        key, value = encode_history(gathered)
        send(topic, key=key, value=value, partition=0)
        for old in gathered:
            send(topic, key=version_key(old.version), value=None, partition=0)
        self._histories.append(HistoryKey.decode(key))

    def _next_marker(self) -> VersionMarker:
        counts = self._counts
        anchors = counts.sessions.anchors()
        return VersionMarker(
            version=self.version + 1,
            topic=self._settings.topics.clicks,
            topic_id=self._topic_id.hex(),
            offsets={str(partition): offset for partition, offset in sorted(self._offsets.items())},
            watermark=counts.watermark_ms,
            half_life_minutes=self._recipe.half_life_minutes,
            items_max=self._recipe.items_max,
            total_count=counts.totals.values[0],
            clicks=counts.clicks,
            items=len(counts),
            published_at=time.time_ns() // 1_000_000,
            recipe=self._recipe,
            began=self._began,
            totals=tuple(counts.totals.values),
            follow_up_total=counts.follow_up_total.values[0],
            follow_up_watermark=counts.follow_up_total.time_ms,
            sessions={str(number): (a.offset, a.clock_ms) for number, a in sorted(anchors.items())},
        )

    def _check_topic(self) -> None:
        """Offsets mean nothing if the click topic was deleted and created anew under us."""
        topic = self._settings.topics.clicks
        with self._errors():
            facts = kafka_topics.describe(self._admin, [topic]).get(topic)
        if facts is None or facts.topic_id != self._topic_id:
            raise ConfigurationError(
                f"topic {topic} was deleted{'' if facts is None else ' and created anew'} while its "
                f"clicks were counted: delete topic {self._settings.topics.statistics} as well, then "
                "start the aggregator again (popularity starts afresh)"
            )

    def _show_published(self, marker: VersionMarker, changes: Records, seconds: float) -> None:
        shown = self._instruments
        shown.version.set(marker.version)
        shown.published.inc()
        shown.records.inc(len(changes))
        shown.bytes.inc(sum(len(value) for value in changes.values() if value is not None))
        shown.items.set(marker.items)
        shown.sessions.set(len(self._counts.sessions))
        shown.publish_duration.observe(seconds)
        if marker.watermark is not None:
            shown.watermark.set(marker.watermark / 1000)

    def _show_lag(self) -> None:
        behind = 0
        for tp in self._consumer.assignment():
            end = self._consumer.highwater(tp)
            if end is not None:
                behind += max(0, end - self._offsets[tp.partition])
        self._instruments.lag.set(behind + len(self._clicks))
        self._instruments.age.set(time.monotonic() - self._published_at)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Client errors in our words.  Whatever it is: nothing is published half, and we start over."""
        try:
            with broker_errors(self._settings.kafka):
                yield
        except (ProducerFencedError, InvalidProducerEpochError) as error:
            raise InvariantError(
                "another aggregator took over (or this one was suspended for longer than "
                f"{TRANSACTION_TIMEOUT_MS // 1000} s): run exactly one `nextclick statistics`"
            ) from error
        except OffsetOutOfRangeError:
            raise
        except (TransactionAbortedError, KafkaError) as error:
            raise ServiceAwayError(
                f"the broker at {self._settings.kafka.bootstrap_servers} failed us: "
                f"{type(error).__name__}: {error}"
            ) from error

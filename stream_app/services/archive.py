"""`nextclick archive`: the click topic as a Parquet click log, exact by partition and offset.

The files are the truth and committed offsets a hint: a range of offsets is archived once all its
files are in place, and whoever takes over a partition asks the files where to go on.  So no click is
missing or twice after a kill at any point, and a commit that fails costs nothing.
"""

import contextlib
import errno
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pyarrow as pa
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from stream_app.adapters import http_endpoints
from stream_app.adapters.disk_metrics import DiskMetrics
from stream_app.adapters.instruments import ArchiveInstruments, process_registry
from stream_app.adapters.kafka_clients import broker_errors, python_client_options
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.adapters.metric_labels import replace_partitions
from stream_app.core.clicks import decode_click
from stream_app.core.errors import (
    BadRecordError,
    ConfigurationError,
    InvariantError,
    ServiceAwayError,
)
from stream_app.core.records import ERASE, Click
from stream_app.files.click_log import LOG_COLUMNS, ClickLogWriter
from stream_app.logging_setup import get_logger
from stream_app.settings import Settings

POLL_MS: Final = 200
POLL_RECORDS_MAX: Final = 5_000
BUFFER_BYTES_MAX: Final = 64 * 1024**2
"""A partition is flushed beyond this, whatever archive.flush_clicks says: clicks may be large."""
COMMIT_TIMEOUT_MS: Final = 10_000
SESSION_TIMEOUT_MS: Final = 10_000
"""An archive that dies is missed after so long, and others take its partitions over."""
IDLE_SECONDS: Final = 20.0
"""Whoever owns nothing for so long joins the group anew: once in a hundred starts on a busy machine
kafka-python 3.0.12 looks for its coordinator, or waits for its share, for ever."""
IDLE_SECONDS_MAX: Final = 600.0
"""And after twice the time again, up to this: an archive that is one too many disturbs the others so often."""
HEALTHY_SECONDS: Final = 120.0
"""A turn of the loop, flush included, that takes longer is a hang."""

log = get_logger("archive")


Checkpoint = Callable[[str], None]
"""Called with the name of each step of a flush once it is done: those of `ClickLogWriter`, `committed`."""


def run_archive(settings: Settings, *, checkpoint: Checkpoint = lambda _: None) -> None:
    """Run until SIGTERM or SIGINT, then write what is buffered and return.

    checkpoint: tests end the process there.  Raises `ConfigurationError` (click log not writable, or of
    another topic), `ServiceAwayError` (no broker, no room), or `InvariantError` if a file cannot be
    written later on: nothing is committed then.
    """
    # It warns of every fetch that takes 0.1 s to take apart, which on a busy machine is many.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
    facts = ensure_topics(settings.kafka, settings.topics)[settings.topics.clicks]
    registry = process_registry()
    registry.register(DiskMetrics(click_log=settings.click_log))
    archive = Archive(
        settings, ArchiveInstruments(registry), topic_id=facts.topic_id, checkpoint=checkpoint
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        endpoints = http_endpoints.serve(
            settings.metrics.host,
            settings.metrics.port,
            registry=registry,
            is_ready=archive.is_ready,
            is_healthy=archive.is_healthy,
        )
        stack.callback(endpoints.close)
        log.info(
            "archive_started", metrics=f"{endpoints.url}/metrics", click_log=settings.click_log
        )
        with broker_errors(settings.kafka, quiet=False):
            archive.run(stop)
    log.info("archive_stopped")


@dataclass(slots=True)
class _Buffer:
    """Clicks of one partition that are in no file yet: the offsets first .. next - 1."""

    first: int
    next: int
    rows: list[tuple[int, int, Click]] = field(default_factory=list)
    """Offset, Kafka timestamp, click."""
    unusable: int = 0
    size_bytes: int = 0
    since: float = 0.0
    """When the oldest of it arrived, monotonic seconds."""

    @property
    def is_empty(self) -> bool:
        return self.next == self.first


class Archive:
    """Consumes, buffers, flushes.  One thread runs it; the consumer's own thread calls the listener."""

    def __init__(
        self,
        settings: Settings,
        instruments: ArchiveInstruments,
        *,
        topic_id: bytes,
        checkpoint: Checkpoint = lambda _: None,
    ) -> None:
        self._settings = settings
        self._topic = settings.topics.clicks
        self._instruments = instruments
        self._ahead_ms_max = settings.serving.event_time_ahead_hours_max * 3_600_000
        self._done = checkpoint
        self._writer = _open_click_log(settings.click_log, topic_id, checkpoint)
        self._owned: dict[int, _Buffer] = {}
        self._ownership = _Ownership()
        self._turned_at = time.monotonic()

    def is_ready(self) -> tuple[bool, str]:
        if not self._owned:
            return (
                False,
                "no partitions are assigned (yet, or there are more archives than partitions)",
            )
        return True, f"archiving partitions {sorted(self._owned)}"

    def is_healthy(self) -> tuple[bool, str]:
        seconds = time.monotonic() - self._turned_at
        return seconds < HEALTHY_SECONDS, f"last turn of the loop {seconds:.1f} s ago"

    def run(self, stop: threading.Event) -> None:
        patience = IDLE_SECONDS
        while not stop.is_set():
            consumer = self._join()
            owned_at = time.monotonic()
            try:
                while not stop.is_set() and time.monotonic() - owned_at < patience:
                    self._turn(consumer)
                    if self._owned:
                        owned_at, patience = time.monotonic(), IDLE_SECONDS
                self._flush(consumer, [p for p, b in self._owned.items() if not b.is_empty])
            finally:
                consumer.close(autocommit=False)
            if not stop.is_set():
                log.warning("nothing_assigned", seconds=patience, note="joining the group anew")
                patience = min(2 * patience, IDLE_SECONDS_MAX)

    def _join(self) -> KafkaConsumer:
        consumer = KafkaConsumer(
            **python_client_options(self._settings.kafka),
            group_id=f"{self._settings.kafka.group_id}-archive",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=POLL_RECORDS_MAX,
            session_timeout_ms=SESSION_TIMEOUT_MS,
        )
        # kafka-python 3.0.12 asks for no topic while it connects.  An answer to that which comes as the
        # group is formed hides the topic from the leader, who shares out nothing, for good: what it knows
        # before and after is the same.  So that answer has to be in first.
        consumer.partitions_for_topic(self._topic)
        consumer.subscribe([self._topic], listener=self._ownership)
        return consumer

    def _turn(self, consumer: KafkaConsumer) -> None:
        polled = consumer.poll(timeout_ms=POLL_MS)
        lost = self._ownership.lost(self._owned)
        for partition in lost:
            # Whoever owns it now reads these clicks again.
            del self._owned[partition]
        fresh = self._ownership.fresh()
        for partition in fresh:
            self._take_over(consumer, partition)
        for topic_partition, records in polled.items():
            buffer = self._owned.get(topic_partition.partition)
            # What came with the assignment was read from where the commit says, not the files.
            if buffer is not None and topic_partition.partition not in fresh:
                self._add(buffer, records)
        self._flush(consumer, list(self._due()))
        self._measure(consumer)
        self._turned_at = time.monotonic()

    def _take_over(self, consumer: KafkaConsumer, partition: int) -> None:
        """Go on where the files end: they are never behind what was committed, unless deleted."""
        place = TopicPartition(self._topic, partition)
        archived = self._writer.recover(self._topic, partition) or 0
        committed = consumer.committed(place) or 0
        beginning = consumer.beginning_offsets([place])[place]
        end = consumer.end_offsets([place])[place]
        position = max(archived, committed)
        if archived > end:
            raise ConfigurationError(
                f"the click log {self._settings.click_log} holds {self._topic} up to offset {archived - 1} "
                f"of partition {partition}, but the topic ends at {end}: it was made anew; set another "
                "click_log, or move the old one away"
            )
        if position < beginning:
            if position:
                self._instruments.lost_clicks.inc(beginning - position)
                log.error(
                    "clicks_lost_to_retention", partition=partition, clicks=beginning - position
                )
            position = beginning
        if place not in consumer.assignment():
            return  # revoked again while we looked
        consumer.seek(place, position)
        self._owned[partition] = _Buffer(position, position)
        self._ownership.taken(partition)
        log.info("partition_taken", partition=partition, position=position, committed=committed)

    def _add(self, buffer: _Buffer, records: list[Any]) -> None:
        if buffer.is_empty:
            buffer.since = time.monotonic()
        for record in records:
            if record.offset < buffer.next:
                continue
            buffer.next = record.offset + 1
            try:
                click = decode_click(
                    record.value,
                    kafka_timestamp_ms=record.timestamp,
                    ahead_ms_max=self._ahead_ms_max,
                )
            except BadRecordError:
                buffer.unusable += 1
                continue
            buffer.size_bytes += len(record.value)
            buffer.rows.append((record.offset, record.timestamp, click))

    def _due(self) -> Iterator[int]:
        archive = self._settings.archive
        now = time.monotonic()
        for partition, buffer in self._owned.items():
            if not buffer.is_empty and (
                now - buffer.since >= archive.flush_seconds
                or len(buffer.rows) >= archive.flush_clicks
                or buffer.size_bytes >= BUFFER_BYTES_MAX
            ):
                yield partition

    def _flush(self, consumer: KafkaConsumer, partitions: list[int]) -> None:
        written: dict[int, int] = {}
        for partition in partitions:
            buffer = self._owned[partition]
            with self._ownership.held(partition) as is_ours:
                if not is_ours:
                    continue
                self._write(partition, buffer)
            self._owned[partition] = _Buffer(buffer.next, buffer.next)
            written[partition] = buffer.next
        if written:
            self._commit(consumer, written)

    def _write(self, partition: int, buffer: _Buffer) -> None:
        with self._instruments.flush_duration.time():
            try:
                files = self._writer.write_range(
                    self._topic,
                    partition,
                    buffer.first,
                    buffer.next - 1,
                    rows_of(self._topic, partition, buffer.rows),
                )
            except OSError as error:
                raise InvariantError(
                    f"the click log {self._settings.click_log} cannot be written ({error.strerror or error}): "
                    "free space or mend the permissions and start again; nothing is lost, the clicks "
                    "are read again"
                ) from error
        self._instruments.files.inc(files)
        self._instruments.clicks.labels("archived").inc(len(buffer.rows))
        self._instruments.clicks.labels("unusable").inc(buffer.unusable)

    def _commit(self, consumer: KafkaConsumer, written: dict[int, int]) -> None:
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in written.items()
        }
        try:
            consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
        except KafkaError as error:
            log.warning("commit_failed", error=repr(error), note="the files count; nothing is lost")
        self._done("committed")

    def _measure(self, consumer: KafkaConsumer) -> None:
        lag = {}
        oldest = 0.0
        now = time.monotonic()
        for partition, buffer in self._owned.items():
            end = consumer.highwater(TopicPartition(self._topic, partition))
            lag[partition] = max(end or 0, buffer.next) - buffer.first
            if not buffer.is_empty:
                oldest = max(oldest, now - buffer.since)
        replace_partitions(self._instruments.lag, lag)
        self._instruments.oldest.set(oldest)


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Which partitions may be written.  The consumer's thread changes it, ours reads it.

    A partition is not given up while its files are being written: its next owner would otherwise
    delete them as leftovers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: set[int] = set()
        self._ours: set[int] = set()

    def on_partitions_revoked(self, revoked: Any) -> None:
        with self._lock:
            gone = {place.partition for place in revoked}
            self._ours -= gone
            self._fresh -= gone

    def on_partitions_assigned(self, assigned: Any) -> None:
        with self._lock:
            new = {place.partition for place in assigned}
            self._ours -= new
            self._fresh |= new

    def fresh(self) -> set[int]:
        """Assigned and not yet taken over."""
        with self._lock:
            return set(self._fresh)

    def lost(self, owned: dict[int, _Buffer]) -> list[int]:
        with self._lock:
            return [partition for partition in owned if partition not in self._ours]

    def taken(self, partition: int) -> None:
        """Taken over, unless it was revoked meanwhile."""
        with self._lock:
            if partition in self._fresh:
                self._fresh.remove(partition)
                self._ours.add(partition)

    @contextlib.contextmanager
    def held(self, partition: int) -> Iterator[bool]:
        """Whether the partition is ours; it stays so inside the block."""
        with self._lock:
            yield partition in self._ours


def rows_of(topic: str, partition: int, rows: list[tuple[int, int, Click]]) -> pa.Table:
    """Clicks (offset, Kafka timestamp in ms, click) as `LOG_COLUMNS`.

    Without consent only item, type and times are kept.  Erase events keep their session id: it says
    whose clicks to leave out.
    """
    columns: dict[str, list[Any]] = {name: [] for name in LOG_COLUMNS.names[2:]}
    for offset, kafka_timestamp_ms, click in rows:
        consent = click.consent
        named = consent or click.event_type == ERASE
        columns["offset"].append(offset)
        columns["kafka_timestamp_ms"].append(kafka_timestamp_ms)
        columns["session_id"].append(click.session_id if named else None)
        columns["item_id"].append(click.item_id)
        columns["event_time_ms"].append(click.event_time_ms)
        columns["event_type"].append(click.event_type)
        columns["event_id"].append(click.event_id if consent else None)
        columns["user_id"].append(click.user_id if consent else None)
        columns["recommendation_id"].append(click.recommendation_id if consent else None)
        columns["consent"].append(consent)
        columns["properties"].append(_text(click.properties) if consent else None)
    size = len(rows)
    topics = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), size), [topic])
    arrays = [topics, pa.repeat(pa.scalar(partition, pa.int32()), size)]
    arrays += [pa.array(columns[field.name], field.type) for field in list(LOG_COLUMNS)[2:]]
    return pa.Table.from_arrays(arrays, schema=LOG_COLUMNS)


def _text(raw: msgspec.Raw) -> str | None:
    """Properties are passed through unread, so only here it shows that they are not UTF-8."""
    return bytes(raw).decode(errors="replace") if raw else None


def _open_click_log(root: str, topic_id: bytes, checkpoint: Checkpoint) -> ClickLogWriter:
    writer = ClickLogWriter(root, topic_id=topic_id, checkpoint=checkpoint)
    try:
        writer.check_writable()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ServiceAwayError(
                f"click_log {root} is full ({error.strerror}): free space, or set another directory or URL "
                "(--click-log); nothing is lost, the clicks wait on the topic"
            ) from error
        raise ConfigurationError(
            f"click_log {root} cannot be written ({error.strerror or error}): mend its permissions, or "
            "set another directory or URL (--click-log)"
        ) from error
    return writer

"""Reading a whole topic: all of it once, then what is new.  For one thread.

Made for compacted topics; the dead letters are read by it too.
"""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from stream_app.adapters.kafka_clients import KafkaConnection, broker_errors, python_client_options
from stream_app.core.errors import ConfigurationError, ServiceAwayError

STALLED_SECONDS: Final = 30.0
"""No progress for so long, before the end is reached, means that the broker is away."""

_RECORDS_MAX: Final = 10_000
_FETCH_BYTES: Final = 4 * 1024**2


class CompactedTopic:
    """All partitions of one topic, from the beginning.  A context manager; connects when entered.

    of_key: only the partition that records of this key go to.  committed_only: records of open and aborted transactions are not seen.  newest: only so many from
    the end of each partition (fewer where transactions or compaction left gaps).  Records are kafka-python's
    (`key`, `value` (None: a tombstone), `partition`, `offset`, `timestamp`, `headers`).

    Raises `ServiceAwayError` without a broker, `ConfigurationError` without the topic.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topic: str,
        *,
        committed_only: bool = False,
        newest: int | None = None,
        of_key: bytes | None = None,
    ) -> None:
        self._kafka, self._of_key = kafka, of_key
        self._newest = newest
        self.topic = topic
        self._isolation = "read_committed" if committed_only else "read_uncommitted"
        self._consumer: Any = None
        self._partitions: list[TopicPartition] = []

    def __enter__(self) -> Self:
        with broker_errors(self._kafka):
            consumer = KafkaConsumer(
                **python_client_options(self._kafka),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                isolation_level=self._isolation,
                max_poll_records=_RECORDS_MAX,
                max_partition_fetch_bytes=_FETCH_BYTES,
            )
            try:
                self._partitions = _partitions_of(consumer, self.topic)
                if self._of_key is not None:
                    number = murmur2(self._of_key) & 0x7FFFFFFF
                    self._partitions = [self._partitions[number % len(self._partitions)]]
                consumer.assign(self._partitions)
                consumer.seek_to_beginning(*self._partitions)
                if self._newest is not None:
                    _seek_back(consumer, self._partitions, self._newest)
            except BaseException:
                consumer.close()
                raise
        self._consumer = consumer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def read_to_end(
        self, *, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Any]]:
        """Lists of records up to where the topic ends now; nothing at all for an empty one.

        The end is where the position reaches it, not where the last record is seen: that one may have
        been compacted away, belong to an aborted transaction, or be a transaction's marker.
        """
        with broker_errors(self._kafka):
            ends = self._consumer.end_offsets(self._partitions)
            begins = self._consumer.beginning_offsets(self._partitions)
            at = {tp: self._consumer.position(tp) for tp in self._partitions}
        left = [tp for tp in self._partitions if ends[tp] > max(begins[tp], at[tp])]
        progress = time.monotonic()
        before = -1
        while left and not should_stop():
            records = self.poll(0.2)
            if records:
                yield records
            with broker_errors(self._kafka):
                positions = {tp: self._consumer.position(tp) for tp in self._partitions}
            left = [tp for tp in left if positions[tp] < ends[tp]]
            if sum(positions.values()) != before:
                before, progress = sum(positions.values()), time.monotonic()
            elif time.monotonic() - progress > STALLED_SECONDS:
                raise ServiceAwayError(
                    f"reading {self.topic} made no progress for {STALLED_SECONDS:.0f} s: see whether "
                    f"the broker at {self._kafka.bootstrap_servers} is healthy"
                )

    def poll(self, timeout_seconds: float) -> list[Any]:
        """What is new, partition by partition in offset order; empty if nothing came in time."""
        with broker_errors(self._kafka):
            found = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        return [record for tp in self._partitions for record in found.get(tp, ())]


def _seek_back(consumer: Any, partitions: list[TopicPartition], count: int) -> None:
    begins = consumer.beginning_offsets(partitions)
    for tp, end in consumer.end_offsets(partitions).items():
        consumer.seek(tp, max(begins[tp], end - count))


def _partitions_of(consumer: Any, topic: str) -> list[TopicPartition]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise ConfigurationError(f"topic {topic} is missing: run `nextclick topics create`")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


def read_latest(
    kafka: KafkaConnection, topic: str, *, committed_only: bool = False
) -> dict[bytes | None, Any]:
    """The newest record of each key that has a value, in the order in which they were written."""
    latest: dict[bytes | None, Any] = {}
    with CompactedTopic(kafka, topic, committed_only=committed_only) as reader:
        for records in reader.read_to_end():
            for record in records:
                latest.pop(record.key, None)
                if record.value is not None:
                    latest[record.key] = record
    return latest

"""What a consumer group has served, remembered by the group itself: a note in every offset it commits.

A data directory may be wiped and a changelog may be empty; committed offsets survive both, and they mean
nothing without the topic and the partition count they were made for.  So those travel with them, in the
metadata string that Kafka keeps beside each committed offset.
"""

import re
import time
from dataclasses import dataclass
from typing import Any, Final, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)

from stream_app.adapters.kafka_clients import KafkaConnection, broker_errors, python_client_options

COORDINATOR_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class ServedTopics:
    """The incarnation of the topics a worker serves."""

    clicks_id: bytes
    """16 bytes; another one means that the click topic was deleted and made anew."""
    sessions_id: bytes
    """16 bytes of the changelog."""
    partitions: int

    def note(self) -> str:
        """What is committed beside each offset: under 100 bytes (Kafka takes 4096)."""
        return (
            f"nextclick clicks={self.clicks_id.hex()} sessions={self.sessions_id.hex()} "
            f"partitions={self.partitions}"
        )

    @classmethod
    def from_note(cls, note: str) -> Self | None:
        """None for a note that is not ours: offsets set with Kafka's own tools carry none.

        >>> served = ServedTopics(bytes(16), bytes(range(16)), 4)
        >>> ServedTopics.from_note(served.note()) == served
        True
        >>> ServedTopics.from_note("") is None
        True
        """
        match = _NOTE.fullmatch(note)
        if match is None:
            return None
        return cls(bytes.fromhex(match[1]), bytes.fromhex(match[2]), int(match[3]))


_NOTE: Final = re.compile(
    r"nextclick clicks=([0-9a-f]{32}) sessions=([0-9a-f]{32}) partitions=(\d+)"
)


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    offset: int
    served: ServedTopics | None
    """None where it was set by something other than a nextclick worker, or by one before notes."""


def committed_offsets(admin: Any, group_id: str, topic: str) -> dict[int, CommittedOffset]:
    """What the group has committed for the topic, by partition; empty for a group that never was.

    admin: of `kafka_topics.admin_client`.  A broker that has just started makes its topic of offsets when
    it is first asked, and has no answer until then.
    """
    give_up_at = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            offsets = admin.list_group_offsets({group_id: None})[group_id]
            break
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)
    return {
        tp.partition: CommittedOffset(entry.offset, ServedTopics.from_note(entry.metadata or ""))
        for tp, entry in offsets.items()
        if tp.topic == topic and entry.offset >= 0
    }


def first_records(kafka: KafkaConnection, topic: str, partitions: int) -> list[bytes]:
    """The first record that is no tombstone of each partition that has one."""
    tps = [TopicPartition(topic, partition) for partition in range(partitions)]
    with broker_errors(kafka):
        consumer = KafkaConsumer(**python_client_options(kafka), group_id=None)
        try:
            consumer.assign(tps)
            consumer.seek_to_beginning(*tps)
            ends = consumer.end_offsets(tps)
            found: dict[TopicPartition, bytes] = {}
            unseen = set(tps)
            while unseen:
                for tp, records in consumer.poll(timeout_ms=200).items():
                    for record in records:
                        if record.value is not None:
                            found.setdefault(tp, record.value)
                seen = {tp for tp in unseen if tp in found or consumer.position(tp) >= ends[tp]}
                consumer.pause(*seen)
                unseen -= seen
            return list(found.values())
        finally:
            consumer.close()

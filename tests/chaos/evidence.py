"""What a run left behind, read back: topics by librdkafka (a replayed log is long), disks by our own store."""

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.codec import is_removal
from stream_app.core.records import Recommendation
from tests.chaos.verdict import ClickPlace, GivenAnswer, StateRecord, given

SILENCE_SECONDS = 120
"""So long a topic may give nothing before its end."""


class ReadRecord(NamedTuple):
    """A Kafka message as the pipeline wants it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def read_topic(bootstrap_servers: str, topic: str) -> list[ReadRecord]:
    """Every record that can be read now, each partition in offset order."""
    by_partition: dict[int, list[ReadRecord]] = {}
    for record in stream_topic(bootstrap_servers, topic):
        by_partition.setdefault(record.partition, []).append(record)
    return [record for p in sorted(by_partition) for record in by_partition[p]]


def stream_topic(bootstrap_servers: str, topic: str) -> Iterator[ReadRecord]:
    """The same one by one, the partitions mixed, for topics that are better not held in memory.

    It ends by the broker's word that the end is reached, since the last offsets may hold no record.
    """
    consumer = _consumer(bootstrap_servers)
    try:
        unfinished = set(_partitions(consumer, topic))
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in unfinished])
        read_at = time.monotonic()
        while unfinished:
            for message in consumer.consume(1000, timeout=0.1):
                if message.error() is None:
                    yield _record(message)
                    read_at = time.monotonic()
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    unfinished.discard(message.partition())
            assert time.monotonic() < read_at + SILENCE_SECONDS, f"{topic} does not come to its end"
    finally:
        consumer.close()


def end_offsets(bootstrap_servers: str, topic: str) -> dict[int, int]:
    """The offset after the last record, by partition."""
    consumer = _consumer(bootstrap_servers)
    try:
        return _ends(consumer, topic)
    finally:
        consumer.close()


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    return {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]
        for p in _partitions(consumer, topic)
    }


class GroupProgress:
    """How far a consumer group has committed, asked without joining it."""

    def __init__(self, bootstrap_servers: str, group_id: str, topic: str) -> None:
        self._topic = topic
        self._consumer = _consumer(bootstrap_servers, group_id)

    def behind(self) -> int:
        """Records that are stored and not committed."""
        ends = _ends(self._consumer, self._topic)
        asked = [TopicPartition(self._topic, partition) for partition in ends]
        committed = self._consumer.committed(asked, timeout=10)
        return sum(ends[tp.partition] - max(0, tp.offset) for tp in committed)

    def close(self) -> None:
        self._consumer.close()


class AnswerFollower:
    """Reads answers as they come, in a thread, and keeps what the oracle needs of each."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.answers: dict[ClickPlace, list[GivenAnswer]] = {}
        self._bootstrap_servers, self._topic = bootstrap_servers, topic
        self._consumer = _consumer(bootstrap_servers)
        self._decode = msgspec.json.Decoder(Recommendation).decode
        self._newest_ms: dict[int, int] = {}
        self._reached: dict[int, int] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def first_after(
        self, moment_ms: float, partitions: set[int] | None = None, *, seconds: float
    ) -> float:
        """Wait for an answer (in `partitions`) sent after that moment; the seconds it took from there on.

        Ask before answers after `moment_ms` are likely to be many: the newest is compared.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for partition, newest_ms in self._newest_ms.items():
                    if newest_ms > moment_ms and (partitions is None or partition in partitions):
                        return self._earliest(moment_ms, partitions)
                if self._error is not None:
                    raise self._error
                left = deadline - time.monotonic()
                assert left > 0, f"no answer within {seconds:.0f} s"
                self._changed.wait(min(left, 0.5))

    def times_ms(self, partitions: set[int] | None = None) -> list[int]:
        """When the answers were sent, in order."""
        with self._changed:
            return sorted(
                answer.timestamp_ms
                for (partition, _), answers in self.answers.items()
                if partitions is None or partition in partitions
                for answer in answers
            )

    def wait_until_read(self, seconds: float = 60) -> None:
        """Wait until all that is on the topic now was read."""
        ends = end_offsets(self._bootstrap_servers, self._topic)
        deadline = time.monotonic() + seconds
        with self._changed:
            while any(self._reached.get(p, 0) < end for p, end in ends.items()):
                if self._error is not None:
                    raise self._error
                assert time.monotonic() < deadline, f"answers could not be read within {seconds} s"
                self._changed.wait(0.2)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _earliest(self, moment_ms: float, partitions: set[int] | None) -> float:
        recent = (
            answers[-1].timestamp_ms
            for place, answers in reversed(self.answers.items())
            if partitions is None or place[0] in partitions
        )
        earliest = min(ms for ms, _ in zip(recent, range(20_000), strict=False) if ms > moment_ms)
        return (earliest - moment_ms) / 1000

    def _run(self) -> None:
        try:
            partitions = list(_partitions(self._consumer, self._topic))
            self._consumer.assign(
                [TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in partitions]
            )
            while not self._stop.is_set():
                messages = self._consumer.consume(500, timeout=0.05)
                if messages:
                    with self._changed:
                        for message in messages:
                            self._take(message)
                        self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits
            self._error = error

    def _take(self, message: Any) -> None:
        partition = message.partition()
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:
                self._reached[partition] = message.offset()
            return
        answer = self._decode(message.value())
        sent_ms = message.timestamp()[1]
        assert answer.source.partition == partition, "an answer lies beside its click"
        assert message.key() == answer.session_id.encode("utf-8", "surrogatepass")
        place = (partition, answer.source.offset)
        self.answers.setdefault(place, []).append(given(answer, sent_ms))
        self._reached[partition] = message.offset() + 1
        self._newest_ms[partition] = max(sent_ms, self._newest_ms.get(partition, 0))


def dead_letters(bootstrap_servers: str, topic: str) -> dict[ClickPlace, int]:
    """How often each click was dead-lettered."""
    counts: dict[ClickPlace, int] = {}
    for record in read_topic(bootstrap_servers, topic):
        headers = dict(record.headers)
        place = (
            int(headers["nextclick-original-partition"]),
            int(headers["nextclick-original-offset"]),
        )
        counts[place] = counts.get(place, 0) + 1
    return counts


def changelog(bootstrap_servers: str, topic: str) -> list[StateRecord]:
    return [
        StateRecord(record.partition, (record.key or b"").decode("utf-8", "replace"), record.value)
        for record in read_topic(bootstrap_servers, topic)
    ]


def stored_sessions(data_dir: Path, topic_id: bytes, partition: int) -> Mapping[str, bytes]:
    """Session records of a partition in a stopped worker's RocksDB."""
    sessions = RocksSessions(data_dir / "sessions", topic_id=topic_id)
    try:
        return {
            session_id: record
            for session_id, record in sessions.records(partition)
            if not is_removal(record)
        }
    finally:
        sessions.close()


def _consumer(bootstrap_servers: str, group_id: str = "chaos-reads-alone") -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group_id,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )


def _partitions(consumer: Consumer, topic: str) -> Iterator[int]:
    yield from sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)


def _record(message: Any) -> ReadRecord:
    return ReadRecord(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )

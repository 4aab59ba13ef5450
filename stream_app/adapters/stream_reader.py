"""Reading along with a running stream: several topics at once, without a group, disturbing nobody."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaConsumer, TopicPartition

from stream_app.adapters.kafka_clients import KafkaConnection, broker_errors, python_client_options
from stream_app.core.errors import ConfigurationError

_RECORDS_MAX: Final = 5_000
_FETCH_BYTES: Final = 4 * 1024**2


class StreamReader:
    """All partitions of some topics, from their beginning or from their end.  For one thread.

    A context manager; connects when entered.  Records are kafka-python's (`topic`, `partition`,
    `offset`, `timestamp`, `key`, `value`, `headers`).  Raises `ServiceAwayError` without a broker,
    `ConfigurationError` where a topic is missing.
    """

    def __init__(
        self, kafka: KafkaConnection, topics: Sequence[str], *, from_beginning: bool
    ) -> None:
        self._kafka, self._topics, self._from_beginning = kafka, topics, from_beginning
        self._consumer: Any = None
        self._partitions: list[TopicPartition] = []

    def __enter__(self) -> Self:
        with broker_errors(self._kafka):
            consumer = KafkaConsumer(
                **python_client_options(self._kafka),
                group_id=None,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                auto_offset_reset="earliest",
                max_poll_records=_RECORDS_MAX,
                max_partition_fetch_bytes=_FETCH_BYTES,
            )
            try:
                self._partitions = [
                    TopicPartition(topic, number)
                    for topic in self._topics
                    for number in _partitions_of(consumer, topic)
                ]
                consumer.assign(self._partitions)
                self._go_to_start(consumer)
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

    def poll(self, timeout_seconds: float) -> list[Any]:
        """What is new; partitions one after another in the order of the topics, each in offset order."""
        with broker_errors(self._kafka):
            found = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        return [record for tp in self._partitions for record in found.get(tp, ())]

    def is_at_end(self) -> bool:
        """Whether everything that is on the topics right now was returned."""
        with broker_errors(self._kafka):
            ends = self._consumer.end_offsets(self._partitions)
            return all(self._consumer.position(tp) >= ends[tp] for tp in self._partitions)

    def _go_to_start(self, consumer: Any) -> None:
        """The end is looked up in the topics' order: an answer to a click that we see is never missed
        as long as clicks come first."""
        if self._from_beginning:
            consumer.seek_to_beginning(*self._partitions)
            return
        for topic in self._topics:
            ours = [tp for tp in self._partitions if tp.topic == topic]
            for tp, offset in consumer.end_offsets(ours).items():
                consumer.seek(tp, offset)


def uncommitted(kafka: KafkaConnection, topic: str, group_id: str) -> int:
    """Messages on the topic that the group has not committed yet, over all partitions.

    Does not join the group.  Raises `ServiceAwayError`, `ConfigurationError` as above.
    """
    with broker_errors(kafka):
        consumer = KafkaConsumer(
            **python_client_options(kafka), group_id=group_id, enable_auto_commit=False
        )
        try:
            partitions = [TopicPartition(topic, n) for n in _partitions_of(consumer, topic)]
            ends = consumer.end_offsets(partitions)
            begins = consumer.beginning_offsets(partitions)
            done = {tp: consumer.committed(tp) for tp in partitions}
        finally:
            consumer.close()
    return sum(
        max(0, ends[tp] - (begins[tp] if done[tp] is None else done[tp])) for tp in partitions
    )


def _partitions_of(consumer: Any, topic: str) -> list[int]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise ConfigurationError(f"topic {topic} is missing: run `nextclick topics create`")
    return sorted(numbers)

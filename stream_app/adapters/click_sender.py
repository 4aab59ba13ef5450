"""Single clicks into the click topic, for a caller who waits: stored means on all replicas.

`click_producer` is for many clicks of one source; here every click has a caller of its own, who is told of
the place his click got, or that it got none in time.
"""

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError

from stream_app.adapters.kafka_clients import KafkaConnection, aio_client_options, broker_errors
from stream_app.core.errors import ServiceAwayError
from stream_app.core.records import ClickSource
from stream_app.logging_setup import get_logger

WAITING_MAX: Final = 5_000
"""Callers who wait for Kafka at once; more are turned away at once, since they would wait in vain."""
_BATCH_BYTES: Final = 128 * 1024
_STOP_SECONDS: Final = 5.0

log = get_logger("gateway")


class ClickSender:
    """For one event loop.  `start` before the first click, `close` after the last."""

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._producer: Any = None
        self._waiting = 0
        self._replacing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `ServiceAwayError` without a broker."""
        self._producer = await self._connect()

    async def close(self) -> None:
        """Lets go of clicks that nobody waits for any more, after a moment."""
        if self._replacing is not None:
            self._replacing.cancel()
        if self._producer is not None:
            await _stop(self._producer)

    async def store(self, key: bytes, value: bytes, *, seconds: float) -> ClickSource:
        """Returns once all replicas have it.  Raises `ServiceAwayError` if that takes longer than `seconds`.

        A click that was not confirmed may still be stored later: the client goes on trying.
        """
        if self._waiting >= WAITING_MAX:
            raise ServiceAwayError(
                f"{WAITING_MAX} clicks wait for Kafka already, so this one was not sent: try again later"
            )
        producer = self._producer
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                stored = await (await producer.send(self._topic, value=value, key=key))
        except (TimeoutError, KafkaTimeoutError) as error:
            raise ServiceAwayError(
                f"Kafka did not confirm the click within {seconds:g} s.  It may still be stored: send it "
                "again with the same event_id, and it is counted once"
            ) from error
        except KafkaError as error:
            self._replace(producer, error)
            raise ServiceAwayError(
                f"Kafka did not take the click ({type(error).__name__}): send it again with the same event_id"
            ) from error
        finally:
            self._waiting -= 1
        return ClickSource(self._topic, stored.partition, stored.offset)

    async def _connect(self) -> Any:
        with broker_errors(self._kafka):
            producer = AIOKafkaProducer(
                **aio_client_options(self._kafka),
                enable_idempotence=True,  # acks=all, and no click twice where an ack got lost
                max_batch_size=_BATCH_BYTES,
                max_request_size=2 * 1024 * 1024,
            )
            try:
                await producer.start()
                await producer.partitions_for(self._topic)
            except BaseException:
                await producer.stop()
                raise
        return producer

    def _replace(self, broken: Any, error: KafkaError) -> None:
        """A producer that lost its place in the broker's sequence numbers would refuse every click to come."""
        if broken is not self._producer or (self._replacing and not self._replacing.done()):
            return
        log.warning("producer_replaced", error=repr(error))
        self._replacing = asyncio.create_task(self._renew(broken))

    async def _renew(self, broken: Any) -> None:
        try:
            self._producer = await self._connect()
        except ServiceAwayError as error:
            log.warning(
                "producer_not_replaced", error=str(error)
            )  # the next refused click tries again
            return
        await _stop(broken)


async def _stop(producer: Any) -> None:
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await producer.stop()
    except (TimeoutError, KafkaError) as error:
        log.warning("producer_not_stopped", error=repr(error))

"""Faust's consumer and producer, changed to hand over record lists and to commit only what is durable.

The only file that knows Faust's private names (faust-streaming 0.15.3).  What stock Faust does instead,
and why that breaks the promises, is written down in DESIGN.md, "Faust without agents and tables".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as stock
from faust.types import TP
from yarl import URL

from stream_app.adapters.click_feed import ClickFeed
from stream_app.core.errors import InvariantError

FETCH_WAIT_SECONDS: Final = 1.0
PRODUCER_BATCH_BYTES: Final = 4 * 2**20
"""aiokafka's default of 16 KB would split one partition's share of a batch into many requests."""
REQUEST_BYTES_MAX: Final = 8 * 2**20

Message = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]
"""Key, value, headers."""


class ClickConsumer(stock.Consumer):
    """Feeds `app.feed` with record lists; offsets are committed from `app.feed` alone."""

    app: "ClickApp"

    async def _drain_messages(self, fetcher: Any) -> None:
        feed = self.app.feed
        try:
            while not (self.should_stop or fetcher.should_stop):
                await feed.wait_for_room()
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                active = self._get_active_partitions()
                if not active:
                    await self.sleep(0.05)
                    continue
                # A fetch in flight across a rebalance returns records of partitions that are no longer
                # ours, so what we knew before it must still hold after it.
                before = (feed.epoch, self.app.consumer_generation_id)
                fetched = await self._thread.getmany(active, FETCH_WAIT_SECONDS)
                if before != (feed.epoch, self.app.consumer_generation_id):
                    continue
                for tp, records in (fetched or {}).items():
                    self._hand_over(feed, tp, records)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    def _hand_over(self, feed: ClickFeed, tp: TP, records: list[Any]) -> None:
        read_from = self._read_offset[tp]
        if read_from is not None and records and records[0].offset < read_from:
            records = [record for record in records if record.offset >= read_from]
        if records:
            self._read_offset[tp] = records[-1].offset + 1
            feed.offer(feed.epoch, tp.partition, records)

    async def perform_seek(self) -> None:
        """Go to the committed offsets; partitions without one to their beginning (stock leaves them)."""
        committed = await self.seek_to_committed()
        for tp in self.assignment():
            offset = committed.get(tp)
            self._read_offset[tp] = offset if offset is not None and offset >= 0 else None
        fresh = [tp for tp in self.assignment() if self._read_offset[tp] is None]
        if fresh:
            for tp, offset in (await self.earliest_offsets(*fresh)).items():
                await self._seek(tp, offset)
                self._read_offset[tp] = offset

    async def wait_empty(self) -> None:
        """Awaited on every revocation and stop: finish what is in flight, commit, forget the rest."""
        await self.app.feed.drain()
        await self.commit_finished()

    async def commit_finished(self) -> None:
        offsets = self.app.feed.pop_committable()
        if offsets:
            topic = self.app.clicks_topic
            await self._thread.commit({TP(topic, p): offset for p, offset in offsets.items()})

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Nothing: stock commits what agents acked, and there are none."""
        return False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: stock looks for agents' progress and cries wolf (its issue 629)."""

    def lag(self) -> dict[int, int]:
        """Clicks not yet handed over, by partition."""
        lags = {}
        for tp in self.assignment():
            end, position = self.highwater(tp), self._read_offset[tp]
            if end is not None and position is not None:
                lags[tp.partition] = max(0, end - position)
        return lags


class ClickProducer(stock.Producer):
    """Sends lists of messages as whole batches, idempotent, acknowledged by all replicas."""

    app: "ClickApp"

    def _settings_extra(self) -> Mapping[str, Any]:
        return {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 0,
            "max_batch_size": PRODUCER_BATCH_BYTES,
            "max_request_size": REQUEST_BYTES_MAX,
        }

    async def send_messages(
        self, topic: str, partition: int, messages: Sequence[Message]
    ) -> list[tuple["asyncio.Future[Any]", int]]:
        """Send in order.  Returns a future and a message count per batch; await it for the base offset."""
        producer = self._ensure_producer()
        sent = []
        batch = producer.create_batch()
        for key, value, headers in messages:
            arguments = {"key": key, "value": value, "timestamp": None, "headers": list(headers)}
            if batch.append(**arguments) is None:
                sent.append((await self._submit(batch, topic, partition), batch.record_count()))
                batch = producer.create_batch()
                if batch.append(**arguments) is None:
                    raise InvariantError(
                        f"a message for {topic} does not fit into a batch of its own"
                    )
        if batch.record_count():
            sent.append((await self._submit(batch, topic, partition), batch.record_count()))
        return sent

    async def _submit(self, batch: Any, topic: str, partition: int) -> "asyncio.Future[Any]":
        batch.close()
        future: asyncio.Future[Any] = await self._ensure_producer().send_batch(
            batch, topic, partition=partition
        )
        return future


async def base_offsets(
    sent: Sequence[tuple["asyncio.Future[Any]", int]],
) -> list[tuple[int, int]]:
    """Await the acks of `send_messages`: (base offset, message count) per batch.

    Raises `InvariantError` if a send failed: nothing after it may be acknowledged.
    """
    acks = []
    for future, count in sent:
        try:
            acks.append(((await future).offset, count))
        except KafkaError as error:
            raise InvariantError(f"the broker did not take {count} messages: {error!r}") from error
    return acks


class _Transport(stock.Transport):
    Consumer = ClickConsumer
    Producer = ClickProducer


class ClickApp(faust.App):
    """A Faust app without agents or tables: it subscribes, rebalances, and fills `feed`.

    on_assigned: awaited after each rebalance with the owned partitions, before they are read; the
    sessions are restored there (never in Faust's `on_partitions_assigned`, where heartbeats stop).
    """

    def __init__(
        self,
        *,
        clicks_topic: str,
        on_assigned: Callable[[set[int]], Awaitable[None]],
        **options: Any,
    ) -> None:
        self.clicks_topic = clicks_topic
        self.feed = ClickFeed()
        super().__init__(
            autodiscover=False,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            store="memory://",
            stream_wait_empty=True,
            worker_redirect_stdouts=False,
            consumer_auto_offset_reset="earliest",
            **options,
        )
        self.topics.add(self.topic(clicks_topic, value_type=bytes, key_type=bytes))

        async def assigned(*_: Any, **__: Any) -> None:
            await on_assigned({tp.partition for tp in self.consumer.assignment()})

        self.on_rebalance_complete.connect(assigned, weak=False)

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self, loop=self.loop)

    def _new_producer_transport(self) -> Any:
        return _Transport(self.conf.broker_producer, self, loop=self.loop)

    @property
    def click_consumer(self) -> ClickConsumer:
        consumer = self.consumer
        assert isinstance(consumer, ClickConsumer)
        return consumer

    @property
    def click_producer(self) -> ClickProducer:
        producer = self.producer
        assert isinstance(producer, ClickProducer)
        return producer


def broker_urls(bootstrap_servers: str) -> list[URL]:
    """`a:9092,b:9092` as Faust wants it."""
    return [URL(f"kafka://{server.strip()}") for server in bootstrap_servers.split(",")]

"""Faust's consumer and producer, changed to hand over record lists and to commit only what is durable.

The only file, beside `even_assignor`, that knows Faust's private names (faust-streaming 0.15.3).  What stock Faust does instead,
and why that breaks the promises, is written down in DESIGN.md, "Faust without agents and tables".
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import faust
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as stock
from faust.types import TP
from mode import Service
from yarl import URL

from stream_app.adapters.click_feed import ClickFeed
from stream_app.adapters.click_offsets import LostClicks, read_on_from
from stream_app.adapters.even_assignor import assign_evenly
from stream_app.adapters.kafka_clients import mend_aiokafka
from stream_app.core.errors import ConfigurationError, InvariantError

FETCH_WAIT_SECONDS: Final = 1.0
PRODUCER_BATCH_BYTES: Final = 4 * 2**20
"""aiokafka's default of 16 KB would split one partition's share of a batch into many requests."""
BROKER_BATCH_BYTES: Final = 900_000
"""A broker refuses a batch above `max.message.bytes` (1 MB by default); a single message may be larger where
its topic allows it (dead letters)."""
MESSAGE_OVERHEAD_BYTES: Final = 400
"""Around key and value, the headers of a dead letter included."""
DELIVERY_SECONDS: Final = 120.0
REQUEST_BYTES_MAX: Final = 8 * 2**20

COMMIT_PATIENCE_SECONDS: Final = 10.0
LAG_PATIENCE_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 1.0

Message = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]
"""Key, value, headers."""
Sent = list[tuple["asyncio.Future[Any]", int]]
"""Per batch its acknowledgement and its number of messages."""


class _ConsumerInLoop(stock.AIOKafkaConsumerThread):
    """Faust's consumer thread without the thread: every call is a plain await in the worker's own loop.

    A batch is computed in a few milliseconds, and heartbeats are seconds apart, so nothing here needs a
    thread; the two hops per fetch, and the fight for the interpreter's lock, cost more than the fetch.
    """

    def __init__(self, *args: Any, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(*args, loop=loop, thread_loop=loop, **options)

    @property
    def client(self) -> Any:
        """aiokafka's consumer."""
        return self._ensure_consumer()

    async def start(self) -> None:
        self._thread_started.set()
        await Service.start(self)

    async def stop(self) -> None:
        await Service.stop(self)

    async def on_stop(self) -> None:
        await self.on_thread_stop()
        self._shutdown.set()

    def see_that_it_reads(self) -> None:
        """Raises aiokafka's error, or `InvariantError`, where a task that we depend on has ended."""
        consumer = self._consumer
        if consumer is None or consumer._coordinator is None:  # noqa: SLF001
            return  # it has not begun
        consumer._coordinator.check_errors()  # noqa: SLF001
        fetching = consumer._fetcher.error_future  # noqa: SLF001
        if fetching.done() and not fetching.cancelled():
            raise InvariantError(
                f"clicks are not fetched any more ({fetching.exception()!r}).  Restart to read on"
            )

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = fun(*args, **options)
        return await result if asyncio.iscoroutine(result) else result


class ClickConsumer(stock.Consumer):
    """Feeds `app.feed` with record lists; offsets are committed from `app.feed` alone."""

    app: "ClickApp"

    def _new_consumer_thread(self) -> _ConsumerInLoop:
        return _ConsumerInLoop(self, loop=self.loop, beacon=self.beacon)

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
                out_of_range = False
                try:
                    fetched = await self._thread.getmany(active, FETCH_WAIT_SECONDS)
                except (OffsetOutOfRangeError, NoOffsetForPartitionError):
                    out_of_range = True
                if before != (feed.epoch, self.app.consumer_generation_id):
                    continue
                if out_of_range:  # Kafka's retention has overtaken us, or the log was cut off
                    await self._read_on({tp: self._read_offset[tp] for tp in active})
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

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Begin a rebalance: nothing is read until the sessions are restored and the offsets sought.

        Stock stops reading only where something was assigned before.  A worker that had nothing would read
        clicks of its first partitions at once, and apply them to sessions it has not restored.
        """
        self.stop_flow()
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Go to the committed offsets; partitions without one to their beginning (stock leaves them)."""
        committed = await self.seek_to_committed()
        lost = await self._read_on({tp: committed.get(tp) for tp in self.assignment()})
        self.app.feed.begin_at({tp.partition: self._read_offset[tp] for tp in self.assignment()})
        if lost:  # told once, not again after a restart
            await self._accepted({clicks.partition: clicks.next_offset for clicks in lost})

    async def _read_on(self, wanted: Mapping[TP, int | None]) -> list[LostClicks]:
        """Go to where we left off (None: to the beginning), or as near as Kafka still has it."""
        if not wanted:
            return []
        lost: list[LostClicks] = []

        def tell(clicks: LostClicks) -> None:
            self.app.on_lost_clicks(clicks)
            lost.append(clicks)

        begins, ends = await self.earliest_offsets(*wanted), await self.highwaters(*wanted)
        for tp, offset in wanted.items():
            try:
                read_from = read_on_from(
                    tp.topic, tp.partition, offset, begin=begins[tp], end=ends[tp], on_lost=tell
                )
            except ConfigurationError as error:
                self.app.on_halt(error)
                raise
            await self._seek(tp, read_from)
            self._read_offset[tp] = read_from
        return lost

    async def wait_empty(self) -> None:
        """Awaited on every revocation and stop: finish what is in flight, commit, forget the rest."""
        await self.app.feed.drain()
        await self.commit_finished()

    async def commit_finished(self) -> None:
        """Commit what the feed says is finished; where that fails, the next call tries again."""
        offsets = self.app.feed.pop_committable()
        if offsets and await self._accepted(offsets):
            self.app.feed.committed(offsets)
        else:
            self.app.feed.put_back(offsets)

    async def owns(self, partition: int) -> bool:
        """Whether the group's coordinator, asked now, still has us as the owner of the partition.

        A commit is fenced by our generation, so one that changes nothing is the question.  While the
        coordinator is away nobody can take the partition from us, and we ask again.
        """
        while TP(self.app.clicks_topic, partition) in self.assignment():
            position = self.app.feed.position(partition)
            if position is None:
                return False
            accepted = await self._accepted({partition: position})
            if accepted is not None:
                return accepted
            await asyncio.sleep(0.2)
        return False

    async def _accepted(self, offsets: Mapping[int, int]) -> bool | None:
        """Whether the coordinator took the offsets; None where it could not be asked."""
        topic = self.app.clicks_topic
        request = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, self.app.commit_metadata)
            for partition, offset in offsets.items()
        }
        assert isinstance(self._thread, _ConsumerInLoop)
        try:
            await asyncio.wait_for(self._thread.client.commit(request), COMMIT_PATIENCE_SECONDS)
        except (CommitFailedError, IllegalStateError):
            return False  # a rebalance is under way, and we may not be the owner any more
        except (KafkaError, TimeoutError):
            return None
        return True

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Nothing: stock commits what agents acked, and there are none."""
        return False

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: stock looks for agents' progress and cries wolf (its issue 629)."""

    def see_that_it_reads(self) -> None:
        """Raises what ended aiokafka's part in the group, or its fetching."""
        assert isinstance(self._thread, _ConsumerInLoop)
        self._thread.see_that_it_reads()

    async def end_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Offset after the last click of each partition."""
        assert isinstance(self._thread, _ConsumerInLoop)
        tps = [TopicPartition(self.app.clicks_topic, partition) for partition in partitions]
        ends = await self._thread.client.end_offsets(tps)
        return {tp.partition: ends[tp] for tp in tps}

    async def lag(self) -> dict[int, int]:
        """Clicks not yet done, by partition.

        Each fetch tells where its partition ends.  A worker that is far behind fetches rarely, so it asks.
        """
        ends = {tp.partition: self.highwater(tp) for tp in self.assignment()}
        if not self.app.feed.has_room:
            with suppress(KafkaError, TimeoutError):  # else as far as we know
                ends |= await asyncio.wait_for(self.end_offsets(ends), LAG_PATIENCE_SECONDS)
        lags = {}
        for partition, end in ends.items():
            position = self.app.feed.position(partition)
            if end is not None and position is not None:
                lags[partition] = max(0, end - position)
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

    async def send_messages(self, topic: str, partition: int, messages: Sequence[Message]) -> Sent:
        """Send in order.  Returns a future and a message count per batch; await it for the base offset."""
        producer = self._ensure_producer()
        sent = []
        batch, size = producer.create_batch(), 0
        for key, value, headers in messages:
            fields = list(headers)
            room = len(value or b"") + len(key or b"") + MESSAGE_OVERHEAD_BYTES
            if size and size + room > BROKER_BATCH_BYTES:
                sent.append((await self._submit(batch, topic, partition), batch.record_count()))
                batch, size = producer.create_batch(), 0
            size += room
            if batch.append(key=key, value=value, timestamp=None, headers=fields) is None:
                raise InvariantError(f"a message for {topic} does not fit into a batch of its own")
        if batch.record_count():
            sent.append((await self._submit(batch, topic, partition), batch.record_count()))
        return sent

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        """A request is given up after seconds, and made anew; what it carries is kept for minutes."""
        producer = super()._new_producer(transactional_id)
        producer._message_accumulator._batch_ttl = DELIVERY_SECONDS  # noqa: SLF001 - there is no option for it
        return producer

    async def _submit(self, batch: Any, topic: str, partition: int) -> "asyncio.Future[Any]":
        batch.close()
        give_up_at = time.monotonic() + DELIVERY_SECONDS
        while True:
            try:
                future: asyncio.Future[Any] = await self._ensure_producer().send_batch(
                    batch, topic, partition=partition
                )
            except KafkaTimeoutError:
                # The one before it in this partition still waits for its broker.
                if time.monotonic() > give_up_at:
                    raise
            else:
                return future


async def base_offsets(sent: Sequence[tuple[Awaitable[Any], int]]) -> list[tuple[int, int]]:
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


class _NoTables(TableManager):
    """There are no tables, so nothing is worth the second that stock Faust waits for them at its start."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class ClickApp(faust.App):
    """A Faust app without agents or tables: it subscribes, rebalances, and fills `feed`.

    on_assigned: awaited after each rebalance with the owned partitions, before they are read; the
    sessions are restored there (never in Faust's `on_partitions_assigned`, where heartbeats stop).
    on_lost_clicks: told of clicks that Kafka deleted before they were read; may raise
    `ConfigurationError` to halt.  on_halt: ends the process; nothing may be acknowledged after it.
    """

    def __init__(
        self,
        *,
        clicks_topic: str,
        on_assigned: Callable[[set[int]], Awaitable[None]],
        on_lost_clicks: Callable[[LostClicks], None],
        on_halt: Callable[[BaseException], None],
        commit_metadata: str = "",
        **options: Any,
    ) -> None:
        """commit_metadata: goes into the group beside each committed offset."""
        self.clicks_topic = clicks_topic
        self.commit_metadata = commit_metadata
        self.on_lost_clicks, self.on_halt = on_lost_clicks, on_halt
        self.feed = ClickFeed()
        mend_aiokafka()
        assign_evenly()
        super().__init__(
            autodiscover=False,
            web_enabled=False,
            TableManager=_NoTables,
            topic_allow_declare=False,
            topic_disable_leader=True,
            store="memory://",
            # Keeps Faust's assignor sticky, and has it name the standbys, followed or not.
            table_standby_replicas=1,
            stream_wait_empty=True,
            worker_redirect_stdouts=False,
            # Left to itself, aiokafka would go on elsewhere when an offset is gone, and say nothing.
            consumer_auto_offset_reset="none",
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
    def standby_partitions(self) -> set[int]:
        """Partitions that the group's assignor would give us first, should their owner go."""
        standbys = self.assignor.assigned_standbys()
        return {tp.partition for tp in standbys if tp.topic == self.clicks_topic}

    # -- what the worker's loop asks of us (`services.ports.ClickStream`) ------------------------------

    @property
    def generation(self) -> int:
        return int(self.consumer_generation_id)

    async def watch(self) -> None:
        """Ends only by an error: that of what fetches clicks, or of what keeps us in the group.

        Faust notices neither, and in the second case would wait for its partitions for ever.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._clicks.see_that_it_reads()

    @property
    def is_rebalancing(self) -> bool:
        return bool(self.rebalancing)

    async def send(self, topic: str, partition: int, messages: Sequence[Message]) -> "Sent":
        producer = self.producer
        assert isinstance(producer, ClickProducer)
        return await producer.send_messages(topic, partition, messages)

    async def commit_finished(self) -> None:
        await self._clicks.commit_finished()

    async def owns(self, partition: int) -> bool:
        return await self._clicks.owns(partition)

    async def click_ends(self, partitions: Iterable[int]) -> dict[int, int]:
        return await self._clicks.end_offsets(partitions)

    async def lag(self) -> dict[int, int]:
        return await self._clicks.lag()

    @property
    def _clicks(self) -> ClickConsumer:
        consumer = self.consumer
        assert isinstance(consumer, ClickConsumer)
        return consumer


def broker_urls(bootstrap_servers: str) -> list[URL]:
    """`a:9092,b:9092` as Faust wants it."""
    return [URL(f"kafka://{server.strip()}") for server in bootstrap_servers.split(",")]

"""Reads the changelog topic of the session states, from any offset to any other."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app.core.session import ChangelogRecord

CHUNK_RECORDS: Final = 20_000
FETCH_BYTES: Final = 16 * 2**20
POLL_MS: Final = 200
FOLLOWED_RECORDS: Final = 2_000
"""A follower's chunk: our own clicks wait while it is unpacked, about 5 ms."""

REMOVED_AT: Final = "nextclick-applied-offset"
"""Header of a tombstone: the click offset that removed the session.  Records that a stale writer puts
behind it, of clicks up to that one, are dead."""


@dataclass(frozen=True, slots=True)
class ChangelogChunk:
    """Some records of one partition, in log order."""

    partition: int
    records: list[ChangelogRecord]
    next_offset: int
    """Everything before it was read."""


class ChangelogTopic:
    """A consumer of its own for each reading, without a group."""

    def __init__(self, topic: str, client_options: Mapping[str, Any]) -> None:
        self._topic = topic
        self._client_options = dict(client_options)

    async def bounds(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """First offset, and the offset after the last record, by partition."""
        tps = self._tps(partitions)
        async with self._consumer() as consumer:
            begins = await consumer.beginning_offsets(tps)
            ends = await consumer.end_offsets(tps)
        return {tp.partition: (begins[tp], ends[tp]) for tp in tps}

    async def read(self, ranges: Mapping[int, tuple[int, int]]) -> AsyncIterator[ChangelogChunk]:
        """The records of [start, end) by partition, without those of aborted transactions.

        Workers write none, but a tool that copies topics may.  What lies behind the start of a transaction
        that is still open is read too, as it is: waiting for it could take the broker's 15 minutes.
        """
        unread = {p: bounds for p, bounds in ranges.items() if bounds[0] < bounds[1]}
        for committed_only in (True, False):
            if not unread:
                return
            async with self._consumer(committed_only=committed_only) as consumer:
                stable = await consumer.end_offsets(self._tps(unread))
                near = {
                    tp.partition: (unread[tp.partition][0], min(end, unread[tp.partition][1]))
                    for tp, end in stable.items()
                }
                async for chunk in self._read(consumer, near):
                    yield chunk
            unread = {
                partition: (max(start, near[partition][1]), end)
                for partition, (start, end) in unread.items()
                if near[partition][1] < end
            }

    async def _read(
        self, consumer: AIOKafkaConsumer, ranges: Mapping[int, tuple[int, int]]
    ) -> AsyncIterator[ChangelogChunk]:
        """Ends where `position() >= end`, since the last records may have been compacted away or be control
        records."""
        unfinished = {
            TopicPartition(self._topic, partition): end
            for partition, (start, end) in ranges.items()
            if start < end
        }
        consumer.assign(list(unfinished))
        for tp in unfinished:
            consumer.seek(tp, ranges[tp.partition][0])
        while unfinished:
            fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=CHUNK_RECORDS)
            for tp in list(unfinished):
                end = unfinished[tp]
                position = await consumer.position(tp)
                records = [r for r in fetched.get(tp, ()) if r.offset < end]
                if position >= end:
                    del unfinished[tp]
                    consumer.pause(tp)
                if records or position >= end:
                    records = [_plain(record) for record in records]
                    yield ChangelogChunk(tp.partition, records, min(position, end))

    def _tps(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]

    @asynccontextmanager
    async def follow(self, starts: Mapping[int, int]) -> AsyncIterator["ChangelogFollower"]:
        """The records from these offsets on, by partition, as they come."""
        async with self._consumer(committed_only=True) as consumer:
            tps = {TopicPartition(self._topic, p): start for p, start in starts.items()}
            consumer.assign(list(tps))
            for tp, start in tps.items():
                consumer.seek(tp, start)
            yield ChangelogFollower(consumer)

    @asynccontextmanager
    async def _consumer(self, *, committed_only: bool = False) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **self._client_options,
            isolation_level="read_committed" if committed_only else "read_uncommitted",
            group_id=None,
            enable_auto_commit=False,
            # What is gone must be noticed, not passed over: the copy would lack it for ever.
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()


class ChangelogFollower:
    """Reads on and on; made by `ChangelogTopic.follow`."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def poll(self) -> list[ChangelogChunk]:
        """What has come, at most one chunk of a partition; waits a little if nothing has."""
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=FOLLOWED_RECORDS)
        return [
            ChangelogChunk(
                tp.partition,
                [_plain(record) for record in records],
                await self._consumer.position(tp),
            )
            for tp, records in fetched.items()
        ]

    async def lag(self) -> dict[int, int]:
        """Records not yet read, by partition; without those of which nothing was heard yet."""
        ends = {tp: self._consumer.highwater(tp) for tp in self._consumer.assignment()}
        return {
            tp.partition: max(0, end - await self._consumer.position(tp))
            for tp, end in ends.items()
            if end is not None
        }


def _plain(record: Any) -> ChangelogRecord:
    session_id = (record.key or b"").decode(errors="replace")
    if record.value is not None:
        return session_id, record.value, None
    return session_id, None, _removed_at(record.headers)


def _removed_at(headers: Iterable[tuple[str, bytes]]) -> int | None:
    for name, value in headers:
        if name == REMOVED_AT:
            try:
                return int(value)
            except ValueError:
                return None
    return None

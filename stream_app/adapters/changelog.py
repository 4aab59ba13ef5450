"""The changelog topic of the session states: restore from it, and notice foreign writes into it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.errors import InvariantError

CHUNK_RECORDS: Final = 20_000
FETCH_BYTES: Final = 16 * 2**20


@dataclass(slots=True)
class Restored:
    """What a restore did."""

    sessions: int = 0
    """Records written."""
    behind: dict[int, list[str]] = field(default_factory=dict)
    """Sessions by partition whose changelog record is older than ours: send them again."""
    complete: bool = True
    """False where another rebalance began meanwhile, and the rest was left to the next restore."""


class Changelog:
    """Knows for each owned partition which offset the next of our records must get.

    That contiguity is what tells a zombie: if another worker has written in between, we no longer know
    the newest state, and must not go on.
    """

    def __init__(
        self, topic: str, sessions: RocksSessions, client_options: Mapping[str, Any]
    ) -> None:
        self._topic = topic
        self._sessions = sessions
        self._client_options = dict(client_options)
        self._next_offset: dict[int, int] = {}

    async def restore(
        self, partitions: Iterable[int], *, still_ours: Callable[[], bool]
    ) -> Restored:
        """Bring the store up to the end of the changelog of `partitions`, in chunks.

        Each chunk is one write with its offset in it, so that an interrupted restore goes on where it
        was.  A consumer of its own, without a group, reads; `position() >= end` ends it, since the last
        records may have been compacted away or be control records.
        """
        restored = Restored()
        tps = {TopicPartition(self._topic, partition) for partition in partitions}
        self._next_offset = {}
        if not tps:
            return restored
        consumer = AIOKafkaConsumer(
            **self._client_options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        await consumer.start()
        try:
            consumer.assign(tps)
            begins = await consumer.beginning_offsets(tps)
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                consumer.seek(tp, self._start_offset(tp.partition, begins[tp], ends[tp]))
            unfinished = set(tps)
            while unfinished:
                if not still_ours():
                    restored.complete = False
                    return restored
                fetched = await consumer.getmany(timeout_ms=200, max_records=CHUNK_RECORDS)
                for tp, records in fetched.items():
                    written, behind = self._sessions.restore_chunk(
                        tp.partition,
                        [(record.key.decode(), record.value) for record in records],
                        last_offset=records[-1].offset,
                    )
                    restored.sessions += written
                    if behind:
                        restored.behind.setdefault(tp.partition, []).extend(behind)
                for tp in list(unfinished):
                    if await consumer.position(tp) >= ends[tp]:
                        unfinished.discard(tp)
            self._sessions.set_persisted_offsets({tp.partition: ends[tp] - 1 for tp in tps})
            self._next_offset = {tp.partition: ends[tp] for tp in tps}
        finally:
            await consumer.stop()
        return restored

    def check(self, partition: int, base_offset: int, count: int) -> int:
        """Take note of `count` records acked from `base_offset` on; returns the last offset.

        Raises `InvariantError` where someone else has written since ours.
        """
        expected = self._next_offset[partition]
        if base_offset != expected:
            raise InvariantError(
                f"{self._topic}[{partition}]: our records were stored from offset {base_offset} on, "
                f"expected {expected}: another writer has this partition.  Restart to restore its state"
            )
        self._next_offset[partition] = base_offset + count
        return base_offset + count - 1

    def _start_offset(self, partition: int, begin: int, end: int) -> int:
        start = self._sessions.persisted_offset(partition) + 1
        if begin <= start <= end:
            return start
        # The changelog was recreated or truncated behind our back: only all of it is the truth.
        self._sessions.wipe(partition)
        return begin

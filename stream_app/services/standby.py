"""A second copy of other workers' sessions, kept up to date from the changelog.

The group's assignor names a standby for each partition and prefers it when the owner goes.  The copy
lies in the same RocksDB and ends at a noted changelog offset, so that taking over is the ordinary restore
with next to nothing left to read.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from aiokafka.errors import KafkaError

from stream_app.adapters.changelog_topic import ChangelogChunk
from stream_app.logging_setup import get_logger
from stream_app.services.ports import SessionDisk

SLICE_RECORDS: Final = 500
"""Applied in one go, 2 ms: our own clicks must not wait for a copy."""
PAUSE_SECONDS: Final = 0.1
"""Between two looks at a changelog that has nothing more: what a copy may lag behind, and what it costs."""
RETRY_SECONDS: Final = 2.0

log = get_logger("standby")


class Follower(Protocol):
    """The changelog of some partitions, read as it grows."""

    async def poll(self) -> list[ChangelogChunk]:
        """What has come, at most one chunk of a partition; waits a little if nothing has."""
        ...

    async def lag(self) -> Mapping[int, int]:
        """Records not yet read, by partition."""
        ...


class FollowedChangelog(Protocol):
    """`adapters.changelog_topic.ChangelogTopic` is one."""

    async def bounds(self, partitions: Iterable[int]) -> Mapping[int, tuple[int, int]]: ...
    def follow(self, starts: Mapping[int, int]) -> AbstractAsyncContextManager[Follower]: ...


class Standby:
    """Follows the changelog of the partitions that we stand by for.

    Nothing here writes to Kafka.  A broker that is away only lets the copy fall behind.
    """

    def __init__(
        self,
        changelog: FollowedChangelog,
        sessions: SessionDisk,
        click_ends: Callable[[Iterable[int]], Awaitable[Mapping[int, int]]],
        *,
        on_copied: Callable[[int], None] = lambda _records: None,
        on_lag: Callable[[Mapping[int, int]], None] = lambda _by_partition: None,
    ) -> None:
        """click_ends: offset after the last click, by partition.  on_copied: told how many records were
        written.  on_lag: told how many were not yet read, by the partitions we stand by for."""
        self._changelog, self._sessions = changelog, sessions
        self._click_ends, self._on_copied, self._on_lag = click_ends, on_copied, on_lag
        self._partitions: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._noted: dict[int, int] = {}
        """By partition the changelog offset up to which RocksDB is known to need nothing sent again."""
        self._behind: dict[int, set[str]] = {}
        """Sessions whose changelog record is older than ours."""

    def assign(self, partitions: Iterable[int]) -> None:
        """Stand by for these, and for no others: nothing is applied to any other from now on.

        To be called with none before a restore, and afterwards with what is not ours.
        """
        self._partitions = frozenset(partitions)
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled.  Errors of the session store are raised."""
        while True:
            self._changed.clear()
            partitions = self._partitions
            try:
                if partitions:
                    await self._follow(partitions)
                else:
                    self._on_lag({})
                    await self._changed.wait()
            except (KafkaError, TimeoutError) as error:
                log.warning("standby_falls_behind", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, partitions: frozenset[int]) -> None:
        bounds = await self._changelog.bounds(partitions)
        if self._partitions != partitions:
            return
        starts = {partition: self._start(partition, *bounds[partition]) for partition in partitions}
        log.info("standing_by", partitions=sorted(partitions))
        async with self._changelog.follow(starts) as follower:
            while self._partitions == partitions:
                chunks = await follower.poll()
                # After the records: none of them speaks of a click that the topic does not have.
                ends = await self._click_ends(partitions) if chunks else {}
                for chunk in chunks:
                    await self._apply(chunk, ends[chunk.partition])
                self._on_lag(await follower.lag())
                if not chunks:
                    await asyncio.sleep(PAUSE_SECONDS)

    def _start(self, partition: int, begin: int, end: int) -> int:
        start = self._sessions.resume_from(partition, begin=begin, end=end)
        self._noted[partition], self._behind[partition] = start - 1, set()
        return start

    async def _apply(self, chunk: ChangelogChunk, click_end: int) -> None:
        """Write the records, in slices, for as long as we stand by for their partition.

        The offset is noted only while no record of ours is newer than the changelog's: the restore that
        takes over must find such a record, and send it again.
        """
        partition, behind = chunk.partition, self._behind[chunk.partition]
        for at in range(0, len(chunk.records), SLICE_RECORDS):
            if partition not in self._partitions:
                return
            records = chunk.records[at : at + SLICE_RECORDS]
            written, older_there = self._sessions.restore_chunk(
                partition, records, last_offset=self._noted[partition], end_offset=click_end
            )
            behind.difference_update(session_id for session_id, _, _ in records)
            behind.update(older_there)
            self._on_copied(written)
            await asyncio.sleep(0)
        if partition in self._partitions and not behind:
            self._noted[partition] = chunk.next_offset - 1
            self._sessions.set_persisted_offsets({partition: chunk.next_offset - 1})

"""Session states made durable: RocksDB first, then the changelog, whose offsets tell of other writers.

Each of our records must get the changelog offset after our last one.  Where it does not, another worker
has written in between: one that was frozen, lost its partitions, and woke.  The true owner reads the gap
and sends its own records of those sessions again, behind the foreign ones; a worker that is not the
owner any more ends.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import KafkaError, KafkaTimeoutError

from stream_app.adapters.changelog_topic import REMOVED_AT
from stream_app.adapters.faust_transport import Message, base_offsets
from stream_app.core.codec import applied_offset, is_removal
from stream_app.core.errors import InvariantError
from stream_app.core.pipeline import SessionKey
from stream_app.logging_setup import get_logger
from stream_app.services.loop_points import AtPoint, LoopPoint, nothing_happens
from stream_app.services.ports import ChangelogSource, ClickStream, Sent, SessionDisk

RETRY_SECONDS: Final = 1.0
"""Between two questions to a broker that is away."""

log = get_logger("session_log")


@dataclass(slots=True)
class Restored:
    """What a restore did."""

    sessions: int = 0
    """Records written."""
    sent_again: int = 0
    """Records that were newer here than in the changelog."""
    complete: bool = True
    """False where another rebalance began meanwhile, and the rest was left to the next restore."""


States = Mapping[SessionKey, bytes]
"""Session records; a removed session has one that says so (`codec.is_removal`)."""

Unsettled = list[tuple[int, Sent]]
"""Sends to the changelog whose acknowledgements are awaited, by partition."""


class LostPartitionError(InvariantError):
    """Another worker owns a partition by now, and has written to its changelog."""


def is_away(error: KafkaError | TimeoutError) -> bool:
    """Whether the broker may answer the same question later."""
    return isinstance(error, KafkaTimeoutError | TimeoutError) or bool(error.retriable)


class SessionLog:
    """Writes, settles, heals and restores the states of the partitions we own."""

    def __init__(
        self,
        stream: ClickStream,
        changelog: ChangelogSource,
        sessions: SessionDisk,
        *,
        topic: str,
        at: AtPoint = nothing_happens,
        on_heal: Callable[[int], None] = lambda _records: None,
        on_sent: Callable[[int, int], None] = lambda _records, _size_bytes: None,
    ) -> None:
        """at: told of the points it passes.  on_heal: told how many foreign records were overwritten.

        on_sent: told of what is sent to the changelog, records and bytes.
        """
        self._stream, self._changelog, self._sessions = stream, changelog, sessions
        self._topic, self._at, self._on_heal, self._on_sent = topic, at, on_heal, on_sent
        self._next_offset: dict[int, int] = {}
        self._unsettled: Counter[int] = Counter()
        """Sends that are not settled yet, by partition."""
        self._sent_again: dict[int, dict[int, int]] = {}
        """Acknowledged re-sends that the check has not come to yet: message count by base offset."""
        self._writing = asyncio.Lock()
        """Held from the look at RocksDB to the send, so that records reach the changelog in the order in
        which they reached RocksDB."""
        self._checking = asyncio.Lock()

    async def write(self, states: States) -> Unsettled:
        """Write to RocksDB, then send to the changelog; the answers must be acknowledged by now."""
        if not states:
            return []
        async with self._writing:
            self._sessions.write(states)
            self._at(LoopPoint.STATES_STORED)
            unsettled = await self._send(states)
        self._at(LoopPoint.CHANGELOG_SENT)
        return unsettled

    async def settle(self, unsettled: Unsettled) -> None:
        """Await the changelog's acknowledgements, and mend what another writer put between them.

        Raises `InvariantError` where a send failed, or another worker owns a partition by now.
        """
        persisted = {}
        for partition, sent in unsettled:
            for base_offset, count in await base_offsets(sent):
                async with self._checking:
                    await self._check(partition, base_offset)
                    self._next_offset[partition] = base_offset + count
                persisted[partition] = base_offset + count - 1
            self._unsettled[partition] -= 1
        if persisted:
            self._sessions.set_persisted_offsets(persisted)
        self._at(LoopPoint.CHANGELOG_ACKED)

    async def audit(self) -> None:
        """Look for foreign records in partitions that we have not written to lately, and mend them.

        A gap shows when our next record is acknowledged; in a partition without clicks there is none.
        What is found in order is noted as up to date.  While the broker is away there is nothing to see.
        """
        ours = self._next_offset
        before = {p: offset for p, offset in ours.items() if not self._unsettled[p]}
        if not before:
            return
        try:
            bounds = await self._changelog.bounds(before)
        except (KafkaError, TimeoutError) as error:
            log.warning("changelog_not_audited", error=repr(error))
            return
        for partition, (_, end) in bounds.items():
            async with self._checking:
                if self._next_offset is not ours:
                    return  # a restore has begun meanwhile
                if self._unsettled[partition] or ours[partition] != before[partition]:
                    continue  # we have written meanwhile, and that has been checked or will be
                if end > ours[partition]:
                    try:
                        await self._check(partition, end)
                    except LostPartitionError:
                        continue  # a rebalance is on its way, and we have nothing under way there
                    if self._next_offset is not ours:
                        return  # a restore has begun meanwhile
                    ours[partition] = end
                self._sessions.set_persisted_offsets({partition: ours[partition] - 1})

    async def restore(
        self, partitions: Iterable[int], *, still_ours: Callable[[], bool]
    ) -> Restored:
        """Bring RocksDB up to the end of the changelog, then the changelog up to RocksDB.

        Each chunk is one write with an offset in it, so that an interrupted restore goes on where it was.
        That offset passes no record that is older than ours until ours is acknowledged behind it: after
        a crash in between, the next restore must meet the older one again.  While no broker answers, it
        waits: nobody can take the partitions from us meanwhile.
        """
        restored, wanted = Restored(), set(partitions)
        while True:
            try:
                await self._restore(wanted, restored, still_ours)
            except (KafkaError, TimeoutError) as error:
                if not is_away(error):
                    raise
                log.warning("restore_waits_for_broker", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return restored
            if not still_ours():
                restored.complete = False
                return restored

    async def _restore(
        self, wanted: set[int], restored: Restored, still_ours: Callable[[], bool]
    ) -> None:
        self._sessions.forget_staged()
        async with self._checking:  # a healing that is under way still counts its sends
            self._next_offset, self._sent_again = {}, {}
            self._unsettled.clear()
        if not wanted:
            return
        self._at(LoopPoint.RESTORING)
        bounds = await self._changelog.bounds(wanted)
        # After the changelog's: a record there never speaks of a click that the topic does not have.
        click_ends = await self._stream.click_ends(wanted)
        ranges = {
            p: (self._sessions.resume_from(p, begin=begin, end=end), end)
            for p, (begin, end) in bounds.items()
        }
        noted = {p: start - 1 for p, (start, _) in ranges.items()}
        behind: dict[int, dict[str, None]] = {}
        async for chunk in self._changelog.read(ranges):
            if not still_ours():
                restored.complete = False
                return
            written, older_there = self._sessions.restore_chunk(
                chunk.partition,
                chunk.records,
                last_offset=noted[chunk.partition],
                end_offset=click_ends[chunk.partition],
            )
            restored.sessions += written
            again = behind.setdefault(chunk.partition, {})
            for session_id, _, _ in chunk.records:
                again.pop(session_id, None)
            again.update(dict.fromkeys(older_there))
            if not again:
                noted[chunk.partition] = chunk.next_offset - 1
            self._at(LoopPoint.RESTORING)
        self._sessions.set_persisted_offsets(
            {p: noted[p] if behind.get(p) else end - 1 for p, (_, end) in ranges.items()}
        )
        self._next_offset = {p: end for p, (_, end) in ranges.items()}
        for partition, session_ids in behind.items():
            if session_ids:
                restored.sent_again += len(session_ids)
                await self.settle(await self._send_stored_again(partition, session_ids))

    # -- other writers ---------------------------------------------------------------------------------

    async def _check(self, partition: int, base_offset: int) -> None:
        """See that nobody but us has written between our last record and `base_offset`."""
        again = self._sent_again.get(partition, {})
        expected = self._next_offset[partition]
        while expected != base_offset:
            if expected in again:
                expected += again.pop(expected)
                continue
            end = min((base for base in again if base > expected), default=base_offset)
            if expected > base_offset:
                raise InvariantError(
                    f"{self._topic}[{partition}]: our records were stored from offset {base_offset} on, "
                    f"expected {expected}: the topic was truncated or recreated.  Restart to restore"
                )
            await self._heal(partition, expected, min(end, base_offset))
            expected = min(end, base_offset)

    async def _heal(self, partition: int, start: int, end: int) -> None:
        """Overwrite what another writer put at [start, end) of the changelog, if the partition is ours.

        Ours is what RocksDB holds: its answers are acknowledged, which those of a staged record need not
        be.  A session that RocksDB does not hold was removed, or has not begun; both take a tombstone.
        """
        n_records, foreign = await self._read_gap(partition, start, end)
        log.warning(
            "changelog_healed", partition=partition, start=start, end=end, foreign_records=n_records
        )
        self._on_heal(n_records)
        for _, sent in await self._send_stored_again(partition, foreign):
            for base_offset, count in await base_offsets(sent):
                self._sent_again.setdefault(partition, {})[base_offset] = count
            self._unsettled[partition] -= 1

    async def _read_gap(self, partition: int, start: int, end: int) -> tuple[int, list[str]]:
        """How many records another writer put there, and of which sessions.

        While no broker answers it waits: nobody can take the partition from us meanwhile.
        """
        foreign: dict[str, None] = {}
        n_records, at = 0, start
        while at < end:
            if not await self._stream.owns(partition):
                raise LostPartitionError(
                    f"{self._topic}[{partition}]: another worker has written at {start}-{end - 1}, and owns "
                    "the partition by now.  Restart to get partitions of our own"
                )
            self._at(LoopPoint.HEALING)
            try:
                async for chunk in self._changelog.read({partition: (at, end)}):
                    # After the records: none of them speaks of a click that the topic does not have.
                    click_ends = await self._stream.click_ends({partition})
                    self._sessions.count_refused(chunk.records, end_offset=click_ends[partition])
                    foreign.update(dict.fromkeys(session_id for session_id, _, _ in chunk.records))
                    n_records, at = n_records + len(chunk.records), chunk.next_offset
            except (KafkaError, TimeoutError) as error:
                if not is_away(error):
                    raise
                log.warning("healing_waits_for_broker", partition=partition, error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        return n_records, list(foreign)

    async def _send_stored_again(self, partition: int, session_ids: Iterable[str]) -> Unsettled:
        """Send what RocksDB holds of these sessions, tombstones where it holds nothing.

        That we hold nothing is known up to our own last done click.
        """
        done = (self._stream.feed.position(partition) or 0) - 1
        async with self._writing:
            removal = self._sessions.removal(done)
            return await self._send(
                {
                    (partition, session_id): self._sessions.record(partition, session_id) or removal
                    for session_id in session_ids
                }
            )

    async def _send(self, states: States) -> Unsettled:
        by_partition: dict[int, list[Message]] = {}
        size_bytes = 0
        for (partition, session_id), record in states.items():
            key = session_id.encode()
            message: Message = (key, record, ())
            size_bytes += len(key)
            if is_removal(record):
                message = (key, None, ((REMOVED_AT, b"%d" % applied_offset(record)),))
            else:
                size_bytes += len(record)
            by_partition.setdefault(partition, []).append(message)
        self._on_sent(len(states), size_bytes)
        unsettled = []
        for partition, messages in by_partition.items():
            self._unsettled[partition] += 1
            unsettled.append((partition, await self._stream.send(self._topic, partition, messages)))
        return unsettled

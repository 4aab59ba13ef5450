"""Where the consumer hands record lists over to the worker's loop.  One event loop, so no locks."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ROOM_CLICKS: Final = 4096
"""Clicks waiting here at most before the consumer pauses fetching (plus one fetch's overshoot)."""


@dataclass(frozen=True, slots=True)
class TakenClicks:
    """A batch on its way.  Give it back with `ClickFeed.finished` when all its effects are durable."""

    epoch: int
    records: list[Any]
    next_offsets: dict[int, int]
    """Per partition the offset after the batch's last click: what may be committed once it is finished."""


class ClickFeed:
    """Clicks that wait, batches in flight, and offsets that may be committed.

    The epoch counts rebalances: what was fetched before one is not handed out after it.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._queues: dict[int, deque[Any]] = {}
        self._waiting = 0
        self._in_flight = 0
        self._committable: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Clicks that wait to be taken."""
        return self._waiting

    @property
    def in_flight(self) -> int:
        """Batches taken and not finished."""
        return self._in_flight

    @property
    def has_room(self) -> bool:
        """Whether the consumer may fetch more."""
        return self._waiting < ROOM_CLICKS

    async def wait_for_room(self) -> None:
        while not self.has_room:
            await self._change()

    def offer(self, epoch: int, partition: int, records: Sequence[Any]) -> None:
        """Hand over records of one partition, in offset order; stale ones (older epoch) are dropped."""
        if epoch != self.epoch or not records:
            return
        self._queues.setdefault(partition, deque()).extend(records)
        self._waiting += len(records)
        self.wake()

    async def take(self, cap: int, *, hurry: "asyncio.Event") -> TakenClicks:
        """Wait for clicks and take up to `cap`, a fair share of each partition that waits.

        No timer: fewer than `cap` are taken at once if `hurry` is set (nothing else is being answered),
        else when it is set or the cap is reached.  Whoever sets `hurry` calls `wake`.
        """
        while self._waiting == 0 or (self._waiting < cap and not hurry.is_set()):
            await self._change()
        records: list[Any] = []
        next_offsets: dict[int, int] = {}
        partitions = list(self._queues)
        for position, partition in enumerate(partitions):
            queue = self._queues.pop(partition)
            share = -(-(cap - len(records)) // (len(partitions) - position))
            records.extend(queue.popleft() for _ in range(min(share, len(queue))))
            if queue:
                self._queues[partition] = queue  # at the end: the next batch begins with another
            if share:
                next_offsets[partition] = records[-1].offset + 1
        self._waiting -= len(records)
        self._in_flight += 1
        self.wake()
        return TakenClicks(self.epoch, records, next_offsets)

    def hold(self) -> TakenClicks:
        """A batch of no clicks: makes `drain` wait for work that no click caused."""
        self._in_flight += 1
        return TakenClicks(self.epoch, [], {})

    def finished(self, batch: TakenClicks) -> None:
        """All effects of the batch are durable: its clicks may be committed."""
        self._in_flight -= 1
        self._committable.update(batch.next_offsets)
        self.wake()

    def pop_committable(self) -> dict[int, int]:
        """Offsets to commit, by partition, since the last call."""
        offsets, self._committable = self._committable, {}
        self._positions.update(offsets)
        return offsets

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The group has taken these."""
        self._committed.update({p: o for p, o in offsets.items() if p in self._committed})

    def put_back(self, offsets: Mapping[int, int]) -> None:
        """These could not be committed: offer them again, unless newer ones are there.

        What a rebalance has overtaken is not: the partition is another's, or was, and is further on.
        """
        positions = self._positions
        ours = {p: o for p, o in offsets.items() if p in positions and o >= positions[p]}
        self._committable = {**ours, **self._committable}

    def begin_at(self, offsets: Mapping[int, int]) -> None:
        """Partitions are ours from now on, and their clicks are read from these offsets on.

        What was finished before, and could not be committed, is forgotten: the partition may have been
        another worker's meanwhile, and its commits may be further on.
        """
        self._positions, self._committed = dict(offsets), dict(offsets)
        self._committable = {}

    def position(self, partition: int) -> int | None:
        """Offset up to which a partition's clicks are done and offered for commit; None: not ours."""
        return self._positions.get(partition)

    def committed_until(self, partition: int) -> int | None:
        """Offset up to which the group has taken our commits: none of those clicks comes again."""
        return self._committed.get(partition)

    async def drain(self) -> None:
        """Begin the next epoch: forget what waits, and wait until nothing is in flight."""
        self.epoch += 1
        self._queues.clear()
        self._waiting = 0
        self.wake()
        while self._in_flight:
            await self._change()

    def wake(self) -> None:
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

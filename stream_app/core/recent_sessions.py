"""The last items of the sessions that are going on: what the next click makes pairs with.

Everything here is decided by one partition's clicks in log order, and a session's entry depends on the
clicks from its anchor on only.  So an aggregator that starts anew reads the clicks from the oldest anchor
again, without counting them, and has the same sessions as one that never stopped.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from stream_app.core.statistics import SessionClick

CHECKPOINT_CLICKS: Final = 256
"""A partition's clock is noted every so many clicks: anchors are rounded down to there."""


class Anchor(NamedTuple):
    """From here on a partition's clicks must be read again."""

    offset: int
    clock_ms: int
    """Newest event time of the partition before it."""


class _Session(NamedTuple):
    item_ids: tuple[str, ...]
    """Oldest first."""
    last_ms: int
    """Newest event time; a late click does not move it back."""
    before: int
    """Offset from which on its entry can be rebuilt: the start of the block of clicks before `block`."""
    block: int
    """Offset where its newest block of clicks starts, with a click that moved the session's clock."""
    block_clicks: int


class _Partition:
    __slots__ = ("anchor", "checkpoints", "clicks", "clicks_looked_at", "clock_ms", "sessions")

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, _Session] = OrderedDict()
        """The longest untouched first."""
        self.clock_ms = 0
        self.clicks = 0
        self.checkpoints: list[Anchor] = []
        """Ascending; all that an anchor may still need."""
        self.anchor: Anchor | None = None
        self.clicks_looked_at = 0
        """`clicks` when the anchor was looked for last."""


class RecentSessions:
    """Bounded twice: sessions idle for the gap go (event time), and so do the longest untouched above
    `sessions_max` of a partition."""

    def __init__(self, *, positions: int, idle_gap_ms: float, sessions_max: int) -> None:
        """positions: items remembered of a session.  sessions_max: per partition."""
        self._positions, self._idle_gap_ms = positions, idle_gap_ms
        self.sessions_max = sessions_max
        self._partitions: dict[int, _Partition] = {}

    def __len__(self) -> int:
        return sum(len(partition.sessions) for partition in self._partitions.values())

    def follow(
        self, partition: int, offset: int, session_id: str, item_id: str, time_ms: int
    ) -> tuple[str, ...]:
        """The session's items before this click (oldest first, none if it starts one), and remember it.

        A session ends when it is silent for longer than the gap, by its own clicks' event times or by its
        partition's clock: a click that comes so late starts a new one.
        """
        mine = self._partitions.get(partition)
        if mine is None:
            mine = self._partitions[partition] = _Partition()
        if mine.clicks % CHECKPOINT_CLICKS == 0:
            mine.checkpoints.append(Anchor(offset, mine.clock_ms))
        mine.clicks += 1
        clock_ms = mine.clock_ms = max(mine.clock_ms, time_ms)
        sessions = mine.sessions
        session = sessions.pop(session_id, None)
        if session is None or clock_ms - session.last_ms > self._idle_gap_ms:
            sessions[session_id] = _Session((item_id,), time_ms, offset, offset, 1)
            before: tuple[str, ...] = ()
        else:
            before, last_ms, anchor, block, block_clicks = session
            if block_clicks >= self._positions and time_ms >= last_ms:
                anchor, block, block_clicks = block, offset, 0
            sessions[session_id] = _Session(
                (*before, item_id)[-self._positions :],
                max(last_ms, time_ms),
                anchor,
                block,
                block_clicks + 1,
            )
        while len(sessions) > self.sessions_max:
            sessions.popitem(last=False)
        self._drop_idle(mine)
        return before

    def take(self, click: SessionClick) -> tuple[str, ...]:
        """`follow`, or `forget`, as the click says."""
        if not click.remembered:
            self.forget(click.partition, click.session_id)
        if click.item_id is None or not click.remembered:
            return ()
        return self.follow(
            click.partition, click.offset, click.session_id, click.item_id, click.time_ms
        )

    def forget(self, partition: int, session_id: str) -> None:
        """Erased, or its consent was withdrawn."""
        mine = self._partitions.get(partition)
        if mine is not None:
            mine.sessions.pop(session_id, None)

    def _drop_idle(self, mine: _Partition) -> None:
        """Those at the old end only: whether a session ended is decided when it clicks again."""
        while mine.sessions:
            session_id, oldest = next(iter(mine.sessions.items()))
            if mine.clock_ms - oldest.last_ms <= self._idle_gap_ms:
                return
            del mine.sessions[session_id]

    def anchors(self) -> dict[int, Anchor]:
        """By partition that had a click.  They never move back; a look costs about as much as the clicks
        since the last one."""
        return {number: self._anchor(mine) for number, mine in self._partitions.items()}

    def _anchor(self, mine: _Partition) -> Anchor:
        if mine.anchor is None or mine.clicks - mine.clicks_looked_at > len(mine.sessions):
            mine.clicks_looked_at = mine.clicks
            needed = min((session.before for session in mine.sessions.values()), default=None)
            checkpoints = mine.checkpoints
            at = len(checkpoints) - 1
            while needed is not None and at > 0 and checkpoints[at].offset > needed:
                at -= 1
            del checkpoints[:at]
            mine.anchor = checkpoints[0]
        return mine.anchor

    def resume(self, partition: int, anchor: Anchor) -> None:
        """Before the clicks from an anchor on are given to `follow` again."""
        mine = self._partitions[partition] = _Partition()
        mine.clock_ms = anchor.clock_ms

    def state(self) -> dict[int, tuple[int, list[tuple[str, tuple[str, ...], int]]]]:
        """All that decides anything: by partition its clock and, longest untouched first, id, items and
        newest event time of each session that is not over."""
        return {
            number: (
                mine.clock_ms,
                [
                    (name, session.item_ids, session.last_ms)
                    for name, session in mine.sessions.items()
                    if mine.clock_ms - session.last_ms <= self._idle_gap_ms
                ],
            )
            for number, mine in self._partitions.items()
        }

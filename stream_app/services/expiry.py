"""Idle sessions leave: removed from the store, tombstones in the changelog."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol

from stream_app.adapters.rocksdb_sessions import Swept
from stream_app.core.pipeline import SessionKey
from stream_app.core.session import SessionState

ROUNDS_PER_TTL: Final = 2
"""A session stays for at most 1 + 2/2 TTLs, where it stands first in one round and last in the next."""
GRACE_SHARE: Final = 1 / 48
"""A session that had a click while the clock advanced by so much of the TTL (half an hour of a day) stays,
however late that click was: a visitor whose clock is years behind has one session, as in a replay."""
MARKS_PER_GRACE: Final = 8
CHUNK_SESSIONS: Final = 256
"""Looked at in one go, about 0.1 ms: enough that starting costs little, and no click waits for it."""


class SweepableSessions(Protocol):
    """What expiry needs of the session store."""

    def sweep(self, partition: int, *, after: str, look_at: int, idle_before_ms: int) -> Swept: ...
    def forget(self, partition: int, session_ids: Iterable[str]) -> None: ...


@dataclass(slots=True)
class _Round:
    """The sweep of one partition, round and round."""

    clock_ms: int = 0
    """The partition's own: the latest event time among its clicks."""
    due: float = 0.0
    """Sessions to be looked at that were not yet."""
    stored: int = 0
    left: int = 0
    """Looked at in this round, and left in the store."""
    passed: int = 0
    """Begun in this round where it had passed already."""
    after: str = ""
    marks: deque[tuple[int, int]] = field(default_factory=deque)
    """The clock as it was at a click, and the click's offset; the oldest first.  They are facts of the
    log, and stay true while others own the partition."""

    def begin(self, session_id: str) -> None:
        """Count a session that begins."""
        self.stored += 1
        if session_id <= self.after:
            self.passed += 1

    def advance(self, event_ms: int, ttl_ms: int) -> None:
        """Let the clock follow a click: so much of a round is due by now, never more than all of it."""
        rounds = (event_ms - self.clock_ms) * ROUNDS_PER_TTL / ttl_ms
        self.clock_ms = event_ms
        all_of_it = self.stored + CHUNK_SESSIONS  # those on their way to the store were not seen
        self.due = min(self.due + all_of_it * min(1.0, rounds), max(self.due, all_of_it))

    def mark(self, offset: int, ttl_ms: int) -> None:
        """Remember where in the log the clock came to where it is."""
        grace_ms = ttl_ms * GRACE_SHARE
        if not self.marks or self.clock_ms - self.marks[-1][0] >= grace_ms / MARKS_PER_GRACE:
            self.marks.append((self.clock_ms, offset))
            while len(self.marks) > 1 and self.marks[1][0] <= self.clock_ms - grace_ms:
                self.marks.popleft()

    def quiet_since(self, ttl_ms: int) -> int:
        """Offset from which on a click is too recent in the log for its session to go.

        0, so that nothing goes, while we have not seen enough of the log to tell.
        """
        until_ms = self.clock_ms - ttl_ms * GRACE_SHARE
        if not self.marks or self.marks[0][0] > until_ms:
            return 0
        recent = (offset for clock_ms, offset in self.marks if clock_ms > until_ms)
        return next(recent, self.marks[-1][1])

    @property
    def known(self) -> int:
        """Sessions stored; in the first round, as many as were seen."""
        return max(self.stored, self.left + self.passed)

    def looked(self, swept: Swept, *, gone: int) -> None:
        """Go on behind what was looked at; at the end, to the next round."""
        self.after = swept.last
        self.left += swept.looked_at - gone
        self.due -= swept.looked_at
        if not swept.last:
            self.due, self.stored = 0.0, self.left + self.passed
            self.left = self.passed = 0


class SessionExpiry:
    """Sweeps the owned partitions round and round, a few sessions at a time.

    Time is the partition's own: the latest event time among its clicks.  A log replayed faster than it
    was recorded expires sessions as the recorded visitors would have, and costs as much per click.

    While the clock advances by a TTL, each partition is swept `ROUNDS_PER_TTL` times.  So a session stays
    for little more than two TTLs at most, and the sweep costs about three looks per session whatever the
    traffic.  Where the clock jumps, a round is due at once, and is done at no less than four looks a
    click; a click begins one session at most.

    Where the log is not in the order of event times, the clock is not what a session lives by: one that
    is idle by its own time, but had a click lately, stays.
    """

    def __init__(
        self,
        sessions: SweepableSessions,
        *,
        ttl_ms: int,
        done_until: Callable[[int], int | None],
    ) -> None:
        """done_until: offset up to which a partition's clicks are committed.  None of them comes again, so
        that what is left of the sessions they removed can go as well.
        """
        self._sessions, self._ttl_ms, self._done_until = sessions, ttl_ms, done_until
        self._rounds: dict[int, _Round] = {}
        self._turn: list[int] = []

    def assign(self, partitions: set[int]) -> None:
        """Sweep these from now on, from their beginning."""
        known = self._rounds
        # Nothing is known of what is stored: the first round is due at once, and counts.
        self._rounds = {p: _Round(due=inf) for p in sorted(partitions)}
        for partition in known.keys() & partitions:
            self._rounds[partition].clock_ms = known[partition].clock_ms
            self._rounds[partition].marks = known[partition].marks
        self._turn = list(self._rounds)

    def observe(self, states: Mapping[SessionKey, SessionState], *, stored_ms: int) -> None:
        """Let the clocks follow the clicks, and count the sessions that begin.

        stored_ms: when Kafka stored them.  No clock runs ahead of it: a click may be dated a day ahead, and
        would end everybody else's session.
        """
        rounds = self._rounds
        for (partition, session_id), state in states.items():
            if state.is_removed or partition not in rounds:
                continue
            now = rounds[partition]
            if state.click_count == 1:
                now.begin(session_id)
            event_ms = min(state.last_event_ms, stored_ms)
            if event_ms > now.clock_ms:
                now.advance(event_ms, self._ttl_ms)
                now.mark(state.last_offset, self._ttl_ms)

    @property
    def stored_sessions(self) -> int:
        """About those of all partitions: found by their last rounds, and begun since.

        What was on its way to the store as a round ended is missing until the next one.
        """
        return sum(now.known for now in self._rounds.values())

    def due(self, *, clicks: int) -> dict[SessionKey, int]:
        """Sessions of one partition that are idle for longer than the TTL, to be removed.

        clicks: so many since the last call.  Returns the offset of each session's last applied click.
        """
        for _ in range(len(self._turn)):
            partition = self._turn.pop(0)
            self._turn.append(partition)
            now = self._rounds[partition]
            if now.due >= max(1, min(CHUNK_SESSIONS, now.stored // 16)):
                return self._look(partition, now, max(CHUNK_SESSIONS, 4 * clicks))
        return {}

    def _look(self, partition: int, now: _Round, look_at: int) -> dict[SessionKey, int]:
        swept = self._sessions.sweep(
            partition,
            after=now.after,
            look_at=look_at,
            idle_before_ms=now.clock_ms - self._ttl_ms,
        )
        quiet_since = now.quiet_since(self._ttl_ms)
        idle = {sid: offset for sid, offset in swept.idle.items() if offset < quiet_since}
        done_until = self._done_until(partition) or 0
        forgotten = [sid for sid, offset in swept.removed.items() if offset < done_until]
        self._sessions.forget(partition, forgotten)
        now.looked(swept, gone=len(idle) + len(forgotten))
        return {(partition, session_id): offset for session_id, offset in idle.items()}

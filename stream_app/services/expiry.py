"""Idle sessions leave: removed from the store, tombstones in the changelog."""

from collections.abc import Mapping

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.session import SessionState


class SessionExpiry:
    """Sweeps the owned partitions round and round, a few sessions at a time.

    The clock is the partition's own: the latest event time among its clicks.  A log replayed faster
    than it was recorded expires sessions as the recorded visitors would have.
    """

    def __init__(self, sessions: RocksSessions, *, ttl_ms: int) -> None:
        self._sessions, self._ttl_ms = sessions, ttl_ms
        self._clock_ms: dict[int, int] = {}
        self._looked_at: dict[int, str] = {}

    def assign(self, partitions: set[int]) -> None:
        """Sweep these from now on, from their beginning."""
        self._clock_ms = {p: t for p, t in self._clock_ms.items() if p in partitions}
        self._looked_at = dict.fromkeys(partitions, "")

    def observe(self, states: Mapping[tuple[int, str], SessionState | None]) -> None:
        """Let the clock follow the clicks."""
        for (partition, _), state in states.items():
            if state is not None and state.last_event_ms > self._clock_ms.get(partition, 0):
                self._clock_ms[partition] = state.last_event_ms

    def due(self, *, looked_at: int) -> dict[tuple[int, str], SessionState | None]:
        """Sessions of one partition that are idle for longer than the TTL, to be removed (None each).

        looked_at: sessions to look at.  Twice the clicks since the last call keeps up with any traffic,
        since a click begins one session at most.
        """
        if not self._looked_at:
            return {}
        partition = next(iter(self._looked_at))
        after = self._looked_at.pop(partition)
        limit_ms = self._clock_ms.get(partition, 0) - self._ttl_ms
        expired: list[str] = []
        last = ""
        for seen, (session_id, state) in enumerate(self._sessions.scan(partition, after=after), 1):
            if state.last_event_ms < limit_ms:
                expired.append(session_id)
            if seen >= looked_at:
                last = session_id
                break
        self._looked_at[partition] = last  # at the end: the next sweep looks at another partition
        # What is stored may be older than what is staged, so ask the store again.
        keys = [(partition, session_id) for session_id in expired]
        states = self._sessions.get_many(keys)
        return {
            key: None
            for key, state in zip(keys, states, strict=True)
            if state is not None and state.last_event_ms < limit_ms
        }

"""Idle sessions leave, by the partition's own clock, a few looked at after each batch."""

import bisect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from stream_app.adapters.rocksdb_sessions import RocksSessions, Swept
from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState, advance, removed_session
from stream_app.services.expiry import CHUNK_SESSIONS, SessionExpiry

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[RocksSessions]:
    store = RocksSessions(tmp_path / "db", topic_id=b"t" * 16)
    yield store
    store.close()


def state(event_ms: int, offset: int = 0) -> SessionState:
    click = Click(session_id="s", item_id=ItemId("a"), event_time_ms=event_ms)
    made = advance(None, click, offset=offset, limits=SessionLimits())
    assert isinstance(made, SessionState)
    return made


STORED_MS = START_MS + 10_000 * HOUR_MS
"""Late enough to hold no clock back."""


def begin(expiry: SessionExpiry, partitions: set[int], *, offset: int = 0) -> None:
    """Assign, and see a first click of each: from there on it is known how the clock went."""
    expiry.assign(partitions)
    first = {(p, "first"): state(START_MS, offset=offset) for p in partitions}
    expiry.observe(first, stored_ms=STORED_MS)


def swept(expiry: SessionExpiry, *, calls: int = 5, clicks: int = 3) -> dict[tuple[int, str], int]:
    found: dict[tuple[int, str], int] = {}
    for _ in range(calls):
        found |= expiry.due(clicks=clicks)
    return found


def test_only_sessions_idle_for_longer_than_the_ttl_are_due(sessions: RocksSessions) -> None:
    old = {(0, f"old-{i}"): state(START_MS, offset=i) for i in range(10)}
    fresh = {(0, f"fresh-{i}"): state(START_MS + 23 * HOUR_MS) for i in range(10)}
    sessions.write(sessions.stage({**old, **fresh}))
    expiry = SessionExpiry(sessions, ttl_ms=24 * HOUR_MS, done_until=lambda _: 0)
    begin(expiry, {0}, offset=20)
    assert swept(expiry) == {}
    expiry.observe({(0, "now"): state(START_MS + 25 * HOUR_MS, 21)}, stored_ms=STORED_MS)
    assert swept(expiry) == {key: removed.last_offset for key, removed in old.items()}


def test_each_partition_has_its_own_clock(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(p, "old"): state(START_MS) for p in (0, 1)}))
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS, done_until=lambda _: 0)
    begin(expiry, {0, 1}, offset=1)
    expiry.observe({(1, "now"): state(START_MS + 2 * HOUR_MS, 2)}, stored_ms=STORED_MS)
    assert swept(expiry).keys() == {(1, "old")}


def test_a_session_that_just_clicked_again_stays(sessions: RocksSessions) -> None:
    """What is stored may be older than what is staged."""
    sessions.write(sessions.stage({(0, "s"): state(START_MS)}))
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS, done_until=lambda _: 0)
    expiry.assign({0})
    back = {(0, "s"): state(START_MS + 9 * HOUR_MS)}
    sessions.stage(back)
    expiry.observe(back, stored_ms=STORED_MS)
    assert swept(expiry) == {}


def test_a_sweep_goes_round_and_round(sessions: RocksSessions) -> None:
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS, done_until=lambda _: 0)
    begin(expiry, {0})
    for round_, name in enumerate("zya", 1):
        begun = {(0, name): state(START_MS + 2 * round_ * HOUR_MS, 2 * round_)}
        expiry.observe(begun, stored_ms=STORED_MS)
        sessions.write(sessions.stage(begun))
        assert swept(expiry) == {}
        now_ms = START_MS + (2 * round_ + 1) * HOUR_MS + 1
        expiry.observe({(0, "now"): state(now_ms, 2 * round_ + 1)}, stored_ms=STORED_MS)
        assert swept(expiry).keys() == {(0, name)}
        sessions.write(sessions.stage({(0, name): removed_session(0)}))


def test_stored_sessions_are_counted_as_they_begin_and_as_they_are_found(
    sessions: RocksSessions,
) -> None:
    sessions.write(sessions.stage({(0, f"known-{i}"): state(START_MS) for i in range(3)}))
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS, done_until=lambda _: 0)
    begin(expiry, {0, 1}, offset=3)
    assert expiry.stored_sessions == 2, "one begins in each; what is stored was not looked at"
    sessions.write(sessions.stage({(p, "first"): state(START_MS) for p in (0, 1)}))
    swept(expiry)
    assert expiry.stored_sessions == 3 + 2
    expiry.assign({1})
    assert expiry.stored_sessions == 0, "what others own now does not count"


def test_partitions_that_are_not_ours_any_more_are_left_alone(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(p, "old"): state(START_MS) for p in (0, 1)}))
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS, done_until=lambda _: 0)
    begin(expiry, {0, 1}, offset=1)
    expiry.assign({1})
    now = {(p, "now"): state(START_MS + 2 * HOUR_MS, 2) for p in (0, 1)}
    expiry.observe(now, stored_ms=STORED_MS)
    assert swept(expiry).keys() == {(1, "old")}


class CountedSessions:
    """A store in a dict, in key order, that counts how many of its sessions are looked at."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.last_event_ms: dict[str, int] = {}
        self.last_offset: dict[str, int] = {}
        self.looks = 0

    def write(self, states: Mapping[tuple[int, str], SessionState]) -> None:
        for (_, session_id), written in states.items():
            if session_id not in self.last_event_ms:
                bisect.insort(self.keys, session_id)
            self.last_event_ms[session_id] = written.last_event_ms
            self.last_offset[session_id] = written.last_offset

    def remove(self, session_id: str) -> None:
        del self.last_event_ms[session_id]
        self.keys.remove(session_id)

    def forget(self, partition: int, session_ids: Iterable[str]) -> None:
        """Nothing is left of what was removed here."""

    def sweep(self, partition: int, *, after: str, look_at: int, idle_before_ms: int) -> Swept:
        start = bisect.bisect_right(self.keys, after) if after else 0
        seen = self.keys[start : start + look_at]
        self.looks += len(seen)
        idle = {
            key: self.last_offset[key] for key in seen if self.last_event_ms[key] < idle_before_ms
        }
        return Swept(idle, {}, len(seen), seen[-1] if len(seen) == look_at else "")


SESSION_IDS = {
    "in time order": lambda n: f"{n:09}",
    "in reverse": lambda n: f"{10**9 - n:09}",
    "scattered": lambda n: f"{n * 7_919_777 % 10**9:09}",
}
TTL_MS = 24 * HOUR_MS


@pytest.mark.parametrize("order", SESSION_IDS)
@pytest.mark.parametrize("batch", [1, 100])
def test_the_sweep_keeps_up_however_dense_the_traffic_and_costs_a_few_looks_a_click(
    order: str, batch: int
) -> None:
    """Sessions of one click each, the worst there is; the traffic grows tenfold on the way."""
    store, oldest_ms, clicks, now_ms = CountedSessions(), 0, 0, START_MS
    expiry = SessionExpiry(store, ttl_ms=TTL_MS, done_until=lambda _: 0)
    expiry.assign({0})
    steps_ms = [TTL_MS // 1_000] * 4_000 + [TTL_MS // 10_000] * 20_000
    for at in range(0, len(steps_ms), batch):
        states = {}
        for step_ms in steps_ms[at : at + batch]:
            now_ms += step_ms
            clicks += 1
            states[0, SESSION_IDS[order](clicks)] = state(now_ms, clicks)
        expiry.observe(states, stored_ms=STORED_MS)
        for _, session_id in expiry.due(clicks=len(states)):
            oldest_ms = max(oldest_ms, now_ms - store.last_event_ms[session_id])
            store.remove(session_id)
        store.write(states)
    assert now_ms - min(store.last_event_ms.values()) < 2.1 * TTL_MS
    assert oldest_ms < 2.1 * TTL_MS
    assert store.looks < 4 * clicks


def test_a_jump_of_the_clock_empties_a_large_store_within_a_few_calls() -> None:
    store = CountedSessions()
    expiry = SessionExpiry(store, ttl_ms=TTL_MS, done_until=lambda _: 0)
    begin(expiry, {0})
    before = {(0, f"{n:05}"): state(START_MS, n) for n in range(5_000)}
    expiry.observe(before, stored_ms=STORED_MS)
    store.write(before)
    assert swept(expiry, calls=50) == {}
    looks = store.looks
    expiry.observe({(0, "now"): state(START_MS + 2 * TTL_MS, 5_000)}, stored_ms=STORED_MS)
    assert len(swept(expiry, calls=5_000 // CHUNK_SESSIONS + 1, clicks=1)) == 5_000
    assert store.looks - looks <= 5_000
    assert swept(expiry, calls=50) == {}


def test_sessions_that_are_not_written_yet_when_the_sweep_passes_are_found_later() -> None:
    store = CountedSessions()
    expiry = SessionExpiry(store, ttl_ms=TTL_MS, done_until=lambda _: 0)
    begin(expiry, {0})
    begun = {(0, f"{n:05}"): state(START_MS, n) for n in range(200)}
    expiry.observe(begun, stored_ms=STORED_MS)
    assert swept(expiry) == {}
    store.write(begun)
    expiry.observe({(0, "00000"): state(START_MS + 2 * TTL_MS, 200)}, stored_ms=STORED_MS)
    assert len(swept(expiry, calls=20, clicks=1)) == 200


def test_what_is_left_of_a_removed_session_goes_once_its_click_is_committed(
    sessions: RocksSessions,
) -> None:
    sessions.write(sessions.stage({(0, "s"): removed_session(7)}))
    committed = 7
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS, done_until=lambda _: committed)
    expiry.assign({0})
    expiry.observe({(0, "now"): state(START_MS)}, stored_ms=STORED_MS)
    assert swept(expiry) == {}
    assert sessions.record(0, "s") is not None
    committed = 8
    expiry.observe({(0, "now"): state(START_MS + HOUR_MS)}, stored_ms=STORED_MS)
    assert swept(expiry) == {}
    assert sessions.record(0, "s") is None


def late(sessions: RocksSessions, *, offset: int) -> None:
    """A visitor whose clock is years behind clicks."""
    sessions.write(sessions.stage({(0, "late"): state(START_MS - 20_000 * HOUR_MS, offset)}))


def test_a_visitor_whose_clicks_are_late_stays_while_they_come(sessions: RocksSessions) -> None:
    """Removed between two of them, the session would begin anew, and in a replay it would not."""
    expiry = SessionExpiry(sessions, ttl_ms=TTL_MS, done_until=lambda _: 0)
    begin(expiry, {0})
    for hour in range(1, 60):
        expiry.observe(
            {(0, "now"): state(START_MS + hour * HOUR_MS, 2 * hour)}, stored_ms=STORED_MS
        )
        late(sessions, offset=2 * hour + 1)
        assert swept(expiry) == {}
    for hour in range(60, 90):
        expiry.observe(
            {(0, "now"): state(START_MS + hour * HOUR_MS, 2 * hour)}, stored_ms=STORED_MS
        )
        if swept(expiry):
            return
    pytest.fail("it stays for ever")


def test_a_restart_does_not_end_the_session_of_a_late_visitor(sessions: RocksSessions) -> None:
    """What went on before the start is not known, so the clock has to go on a little first."""
    late(sessions, offset=7)
    expiry = SessionExpiry(sessions, ttl_ms=TTL_MS, done_until=lambda _: 0)
    begin(expiry, {0}, offset=8)
    assert swept(expiry) == {}
    expiry.observe({(0, "now"): state(START_MS + TTL_MS // 24, 9)}, stored_ms=STORED_MS)
    late(sessions, offset=10)
    assert swept(expiry) == {}


def test_a_click_dated_a_day_ahead_ends_nobody_elses_session(sessions: RocksSessions) -> None:
    now_ms = START_MS + 2 * HOUR_MS
    expiry = SessionExpiry(sessions, ttl_ms=TTL_MS, done_until=lambda _: 0)
    begin(expiry, {0})
    sessions.write(sessions.stage({(0, "s"): state(START_MS + HOUR_MS, 1)}))
    expiry.observe({(0, "ahead"): state(now_ms + 24 * HOUR_MS, 2)}, stored_ms=now_ms)
    assert swept(expiry) == {}

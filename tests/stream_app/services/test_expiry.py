"""Idle sessions leave, by the partition's own clock, a few looked at after each batch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState, advance
from stream_app.services.expiry import SessionExpiry

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[RocksSessions]:
    store = RocksSessions(tmp_path / "db", topic_id=b"t" * 16)
    yield store
    store.close()


def state(event_ms: int) -> SessionState:
    click = Click(session_id="s", item_id=ItemId("a"), event_time_ms=event_ms)
    made = advance(None, click, offset=0, limits=SessionLimits())
    assert isinstance(made, SessionState)
    return made


def swept(expiry: SessionExpiry, *, calls: int, looked_at: int) -> set[tuple[int, str]]:
    return {key for _ in range(calls) for key in expiry.due(looked_at=looked_at)}


def test_only_sessions_idle_for_longer_than_the_ttl_are_due(sessions: RocksSessions) -> None:
    old = {(0, f"old-{i}"): state(START_MS) for i in range(10)}
    fresh = {(0, f"fresh-{i}"): state(START_MS + 23 * HOUR_MS) for i in range(10)}
    sessions.write(sessions.stage({**old, **fresh}))
    expiry = SessionExpiry(sessions, ttl_ms=24 * HOUR_MS)
    expiry.assign({0})
    assert swept(expiry, calls=10, looked_at=3) == set()
    expiry.observe({(0, "now"): state(START_MS + 25 * HOUR_MS)})
    assert swept(expiry, calls=10, looked_at=3) == old.keys()


def test_each_partition_has_its_own_clock(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(p, "old"): state(START_MS) for p in (0, 1)}))
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS)
    expiry.assign({0, 1})
    expiry.observe({(1, "now"): state(START_MS + 2 * HOUR_MS)})
    assert swept(expiry, calls=4, looked_at=5) == {(1, "old")}


def test_a_session_that_just_clicked_again_stays(sessions: RocksSessions) -> None:
    """What is stored may be older than what is staged."""
    sessions.write(sessions.stage({(0, "s"): state(START_MS)}))
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS)
    expiry.assign({0})
    back = {(0, "s"): state(START_MS + 9 * HOUR_MS)}
    sessions.stage(back)
    expiry.observe(back)
    assert swept(expiry, calls=3, looked_at=5) == set()


def test_a_sweep_goes_round_and_round(sessions: RocksSessions) -> None:
    expiry = SessionExpiry(sessions, ttl_ms=HOUR_MS)
    expiry.assign({0})
    expiry.observe({(0, "now"): state(START_MS + 2 * HOUR_MS)})
    for name in "zya":
        sessions.write(sessions.stage({(0, name): state(START_MS)}))
        assert swept(expiry, calls=4, looked_at=1) == {(0, name)}
        sessions.write(sessions.stage({(0, name): None}))

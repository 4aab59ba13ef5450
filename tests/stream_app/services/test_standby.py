"""Copying another worker's sessions from its changelog, on a real RocksDB."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiokafka.errors import KafkaConnectionError

from stream_app.adapters.changelog_topic import ChangelogChunk
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.codec import encode_state
from stream_app.core.records import Click, ItemId
from stream_app.core.session import ChangelogRecord, SessionLimits, SessionState, advance
from stream_app.services import standby as module
from stream_app.services.standby import Standby

TOPIC = b"t" * 16


def state_at(offset: int) -> SessionState:
    click = Click(session_id="s", item_id=ItemId("a"), event_time_ms=1_700_000_000_000)
    state = advance(None, click, offset=offset, limits=SessionLimits())
    assert isinstance(state, SessionState)
    return state


def written(session_id: str, offset: int) -> ChangelogRecord:
    return session_id, encode_state(state_at(offset), TOPIC), None


class ChangelogTwin:
    """Changelog offsets of one record each, from 0; also its own follower."""

    def __init__(self, *records: ChangelogRecord) -> None:
        self.records = list(records)
        self.position = 0
        self.away = 0
        self.on_poll: Callable[[], None] = lambda: None

    async def bounds(self, partitions: Iterable[int]) -> Mapping[int, tuple[int, int]]:
        if self.away:
            self.away -= 1
            raise KafkaConnectionError("nobody there")
        return dict.fromkeys(partitions, (0, len(self.records)))

    @asynccontextmanager
    async def follow(self, starts: Mapping[int, int]) -> AsyncIterator["ChangelogTwin"]:
        self.position = starts[0]
        yield self

    async def poll(self) -> list[ChangelogChunk]:
        await asyncio.sleep(0)
        self.on_poll()
        new, self.position = self.records[self.position :], len(self.records)
        return [ChangelogChunk(0, new, self.position)] if new else []

    async def lag(self) -> Mapping[int, int]:
        return {0: len(self.records) - self.position}


async def click_ends(partitions: Iterable[int]) -> Mapping[int, int]:
    return dict.fromkeys(partitions, 1_000_000)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[RocksSessions]:
    store = RocksSessions(tmp_path / "db", topic_id=TOPIC)
    yield store
    store.close()


def stand_by(standby: Standby, *steps: Callable[[], None]) -> None:
    """Run it for a while, with steps in between."""

    async def run() -> None:
        running = asyncio.create_task(standby.run())
        for step in (*steps, lambda: None):
            for _ in range(50):
                await asyncio.sleep(0)
            step()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(run())


def test_a_copy_holds_what_the_changelog_holds_and_notes_how_far(sessions: RocksSessions) -> None:
    changelog = ChangelogTwin(written("a", 1), written("b", 2), ("b", None, 3))
    copied: list[int] = []
    standby = Standby(changelog, sessions, click_ends, on_copied=copied.append)
    standby.assign({0})
    stand_by(standby, lambda: changelog.records.append(written("a", 9)))
    assert dict(sessions.scan(0)) == {"a": state_at(9)}
    assert sessions.persisted_offset(0) == 3
    assert sum(copied) == 2


def test_a_copy_goes_on_where_it_was(sessions: RocksSessions) -> None:
    sessions.set_persisted_offsets({0: 0})
    changelog = ChangelogTwin(written("a", 1), written("b", 2))
    standby = Standby(changelog, sessions, click_ends)
    standby.assign({0})
    stand_by(standby)
    assert dict(sessions.scan(0)) == {"b": state_at(2)}


def test_nothing_is_applied_any_more_once_the_partition_is_ours(sessions: RocksSessions) -> None:
    """The restore has begun; an old removal in a chunk already read would delete what it restored."""
    changelog = ChangelogTwin(written("a", 1))
    standby = Standby(changelog, sessions, click_ends)
    standby.assign({0})

    def take_over() -> None:
        changelog.records.append(("a", None, 2))
        changelog.on_poll = lambda: standby.assign(())

    stand_by(standby, take_over)
    assert dict(sessions.scan(0)) == {"a": state_at(1)}
    assert sessions.persisted_offset(0) == 0


def test_while_our_record_is_newer_the_offset_stays_so_that_taking_over_sends_it_again(
    sessions: RocksSessions,
) -> None:
    """We owned the partition once, and our last write never reached the changelog."""
    sessions.write(sessions.stage({(0, "a"): state_at(7)}))
    sessions.set_persisted_offsets({0: 0})
    changelog = ChangelogTwin(written("a", 4), written("a", 5), written("b", 6))
    standby = Standby(changelog, sessions, click_ends)
    standby.assign({0})

    def nothing_is_noted() -> None:
        assert dict(sessions.scan(0)) == {"a": state_at(7), "b": state_at(6)}
        assert sessions.persisted_offset(0) == 0
        changelog.records.append(written("a", 7))

    stand_by(standby, nothing_is_noted)
    assert sessions.persisted_offset(0) == 3


def test_a_broker_that_is_away_is_asked_again(sessions: RocksSessions) -> None:
    changelog = ChangelogTwin(written("a", 1))
    changelog.away = 2
    standby = Standby(changelog, sessions, click_ends)
    standby.assign({0})
    stand_by(standby)
    assert dict(sessions.scan(0)) == {"a": state_at(1)}


def test_the_lag_is_told_and_goes_away_with_the_partition(sessions: RocksSessions) -> None:
    changelog = ChangelogTwin(written("a", 1))
    lags: list[Mapping[int, int]] = []
    standby = Standby(changelog, sessions, click_ends, on_lag=lags.append)
    standby.assign({0})
    stand_by(standby, lambda: standby.assign(()))
    assert {0: 0} in lags
    assert lags[-1] == {}

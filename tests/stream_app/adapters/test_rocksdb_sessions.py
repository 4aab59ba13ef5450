"""The RocksDB session store, on a real RocksDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.codec import encode_state
from stream_app.core.errors import ConfigurationError, InvariantError
from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState, advance

TOPIC = b"t" * 16
OTHER_TOPIC = b"u" * 16


def state_at(offset: int, item_id: str = "a", *, event_ms: int = 1_700_000_000_000) -> SessionState:
    click = Click(session_id="s", item_id=ItemId(item_id), event_time_ms=event_ms)
    state = advance(None, click, offset=offset, limits=SessionLimits())
    assert isinstance(state, SessionState)
    return state


def record_at(offset: int, item_id: str = "a") -> bytes:
    return encode_state(state_at(offset, item_id), TOPIC)


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[RocksSessions]:
    store = RocksSessions(tmp_path / "db", topic_id=TOPIC)
    yield store
    store.close()


def test_staged_states_are_visible_before_they_are_written(sessions: RocksSessions) -> None:
    """The next batch reads what the last one computed, though RocksDB does not hold it yet."""
    sessions.stage({(0, "s"): state_at(5)})
    assert sessions.get_many([(0, "s"), (1, "s")]) == [state_at(5), None]
    assert sessions.record(0, "s") is None


def test_writing_makes_states_durable_and_keeps_newer_staged_ones(tmp_path: Path) -> None:
    """A batch written while a later one is staged must not hide the later state."""
    store = RocksSessions(tmp_path / "db", topic_id=TOPIC)
    first = store.stage({(0, "s"): state_at(5)})
    store.stage({(0, "s"): state_at(6, "b")})
    store.write(first)
    assert store.get_many([(0, "s")]) == [state_at(6, "b")]
    store.close()
    again = RocksSessions(tmp_path / "db", topic_id=TOPIC)
    assert again.get_many([(0, "s")]) == [state_at(5)]
    again.close()


def test_a_removed_session_is_gone_at_once_and_after_writing(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(0, "s"): state_at(5)}))
    removal = sessions.stage({(0, "s"): None})
    assert sessions.get_many([(0, "s")]) == [None]
    sessions.write(removal)
    assert sessions.get_many([(0, "s")]) == [None]


def test_equal_session_ids_in_two_partitions_are_two_sessions(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(0, "s"): state_at(1), (256, "s"): state_at(2)}))
    assert sessions.get_many([(0, "s"), (256, "s")]) == [state_at(1), state_at(2)]


def test_restoring_keeps_the_record_with_the_higher_applied_offset(sessions: RocksSessions) -> None:
    """RocksDB may be ahead of the changelog: the crash came between the two writes."""
    sessions.write(sessions.stage({(0, "ahead"): state_at(9), (0, "old"): state_at(2)}))
    written, behind = sessions.restore_chunk(
        0, [("ahead", record_at(7)), ("old", record_at(3)), ("new", record_at(4))], last_offset=41
    )
    assert (written, behind) == (2, ["ahead"])
    assert sessions.get_many([(0, "ahead"), (0, "old"), (0, "new")]) == [
        state_at(9),
        state_at(3),
        state_at(4),
    ]
    assert sessions.persisted_offset(0) == 41


def test_an_older_record_behind_a_newer_one_in_the_changelog_is_reported(
    sessions: RocksSessions,
) -> None:
    """A worker that lost its partition wrote late; compaction would keep its record, so it is named."""
    _, behind = sessions.restore_chunk(0, [("s", record_at(9)), ("s", record_at(7))], last_offset=1)
    assert behind == ["s"]
    assert sessions.get_many([(0, "s")]) == [state_at(9)]
    _, behind = sessions.restore_chunk(0, [("s", record_at(9))], last_offset=2)
    assert behind == []


def test_a_tombstone_removes_a_session_and_a_later_record_brings_it_back(
    sessions: RocksSessions,
) -> None:
    sessions.write(sessions.stage({(0, "gone"): state_at(3), (0, "back"): state_at(3)}))
    sessions.restore_chunk(
        0, [("gone", None), ("back", None), ("back", record_at(5))], last_offset=2
    )
    assert sessions.get_many([(0, "gone"), (0, "back")]) == [None, state_at(5)]


def test_unreadable_records_are_left_out_and_counted(sessions: RocksSessions) -> None:
    written, _ = sessions.restore_chunk(
        0,
        [("s", b"\x01short"), ("t", b""), ("u", record_at(4)), ("v", b"\x09" * 80)],
        last_offset=3,
    )
    assert written == 1
    assert sessions.unreadable_records == 3
    assert sessions.get_many([(0, "s"), (0, "u")]) == [None, state_at(4)]


def test_a_recreated_click_topic_is_refused(tmp_path: Path) -> None:
    """Offsets start anew with the topic; old sessions would take its clicks for redeliveries."""
    RocksSessions(tmp_path / "db", topic_id=TOPIC).close()
    with pytest.raises(InvariantError, match="recreated"):
        RocksSessions(tmp_path / "db", topic_id=OTHER_TOPIC)
    fresh = RocksSessions(tmp_path / "other", topic_id=OTHER_TOPIC)
    with pytest.raises(InvariantError, match="recreated"):
        fresh.restore_chunk(0, [("s", record_at(1))], last_offset=0)
    fresh.close()


def test_a_directory_in_use_is_a_configuration_error(
    sessions: RocksSessions, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="data_dir of its own"):
        RocksSessions(tmp_path / "db", topic_id=TOPIC)


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        RocksSessions(tmp_path / "file" / "db", topic_id=TOPIC)


def test_wiping_a_partition_leaves_the_others(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(p, "s"): state_at(p) for p in range(3)}))
    sessions.set_persisted_offsets({0: 10, 1: 11, 2: 12})
    sessions.wipe(1)
    assert sessions.get_many([(p, "s") for p in range(3)]) == [state_at(0), None, state_at(2)]
    assert [sessions.persisted_offset(p) for p in range(3)] == [10, -1, 12]


def test_scanning_goes_on_behind_a_session_in_key_order(sessions: RocksSessions) -> None:
    ids = ["a", "ab", "b", "é", "\U0001f600"]
    sessions.write(sessions.stage({(7, i): state_at(1) for i in ids} | {(8, "z"): state_at(1)}))
    assert [session_id for session_id, _ in sessions.scan(7)] == ids
    assert [session_id for session_id, _ in sessions.scan(7, after="ab")] == ids[2:]

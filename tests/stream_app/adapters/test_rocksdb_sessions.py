"""The RocksDB session store, on a real RocksDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_app.adapters.rocksdb_sessions import APART_MS_MAX, RocksSessions, Swept
from stream_app.core.codec import encode_state
from stream_app.core.errors import ConfigurationError, TopicsChangedError
from stream_app.core.records import Click, ItemId
from stream_app.core.session import (
    ChangelogRecord,
    SessionLimits,
    SessionState,
    advance,
    removed_session,
)

TOPIC = b"t" * 16
OTHER_TOPIC = b"u" * 16


def state_at(offset: int, item_id: str = "a", *, event_ms: int = 1_700_000_000_000) -> SessionState:
    click = Click(session_id="s", item_id=ItemId(item_id), event_time_ms=event_ms)
    state = advance(None, click, offset=offset, limits=SessionLimits())
    assert isinstance(state, SessionState)
    return state


def record_at(offset: int, item_id: str = "a", *, topic_id: bytes = TOPIC) -> bytes:
    return encode_state(state_at(offset, item_id), topic_id)


def restore(
    store: RocksSessions,
    *records: tuple[str, bytes | None] | ChangelogRecord,
    last_offset: int = 0,
    end_offset: int = 100,
) -> tuple[int, list[str]]:
    """Records of partition 0, tombstones without their click offset unless given."""
    logged = [(*record, None)[:3] for record in records]
    return store.restore_chunk(0, logged, last_offset=last_offset, end_offset=end_offset)


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
    gone = removed_session(6)
    removal = sessions.stage({(0, "s"): gone})
    assert sessions.get_many([(0, "s")]) == [gone]
    sessions.write(removal)
    assert sessions.get_many([(0, "s")]) == [gone]
    assert list(sessions.scan(0)) == []
    sessions.forget(0, ["s"])
    assert sessions.get_many([(0, "s")]) == [None]


def test_equal_session_ids_in_two_partitions_are_two_sessions(sessions: RocksSessions) -> None:
    sessions.write(sessions.stage({(0, "s"): state_at(1), (256, "s"): state_at(2)}))
    assert sessions.get_many([(0, "s"), (256, "s")]) == [state_at(1), state_at(2)]


def test_restoring_keeps_the_record_with_the_higher_applied_offset(sessions: RocksSessions) -> None:
    """RocksDB may be ahead of the changelog: the crash came between the two writes."""
    sessions.write(sessions.stage({(0, "ahead"): state_at(9), (0, "old"): state_at(2)}))
    written, behind = restore(
        sessions,
        ("ahead", record_at(7)),
        ("old", record_at(3)),
        ("new", record_at(4)),
        last_offset=41,
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
    assert restore(sessions, ("s", record_at(9)), ("s", record_at(7))) == (1, ["s"])
    assert sessions.get_many([(0, "s")]) == [state_at(9)]
    assert restore(sessions, ("s", record_at(9))) == (1, [])


def test_a_tombstone_removes_a_session_and_a_later_record_brings_it_back(
    sessions: RocksSessions,
) -> None:
    sessions.write(sessions.stage({(0, "gone"): state_at(3), (0, "back"): state_at(3)}))
    restore(sessions, ("gone", None), ("back", None), ("back", record_at(5)))
    assert sessions.get_many([(0, "gone"), (0, "back")]) == [None, state_at(5)]


@pytest.mark.parametrize("in_one_chunk", [True, False])
def test_a_record_of_a_click_before_the_removal_does_not_bring_a_session_back(
    sessions: RocksSessions, in_one_chunk: bool
) -> None:
    """A stale writer put it behind the tombstone; compaction would keep it, so the session is named."""
    log: list[ChangelogRecord] = [("s", record_at(3), None), ("s", None, 5), ("t", None, 5)]
    late: list[ChangelogRecord] = [("s", record_at(5), None), ("t", record_at(6), None)]
    if in_one_chunk:
        _, behind = restore(sessions, *log, *late)
    else:
        restore(sessions, *log)
        _, behind = restore(sessions, *late)
    assert behind == ["s"]
    assert sessions.get_many([(0, "s"), (0, "t")]) == [removed_session(5), state_at(6)]


def test_a_tombstone_of_an_earlier_click_removes_nothing(sessions: RocksSessions) -> None:
    """A stale writer again: its removal is of a click before those that ours knows."""
    sessions.write(sessions.stage({(0, "stored"): state_at(9)}))
    _, behind = restore(
        sessions, ("stored", None, 8), ("logged", record_at(9), None), ("logged", None, 8)
    )
    assert sorted(behind) == ["logged", "stored"]
    assert sessions.get_many([(0, "stored"), (0, "logged")]) == [state_at(9), state_at(9)]


REFUSED = {
    "unreadable": [b"\x01short", b"", b"\x09" * 80, record_at(4) + b"x", record_at(4)[:-1]],
    "beyond_end": [record_at(100), record_at(2**62)],
    "other_topic": [record_at(4, topic_id=OTHER_TOPIC)],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_record_that_cannot_be_true_is_refused_counted_and_named(
    sessions: RocksSessions, reason: str
) -> None:
    """Forged or damaged: what was there before it holds, and is to be sent again behind it."""
    good = [(f"s{i}", record_at(3)) for i in range(len(REFUSED[reason]))]
    bad = [(f"s{i}", record) for i, record in enumerate(REFUSED[reason])]
    written, behind = restore(sessions, *good, *bad, last_offset=7)
    assert (written, behind) == (len(good), [session_id for session_id, _ in bad])
    assert sessions.refused_records == {reason: len(bad)}
    assert sessions.get_many([(0, i) for i, _ in good]) == [state_at(3)] * len(good)
    assert sessions.persisted_offset(0) == 7


def test_a_good_record_behind_a_refused_one_needs_no_sending(sessions: RocksSessions) -> None:
    assert restore(sessions, ("s", b"forged"), ("s", record_at(4))) == (1, [])
    assert sessions.get_many([(0, "s")]) == [state_at(4)]


def test_a_recreated_click_topic_is_refused(tmp_path: Path) -> None:
    """Offsets start anew with the topic; old sessions would take its clicks for redeliveries."""
    RocksSessions(tmp_path / "db", topic_id=TOPIC).close()
    with pytest.raises(TopicsChangedError, match="recreated"):
        RocksSessions(tmp_path / "db", topic_id=OTHER_TOPIC)


def test_a_changelog_with_nothing_but_records_of_another_topic_is_refused(tmp_path: Path) -> None:
    """The disk was lost, so only the records tell; and they tell the next start again."""
    for _ in range(2):
        store = RocksSessions(tmp_path / "db", topic_id=OTHER_TOPIC)
        assert store.persisted_offset(0) == -1
        restore(store, ("s", record_at(1)), ("t", None), last_offset=1)
        restore(store, ("u", None), last_offset=2)
        with pytest.raises(TopicsChangedError, match="recreated"):
            store.set_persisted_offsets({0: 3})
        store.close()


@pytest.mark.parametrize("forged_first", [True, False])
def test_one_record_of_another_topic_among_good_ones_stops_nothing(
    sessions: RocksSessions, forged_first: bool
) -> None:
    records = [("forged", record_at(1, topic_id=OTHER_TOPIC)), ("s", record_at(1))]
    for record in records if forged_first else reversed(records):
        restore(sessions, record, last_offset=1)
    sessions.set_persisted_offsets({0: 2})
    assert sessions.get_many([(0, "forged"), (0, "s")]) == [None, state_at(1)]


def test_foreign_records_that_cannot_be_true_are_counted_and_change_nothing(
    sessions: RocksSessions,
) -> None:
    sessions.write(sessions.stage({(0, "s"): state_at(9)}))
    theirs: list[ChangelogRecord] = [
        ("s", record_at(100), None),
        ("s", b"junk", None),
        ("s", None, 8),
    ]
    sessions.count_refused(theirs, end_offset=100)
    assert sessions.refused_records == {"beyond_end": 1, "unreadable": 1}
    assert sessions.record(0, "s") == record_at(9)


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


def test_sweeping_goes_on_behind_a_session_and_names_the_idle_ones(sessions: RocksSessions) -> None:
    old = {(7, i): state_at(4, event_ms=1_000) for i in "ace"}
    new = {(7, i): state_at(5, event_ms=2_000) for i in "bd"}
    sessions.write(sessions.stage({**old, **new, (8, "z"): state_at(1, event_ms=0)}))
    first = sessions.sweep(7, after="", look_at=3, idle_before_ms=1_001)
    assert first == Swept({"a": 4, "c": 4}, {}, looked_at=3, last="c")
    second = sessions.sweep(7, after="c", look_at=3, idle_before_ms=1_001)
    assert second == Swept({"e": 4}, {}, looked_at=2, last="")
    assert sessions.sweep(7, after="", look_at=5, idle_before_ms=1_000).idle == {}


def test_sweeping_leaves_sessions_with_a_staged_record_alone(sessions: RocksSessions) -> None:
    """What is stored is older than what is staged."""
    sessions.write(sessions.stage({(0, "s"): state_at(4, event_ms=1_000)}))
    sessions.stage({(0, "s"): state_at(5, event_ms=9_000)})
    assert sessions.sweep(0, after="", look_at=5, idle_before_ms=5_000).idle == {}


def test_a_disk_that_has_not_met_the_changelog_for_long_is_restored_from_the_beginning(
    tmp_path: Path,
) -> None:
    """Tombstones may have come and gone meanwhile: an erased session would come back."""
    now_ms = 1_800_000_000_000
    store = RocksSessions(tmp_path / "db", topic_id=TOPIC, now_ms=lambda: now_ms)
    store.write(store.stage({(0, "s"): state_at(1)}))
    store.set_persisted_offsets({0: 9})
    now_ms += APART_MS_MAX - 1
    assert store.resume_from(0, begin=0, end=20) == 10
    now_ms += 1
    assert store.resume_from(0, begin=3, end=20) == 3
    assert store.get_many([(0, "s")]) == [None]
    store.close()


@pytest.mark.parametrize(("begin", "end"), [(11, 20), (0, 9)])
def test_a_changelog_that_lost_what_was_applied_is_restored_from_its_beginning(
    sessions: RocksSessions, begin: int, end: int
) -> None:
    sessions.write(sessions.stage({(0, "s"): state_at(1)}))
    sessions.set_persisted_offsets({0: 9})
    assert sessions.resume_from(0, begin=begin, end=end) == begin
    assert sessions.get_many([(0, "s")]) == [None]


def test_what_is_kept_at_hand_never_hides_what_was_restored_forgotten_or_wiped(
    sessions: RocksSessions,
) -> None:
    ids = ["restored", "forgotten", "wiped"]
    sessions.write(sessions.stage({(0, i): state_at(1) for i in ids}))
    assert sessions.get_many([(0, i) for i in ids]) == [state_at(1)] * 3
    restore(sessions, ("restored", record_at(2)))
    sessions.forget(0, ["forgotten"])
    assert sessions.get_many([(0, i) for i in ids]) == [state_at(2), None, state_at(1)]
    sessions.wipe(0)
    assert sessions.get_many([(0, i) for i in ids]) == [None] * 3


def test_only_so_many_written_states_are_kept_at_hand(
    sessions: RocksSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_app.adapters.rocksdb_sessions.WRITTEN_MAX", 2)
    for session_id in "abac":
        sessions.write(sessions.stage({(0, session_id): state_at(1)}))
    assert [session_id for _, session_id in sessions._written] == ["a", "c"]
    assert sessions.get_many([(0, "b")]) == [state_at(1)]

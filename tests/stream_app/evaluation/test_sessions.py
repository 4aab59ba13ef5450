"""Sessions from click tables: cut exactly as the worker cuts them, split by time."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, advance
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import (
    SessionTable,
    sessions_of_clicks,
    sessions_of_sequences,
    vocabulary_of_clicks,
    vocabulary_of_sequences,
)

MINUTE = 60_000
Row = tuple[str, str, int, str | None]


def click_table(rows: list[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
    return pa.table(
        {
            "session_id": pa.array(columns[0], pa.string()),
            "item_id": pa.array(columns[1], pa.string()),
            "event_time_ms": pa.array(columns[2], pa.int64()),
            "event_id": pa.array(columns[3], pa.string()),
        }
    )


def as_lists(table: SessionTable, vocabulary: ItemVocabulary) -> list[list[str]]:
    ids = [*vocabulary.ids, "?"]
    return [
        [ids[i] for i in table.item_indexes[start:end]]
        for start, end in zip(table.session_starts[:-1], table.session_starts[1:], strict=True)
    ]


def online_sessions(rows: list[Row], limits: SessionLimits) -> list[tuple[int, list[str]]]:
    """What the worker's fold makes of the same clicks: (start, items) of every session."""
    states: dict[str, object] = {}
    sessions: dict[str, list[tuple[int, list[str]]]] = {}
    for offset, (key, item, time_ms, event_id) in enumerate(rows):
        click = Click(
            session_id=key, item_id=ItemId(item), event_time_ms=time_ms, event_id=event_id
        )
        after = advance(states.get(key), click, offset=offset, limits=limits)  # type: ignore[arg-type]
        if isinstance(after, str):
            continue
        states[key] = after
        if after.click_count == 1:
            sessions.setdefault(key, []).append((time_ms, []))
        sessions[key][-1][1].append(item)
    return [session for of_key in sessions.values() for session in of_key]


clicks = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from("abcd"),
        st.integers(0, 60).map(lambda t: t * 20_000),
        st.one_of(st.none(), st.sampled_from(["e1", "e2", "e3"])),
    ),
    max_size=40,
)


@given(clicks)
def test_sessions_are_those_of_the_workers_fold(rows: list[Row]) -> None:
    """Silences, age, the bot limit, duplicates, clicks out of order: click for click the same."""
    limits = SessionLimits(
        idle_gap_minutes=3, age_hours_max=10 / 60, clicks_per_minute_max=3, event_ids_max=2
    )
    table = click_table(rows)
    vocabulary = vocabulary_of_clicks(table)
    sessions = sessions_of_clicks(table, vocabulary, limits=limits)
    actual = list(zip(sessions.start_ms.tolist(), as_lists(sessions, vocabulary), strict=True))
    assert sorted(actual) == sorted(online_sessions(rows, limits))
    assert (np.diff(sessions.start_ms) >= 0).all(), "ordered by their first event"


def test_a_silence_ends_a_session_and_visitors_do_not_mix() -> None:
    rows: list[Row] = [
        ("u", "a", 0, None),
        ("v", "x", 1 * MINUTE, None),
        ("u", "b", 5 * MINUTE, None),
        ("u", "c", 36 * MINUTE, None),
        ("v", "y", 31 * MINUTE, None),
    ]
    table = click_table(rows)
    vocabulary = vocabulary_of_clicks(table)
    assert vocabulary.ids == ("a", "x", "b", "c", "y")
    sessions = sessions_of_clicks(table, vocabulary)
    assert as_lists(sessions, vocabulary) == [["a", "b"], ["x", "y"], ["c"]]
    assert sessions.start_ms.tolist() == [0, MINUTE, 36 * MINUTE]
    assert sessions.n_targets == 2


def test_a_known_vocabulary_keeps_its_rows_and_new_items_follow() -> None:
    table = click_table([("u", "new", 0, None), ("u", "a", 1, None), ("u", "b", 2, None)])
    vocabulary = vocabulary_of_clicks(table, ItemVocabulary(["b", "old", "a"]))
    assert vocabulary.ids == ("b", "old", "a", "new")


def test_items_outside_the_vocabulary_are_marked_and_can_be_dropped() -> None:
    rows: list[Row] = [("u", i, n, None) for n, i in enumerate("axb")] + [("v", "x", 9, None)]
    sessions = sessions_of_clicks(click_table(rows), ItemVocabulary(["a", "b"]))
    assert sessions.item_indexes.tolist() == [0, -1, 1, -1]
    known = sessions.known_only()
    assert known.item_indexes.tolist() == [0, 1]
    assert known.n_sessions == 1
    assert sessions.support(2).tolist() == [1, 1]


def test_the_split_is_in_time_and_a_session_under_way_is_cut_off() -> None:
    """What a model trained at minute 10 could have seen, and sessions that start later."""
    rows: list[Row] = [
        ("early", "a", 0, None),
        ("early", "b", 1 * MINUTE, None),
        ("across", "c", 9 * MINUTE, None),
        ("across", "d", 10 * MINUTE, None),
        ("late", "e", 10 * MINUTE, None),
        ("late", "f", 11 * MINUTE, None),
    ]
    table = click_table(rows)
    vocabulary = vocabulary_of_clicks(table)
    train, test = sessions_of_clicks(table, vocabulary).split_at(10 * MINUTE)
    assert as_lists(train, vocabulary) == [["a", "b"], ["c"]]
    assert as_lists(test, vocabulary) == [["e", "f"]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.floats(0.05, 0.95))
def test_the_newest_share_is_held_out(starts: list[int], share: float) -> None:
    rows: list[Row] = [(f"s{i}", "a", MINUTE * t, None) for i, t in enumerate(sorted(starts))]
    sessions = sessions_of_clicks(click_table(rows), ItemVocabulary(["a"]))
    train, test = sessions.split_newest(share)
    assert train.n_sessions + test.n_sessions == sessions.n_sessions
    assert test.n_sessions >= 1
    if train.n_sessions:
        assert train.start_ms.max() < test.start_ms.min()


def test_a_share_that_is_none_is_refused() -> None:
    sessions = sessions_of_clicks(click_table([("u", "a", 0, None)]), ItemVocabulary(["a"]))
    with pytest.raises(ConfigurationError):
        sessions.split_newest(1.0)


def test_short_sessions_are_dropped() -> None:
    rows: list[Row] = [("u", "a", 0, None), ("v", "b", 1, None), ("v", "a", 2, None)]
    table = click_table(rows)
    sessions = sessions_of_clicks(table, vocabulary_of_clicks(table)).at_least(2)
    assert sessions.item_indexes.tolist() == [1, 0]


def test_an_empty_table_has_no_sessions() -> None:
    sessions = sessions_of_clicks(click_table([]), ItemVocabulary([]))
    assert (sessions.n_sessions, sessions.n_clicks, sessions.n_targets) == (0, 0, 0)


def test_sequences_keep_the_files_order_of_sessions_and_positions_order_their_clicks() -> None:
    sequences = pa.table(
        {
            "session_id": ["z", "z", "a", "a", "q"],
            "item_id": ["1", "2", "4", "3", "9"],
            "position": [0, 1, 1, 0, 0],
            "split": ["train", "train", "train", "train", "test"],
        }
    )
    vocabulary = vocabulary_of_sequences(sequences)
    assert vocabulary.ids == ("1", "2", "4", "3")
    train = sessions_of_sequences(sequences, vocabulary, split="train")
    assert as_lists(train, vocabulary) == [["1", "2"], ["3", "4"]]
    assert train.start_ms.tolist() == [0, 1]
    test = sessions_of_sequences(sequences, vocabulary, split="test")
    assert test.item_indexes.tolist() == [-1]


def test_a_missing_column_and_empty_cells_are_named() -> None:
    table = click_table([("u", "a", 0, None)])
    with pytest.raises(ClickFileError, match="event_time_ms"):
        sessions_of_clicks(table.drop_columns(["event_time_ms"]), ItemVocabulary(["a"]))
    empty = pa.table(
        {
            "session_id": ["u"],
            "item_id": pa.array([None], pa.string()),
            "event_time_ms": [0],
        }
    )
    with pytest.raises(ClickFileError, match="1 empty"):
        vocabulary_of_clicks(empty)

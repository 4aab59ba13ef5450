"""What is learned and what is held out: cut in time, nothing in both, newest first."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.window import Window, divide, read_newest, to_learn
from stream_app.core.session import SessionLimits
from stream_app.evaluation.sessions import SessionTable
from stream_app.files.click_log import LOG_COLUMNS, ClickLogWriter

DAY_MS = 86_400_000
START_MS = 1_800_000_000_000 // DAY_MS * DAY_MS


def table_of(lengths: list[int], gap_ms: int = 1000) -> SessionTable:
    """Sessions one after the other, `gap_ms` apart, clicks 10 ms apart."""
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    clock = [s * gap_ms + 10 * c for s, n in enumerate(lengths) for c in range(n)]
    items = np.arange(starts[-1], dtype=np.int64) % 7
    return SessionTable(items, starts, np.array(clock, dtype=np.int64))


tables = st.builds(
    table_of, st.lists(st.integers(1, 6), min_size=1, max_size=60), st.sampled_from([15, 1000])
)


@settings(deadline=None)
@given(tables, st.floats(0.05, 0.8), st.integers(1, 60), st.integers(0, 30_000))
def test_nothing_held_out_is_learned(
    sessions: SessionTable, share: float, targets_max: int, not_before_ms: int
) -> None:
    division = divide(sessions, share=share, targets_max=targets_max, not_before_ms=not_before_ms)
    assert division.cut_ms >= not_before_ms
    assert (division.past.click_ms < division.cut_ms).all()
    assert (division.held_out.start_ms >= division.cut_ms).all()
    assert (division.held_out.lengths >= 2).all()


def test_a_slice_that_is_large_enough_to_judge_by_is_not_made_larger() -> None:
    sessions = table_of([3] * 1000)
    small = divide(sessions, share=0.1, targets_max=20)
    assert small.held_out.n_targets == 20
    assert divide(sessions, share=0.1, targets_max=10**9).held_out.n_sessions == 100


def test_the_cut_moves_forward_as_the_log_grows() -> None:
    """So the live model has never seen what it is judged on."""
    cuts = [
        divide(table_of([2, 3, 1, 5] * n), share=0.1, targets_max=50).cut_ms
        for n in range(10, 200, 10)
    ]
    assert cuts == sorted(cuts)
    assert len(set(cuts)) == len(cuts)


def test_nothing_is_held_out_that_the_live_model_may_have_seen() -> None:
    sessions = table_of([3] * 100)
    newest_ms = int(sessions.click_ms.max())
    division = divide(sessions, share=0.5, targets_max=1000, not_before_ms=newest_ms + 1)
    assert division.held_out.n_sessions == 0
    assert division.past.n_sessions == 100


def test_sessions_of_one_click_alone_leave_nothing_to_hold_out() -> None:
    assert divide(table_of([1, 1, 1]), share=0.5, targets_max=10).held_out.n_sessions == 0


@settings(deadline=None)
@given(tables, st.integers(0, 60_000), st.integers(0, 300))
def test_a_warm_start_learns_every_new_session_and_not_much_more_than_asked(
    sessions: SessionTable, known_until_ms: int, replay: int
) -> None:
    learned = to_learn(sessions, known_until_ms=known_until_ms, replay_clicks=replay)
    new = sessions.start_ms > known_until_ms
    assert (learned.start_ms > known_until_ms).sum() == new.sum()
    if sessions.n_clicks <= replay:
        assert learned.n_sessions == sessions.n_sessions
        return
    room = max(replay - int(sessions.lengths[new].sum()), 0)
    old_clicks = int(sessions.lengths[~new].sum())
    assert (learned.start_ms <= known_until_ms).sum() <= (~new).sum() * room / max(old_clicks, 1)
    assert (np.diff(learned.start_ms) >= 0).all()


def test_replayed_sessions_are_spread_over_the_past() -> None:
    sessions = table_of([2] * 1000)
    learned = to_learn(sessions, known_until_ms=900_000, replay_clicks=400)
    old = learned.start_ms[learned.start_ms <= 900_000]
    assert abs(learned.n_clicks - 400) <= 4
    assert np.median(old) == pytest.approx(450_000, rel=0.05)


def test_from_scratch_everything_is_learned() -> None:
    sessions = table_of([2] * 50)
    assert to_learn(sessions, known_until_ms=None, replay_clicks=10) is sessions


def write_log(root: Path, days: list[list[tuple[str, str, str]]]) -> None:
    """days: (session, item, event type) each; a click a second."""
    writer = ClickLogWriter(root)
    offset = 0
    for number, clicks in enumerate(days):
        rows = [
            {
                "topic": "clicks",
                "partition": 0,
                "offset": offset + i,
                "kafka_timestamp_ms": START_MS,
                "session_id": session,
                "item_id": item,
                "event_time_ms": START_MS + number * DAY_MS + i * 1000,
                "event_type": kind,
                "consent": True,
            }
            for i, (session, item, kind) in enumerate(clicks)
        ]
        writer.write_range(
            "clicks", 0, offset, offset + len(rows) - 1, pa.Table.from_pylist(rows, LOG_COLUMNS)
        )
        offset += len(rows)


def day_of(number: int, n_sessions: int = 5) -> list[tuple[str, str, str]]:
    return [
        (f"s{number}-{s}", f"i{number}-{c}", "view_item")
        for s in range(n_sessions)
        for c in range(3)
    ]


def newest(root: Path, *, days: float = 14, clicks_max: int = 1000) -> Window:
    return read_newest(
        str(root),
        window_days=days,
        clicks_max=clicks_max,
        event_types=("view_item",),
        limits=SessionLimits(),
    )


def test_the_window_ends_with_the_newest_day_of_the_log_not_with_today(tmp_path: Path) -> None:
    write_log(tmp_path, [day_of(n) for n in range(6)])
    window = newest(tmp_path, days=2)
    assert {item.split("-")[0] for item in window.vocabulary.ids} == {"i4", "i5"}


def test_days_beyond_the_clicks_that_memory_may_hold_are_let_go(tmp_path: Path) -> None:
    write_log(tmp_path, [day_of(n) for n in range(6)])
    window = newest(tmp_path, clicks_max=20)
    assert window.sessions.n_clicks == 30


def test_only_events_that_are_clicks_are_learned_from(tmp_path: Path) -> None:
    write_log(
        tmp_path, [[("s", "a", "view_item"), ("s", "b", "add_to_cart"), ("s", "c", "view_item")]]
    )
    assert newest(tmp_path).vocabulary.ids == ("a", "c")


def test_an_empty_or_missing_log_is_an_empty_window(tmp_path: Path) -> None:
    window = newest(tmp_path / "nothing")
    assert window.sessions.n_sessions == 0
    assert window.newest_ms == 0

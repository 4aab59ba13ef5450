"""A session is a fold over its clicks, whatever happens on the way."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState, advance, event_hash
from tests.strategies import START_MS, TIGHT, session_logs

MINUTE_MS = 60_000


def click(
    after_ms: int = 0, item: str = "a", event_id: str | None = None, session: str = "s1"
) -> Click:
    return Click(
        session_id=session,
        item_id=ItemId(item),
        event_time_ms=START_MS + after_ms,
        event_id=event_id,
    )


def fold(
    log: list[Click],
    state: SessionState | None = None,
    *,
    offsets: list[int] | None = None,
    limits: SessionLimits = TIGHT,
) -> tuple[SessionState | None, list[str]]:
    """The state after the clicks, and for each click what became of it."""
    became = []
    for offset, one in zip(offsets or range(len(log)), log, strict=True):
        after = advance(state, one, offset=offset, limits=limits)
        if isinstance(after, str):
            became.append(after)
        else:
            became.append("applied")
            state = after
    return state, became


@given(session_logs(), st.data())
def test_restart_anywhere_changes_nothing(log: list[Click], data: st.DataObject) -> None:
    """Going back to any earlier offset after a restart ends in the same session."""
    crash_at = data.draw(st.integers(0, len(log) - 1), label="crash_at")
    resume_at = data.draw(st.integers(0, crash_at), label="resume_at")
    expected, _ = fold(log)

    offsets = [*range(crash_at + 1), *range(resume_at, len(log))]
    state, _ = fold([log[i] for i in offsets], offsets=offsets)

    assert state == expected


@given(session_logs(), st.data())
def test_an_applied_click_is_never_applied_again(log: list[Click], data: st.DataObject) -> None:
    state, became = fold(log)
    again = data.draw(st.integers(0, len(log) - 1), label="again")

    after = advance(state, log[again], offset=again, limits=TIGHT)

    if became[again] == "applied":
        assert after == "redelivered"
    else:
        assert isinstance(after, str)


@given(session_logs(max_size=60))
def test_what_is_remembered_stays_within_its_limits(log: list[Click]) -> None:
    state = None
    for offset, one in enumerate(log):
        after = advance(state, one, offset=offset, limits=TIGHT)
        if isinstance(after, str):
            continue
        state = after
        assert 1 <= len(state.recent_item_ids) <= TIGHT.history_len_max
        assert state.recent_item_ids[-1] == one.item_id
        assert len(state.recent_event_hashes) <= TIGHT.event_ids_max
        assert state.last_offset == offset
        assert state.window_clicks <= TIGHT.clicks_per_minute_max
        assert state.start_ms <= state.window_start_ms <= state.last_event_ms
        assert state.last_event_ms - state.start_ms <= TIGHT.age_ms_max


@given(session_logs())
def test_the_clock_of_a_session_never_runs_backwards(log: list[Click]) -> None:
    state = None
    for offset, one in enumerate(log):
        after = advance(state, one, offset=offset, limits=TIGHT)
        if isinstance(after, str):
            continue
        if state is not None and after.click_count > 1:
            assert after.last_event_ms == max(state.last_event_ms, one.event_time_ms)
            assert after.start_ms == state.start_ms
        state = after


@given(session_logs())
def test_the_history_is_the_last_applied_clicks_of_the_session(log: list[Click]) -> None:
    state, applied = None, []
    for offset, one in enumerate(log):
        after = advance(state, one, offset=offset, limits=TIGHT)
        if isinstance(after, str):
            continue
        state = after
        applied = [one.item_id] if after.click_count == 1 else [*applied, one.item_id]
        assert len(applied) == after.click_count
    assert state is not None
    assert state.recent_item_ids == tuple(applied[-TIGHT.history_len_max :])


def test_a_late_click_is_applied_in_log_order_and_moves_no_clock() -> None:
    state, became = fold([click(0, "a"), click(10_000, "b"), click(-3 * 3_600_000, "c")])
    assert became == ["applied"] * 3
    assert state is not None
    assert state.recent_item_ids == ("a", "b", "c")
    assert (state.start_ms, state.last_event_ms) == (START_MS, START_MS + 10_000)


@pytest.mark.parametrize(
    ("silence_ms", "clicks_in_session"), [(30 * MINUTE_MS, 2), (30 * MINUTE_MS + 1, 1)]
)
def test_a_silence_above_the_idle_gap_starts_a_new_session(
    silence_ms: int, clicks_in_session: int
) -> None:
    state, _ = fold([click(0), click(silence_ms)])
    assert state is not None
    assert state.click_count == clicks_in_session


def test_the_silence_is_measured_from_the_latest_click_not_from_a_late_one() -> None:
    state, _ = fold([click(20 * MINUTE_MS), click(0), click(45 * MINUTE_MS)])
    assert state is not None
    assert state.click_count == 3


def test_a_session_that_grows_too_old_ends_and_a_new_one_starts() -> None:
    steps = [0, 20, 40, 60, 80]  # minutes; TIGHT ends a session after an hour
    state, became = fold([click(minutes * MINUTE_MS) for minutes in steps])
    assert became == ["applied"] * 5
    assert state is not None
    assert state.click_count == 1
    assert state.start_ms == START_MS + 80 * MINUTE_MS


def test_a_new_session_forgets_the_model_state_and_what_was_shown() -> None:
    state, _ = fold([click(0, event_id="e1")])
    assert state is not None
    answered = msgspec.structs.replace(
        state, shown_hashes=b"1234", shown_model_version="m1", model_version="m1", model_state=b"x"
    )
    fresh = advance(answered, click(31 * MINUTE_MS), offset=1, limits=TIGHT)
    assert isinstance(fresh, SessionState)
    assert (fresh.shown_hashes, fresh.shown_model_version) == (b"", "")
    assert (fresh.model_version, fresh.model_state) == ("", b"")


def test_within_a_session_the_models_part_is_carried_over() -> None:
    state, _ = fold([click(0)])
    assert state is not None
    answered = msgspec.structs.replace(
        state, shown_hashes=b"1234", shown_model_version="m1", model_version="m2", model_state=b"x"
    )
    after = advance(answered, click(1), offset=1, limits=TIGHT)
    assert isinstance(after, SessionState)
    assert (after.shown_hashes, after.shown_model_version) == (b"1234", "m1")
    assert (after.model_version, after.model_state) == ("m2", b"x")


def test_more_clicks_than_allowed_within_a_minute_are_a_bots() -> None:
    _, became = fold([click(i) for i in range(6)] + [click(MINUTE_MS)])
    assert became == ["applied"] * 4 + ["rate_limited"] * 2 + ["applied"]


def test_a_limited_click_changes_nothing_at_all() -> None:
    state, _ = fold([click(i) for i in range(4)])
    assert advance(state, click(5), offset=99, limits=TIGHT) == "rate_limited"


def test_late_clicks_do_not_reopen_the_bots_minute() -> None:
    log = [click(0), click(2 * MINUTE_MS), *[click(-i * MINUTE_MS) for i in range(5)]]
    _, became = fold(log)
    assert became == ["applied"] * 5 + ["rate_limited"] * 2


def test_an_event_sent_twice_counts_once() -> None:
    state, became = fold([click(0, event_id="e1"), click(5, "b"), click(9, event_id="e1")])
    assert became == ["applied", "applied", "duplicate"]
    assert state is not None
    assert state.click_count == 2


def test_clicks_without_an_event_id_are_never_duplicates() -> None:
    _, became = fold([click(0), click(0), click(0)])
    assert became == ["applied"] * 3


def test_only_the_newest_event_ids_are_remembered() -> None:
    log = [click(i, event_id=f"e{i}") for i in range(3)]
    _, became = fold([*log, log[1], log[2], log[0]], limits=SessionLimits(event_ids_max=2))
    assert became == ["applied"] * 3 + ["duplicate", "duplicate", "applied"]


def test_deduplication_can_be_switched_off() -> None:
    _, became = fold([click(0, event_id="e1")] * 3, limits=SessionLimits(event_ids_max=0))
    assert became == ["applied"] * 3


def test_an_event_hash_is_the_same_in_every_process() -> None:
    assert event_hash("e1") == 0x40F4FF5515E5D1B


def test_a_negative_offset_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="never negative"):
        advance(None, click(), offset=-1, limits=TIGHT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idle_gap_minutes", 0),
        ("idle_gap_minutes", float("nan")),
        ("age_hours_max", 0),
        ("age_hours_max", 1_001),
        ("clicks_per_minute_max", 0),
        ("clicks_per_minute_max", 65_536),
        ("history_len_max", 0),
        ("history_len_max", 256),
        ("event_ids_max", -1),
        ("event_ids_max", 256),
    ],
)
def test_limits_that_a_record_cannot_hold_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"session.{name}"):
        SessionLimits(**{name: value})

"""Session-parallel batches against a slow simulation with one slot object per row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.session_parallel import session_parallel
from stream_app.evaluation.sessions import SessionTable

lengths_of_sessions = st.lists(st.integers(2, 6), min_size=1, max_size=25)


def table(lengths: list[int]) -> SessionTable:
    """Sessions whose items are all different: 0, 1, 2, ... through the table."""
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    items = np.arange(starts[-1])
    return SessionTable(items, starts, items.copy())


@given(lengths_of_sessions, st.integers(1, 7))
def test_every_pair_of_neighbouring_clicks_comes_exactly_once(
    lengths: list[int], batch_size: int
) -> None:
    sessions = table(lengths)
    steps = list(session_parallel(sessions, batch_size))
    pairs = [
        pair
        for step in steps
        for pair in zip(step.inputs.tolist(), step.targets.tolist(), strict=True)
    ]
    starts = sessions.session_starts
    expected = [
        (click, click + 1)
        for s in range(sessions.n_sessions)
        for click in range(starts[s], starts[s + 1] - 1)
    ]
    assert sorted(pairs) == expected


@given(lengths_of_sessions, st.integers(1, 7))
def test_a_state_is_reset_exactly_once_and_before_its_sessions_first_step(
    lengths: list[int], batch_size: int
) -> None:
    """A row is marked fresh if and only if its input is a session's first click."""
    sessions = table(lengths)
    firsts = set(sessions.session_starts[:-1].tolist())
    for step in session_parallel(sessions, batch_size):
        fresh = set(step.inputs[step.fresh].tolist())
        assert fresh == set(step.inputs.tolist()) & firsts


@given(lengths_of_sessions, st.integers(1, 7))
def test_a_row_that_is_not_fresh_goes_on_with_its_own_session(
    lengths: list[int], batch_size: int
) -> None:
    """What a row carries over is the state after the click before, also when the batch shrinks."""
    carried = np.empty(0, dtype=np.int64)
    for step in session_parallel(table(lengths), batch_size):
        if step.kept is not None:
            carried = carried[step.kept]
        if len(carried):
            going_on = np.setdiff1d(np.arange(len(step.inputs)), step.fresh)
            assert np.array_equal(step.inputs[going_on], carried[going_on])
        carried = step.targets


@given(lengths_of_sessions, st.integers(1, 7))
def test_sessions_begin_in_table_order_and_slots_are_filled_until_none_is_left(
    lengths: list[int], batch_size: int
) -> None:
    sessions = table(lengths)
    begun: list[int] = []
    for step in session_parallel(sessions, batch_size):
        begun += step.inputs[step.fresh].tolist()
        if len(begun) < sessions.n_sessions:
            assert len(step.inputs) == batch_size
    assert begun == sessions.session_starts[:-1].tolist()


def test_no_sessions_give_no_steps() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert list(session_parallel(SessionTable(nothing, np.zeros(1, np.int64), nothing), 4)) == []

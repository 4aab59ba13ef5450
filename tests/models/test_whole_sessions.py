"""Batches of whole sessions: everything once, padded with what is the session's own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.whole_sessions import whole_sessions
from stream_app.evaluation.sessions import SessionTable


def table(lengths: list[int]) -> SessionTable:
    starts = np.cumsum([0, *lengths])
    return SessionTable(np.arange(starts[-1]), starts, np.zeros(starts[-1], dtype=np.int64))


@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=60),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_every_session_once_and_of_long_ones_the_end(
    lengths: list[int], batch_clicks: int, session_clicks_max: int, seed: int
) -> None:
    sessions = table(lengths)
    batches = whole_sessions(
        sessions,
        batch_clicks=batch_clicks,
        session_clicks_max=session_clicks_max,
        generator=np.random.default_rng(seed),
    )
    seen = []
    for batch in batches:
        assert batch.items.shape == (batch.lengths.max(), len(batch.lengths))
        for column, length in zip(batch.items.T, batch.lengths, strict=True):
            seen.append(column[:length].tolist())
            assert set(column[length:].tolist()) <= {column[0]}
    starts = sessions.session_starts
    expected = [
        list(range(max(start, end - session_clicks_max - 1), end))
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]
    assert sorted(seen) == expected


def test_batches_have_about_the_clicks_asked_for() -> None:
    batches = list(
        whole_sessions(
            table([2, 3, 4, 5] * 100),
            batch_clicks=50,
            session_clicks_max=20,
            generator=np.random.default_rng(0),
        )
    )
    sizes = sorted(batch.n_targets for batch in batches)
    assert sizes[len(sizes) // 2] in range(46, 55)
    assert sum(sizes) == 1000


def test_sessions_of_a_length_are_together() -> None:
    """Else most of a batch would be padding."""
    batches = whole_sessions(
        table([2] * 300 + [12] * 300),
        batch_clicks=40,
        session_clicks_max=20,
        generator=np.random.default_rng(0),
    )
    padded = [batch.items.size / (batch.n_targets + len(batch.lengths)) for batch in batches]
    assert np.mean(padded) < 1.3, "in random order it is 1.7"

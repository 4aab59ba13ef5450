"""Session tables from lists, and random ones, for the tests of evaluation."""

import numpy as np
from hypothesis import strategies as st

from stream_app.evaluation.next_clicks import NextClicks, all_next_clicks
from stream_app.evaluation.sessions import SessionTable

N_ITEMS = 12


def table(sessions: list[list[int]], *, ms_per_session: int = 1) -> SessionTable:
    """click_ms: the session's number times `ms_per_session`."""
    starts = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    numbers = np.repeat(np.arange(len(sessions), dtype=np.int64), np.diff(starts))
    return SessionTable(items, starts, numbers * ms_per_session)


def next_clicks(sessions: list[list[int]]) -> NextClicks:
    return all_next_clicks(table(sessions))


def random_sessions(seed: int, n: int = 80, *, n_items: int = N_ITEMS) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [(rng.zipf(1.5, rng.integers(1, 8)) % n_items).tolist() for _ in range(n)]


session_lists = st.lists(
    st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=6), min_size=1, max_size=12
)
"""Few items, so that they repeat within sessions and between them."""
asked_lists = st.lists(
    st.lists(st.integers(-1, N_ITEMS - 1), min_size=2, max_size=6), min_size=1, max_size=6
)
"""The same with unknown items among them."""

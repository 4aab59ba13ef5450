"""Recent popularity on held-out sessions, against the counts and lists that the worker answers from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.statistics import CountedClick, LocalPopularity
from stream_app.evaluation.recent_popularity import evaluate_recent_popularity
from stream_app.evaluation.sessions import SessionTable

HALF_LIFE_MS = 1000.0
N_ITEMS = 30


def table(sessions: list[list[tuple[int, int]]]) -> SessionTable:
    """sessions: (item index, time) pairs each."""
    clicks = [click for session in sessions for click in session]
    starts = np.cumsum([0, *(len(session) for session in sessions)])
    return SessionTable(
        np.array([item for item, _ in clicks], dtype=np.int64),
        starts.astype(np.int64),
        np.array([time for _, time in clicks], dtype=np.int64),
    )


def hits_as_served(clicks: SessionTable, held_out: SessionTable) -> int:
    """Next clicks found in the list that was served at the click before, counting click by click."""
    order = np.argsort(clicks.click_ms, kind="stable")
    popularity = LocalPopularity(HALF_LIFE_MS, 1000, ranked=N_ITEMS)
    views = {}
    for click in order.tolist():
        counted = CountedClick(f"{clicks.item_indexes[click]:03}", int(clicks.click_ms[click]))
        views[int(clicks.click_ms[click])] = popularity.fold([counted])
    hits = 0
    for start, end in zip(held_out.session_starts[:-1], held_out.session_starts[1:], strict=True):
        for position in range(int(start) + 1, int(end)):
            served = views[int(held_out.click_ms[position - 1])].top(20)
            wanted = f"{held_out.item_indexes[position]:03}"
            hits += wanted in {item.item_id for item in served}
    return hits


@given(st.data())
def test_recall_is_that_of_the_lists_a_worker_serves(data: st.DataObject) -> None:
    """All times differ and no two items weigh the same, so ties play no part."""
    n_clicks = data.draw(st.integers(40, 120))
    items = data.draw(st.lists(st.integers(0, N_ITEMS - 1), min_size=n_clicks, max_size=n_clicks))
    length = data.draw(st.integers(2, 5))
    n_old = data.draw(st.integers(0, n_clicks // 2))
    timed = [(item, 7_000 + 13 * number) for number, item in enumerate(items)]
    cut = [timed[i : i + length] for i in range(0, n_clicks, length)]
    old = [session for session in cut if session[0][1] < timed[n_old][1]]
    new = [session for session in cut if session[0][1] >= timed[n_old][1]]
    held_out = table([session for session in new if len(session) >= 2])
    clicks = table([*old, *new])
    quality = evaluate_recent_popularity(clicks, held_out, N_ITEMS, half_life_ms=HALF_LIFE_MS)
    assert quality.targets == held_out.n_targets
    if held_out.n_targets:
        expected = hits_as_served(clicks, held_out) / held_out.n_targets
        assert quality.recall_20 == pytest.approx(expected)


def test_it_learns_while_it_is_judged() -> None:
    """An item that nobody clicked before the cut is found once others click it."""
    old = [[(1, 10), (1, 20)]]
    fresh = [[(5, 1000 + i)] for i in range(5)]
    held_out = [[(2, 900), (5, 2000)], [(3, 1500), (5, 2100)]]
    quality = evaluate_recent_popularity(
        table([*old, held_out[0], *fresh, held_out[1]]),
        table(held_out),
        N_ITEMS,
        half_life_ms=HALF_LIFE_MS,
    )
    # At 900 item 5 was unknown; at 1500 it had five clicks and was first.
    assert (quality.recall_20, quality.mrr_20) == (0.5, 0.5)


def test_ties_count_against_it_and_unknown_items_are_misses() -> None:
    old = [[(1, 10), (2, 10)]]
    held_out = table([[(3, 1000), (1, 1001)], [(3, 1000), (-1, 1001)]])
    quality = evaluate_recent_popularity(
        table([*old, [(3, 1000), (1, 1001)], [(3, 1000), (-1, 1001)]]),
        held_out,
        N_ITEMS,
        half_life_ms=HALF_LIFE_MS,
    )
    assert quality.mrr_20 == pytest.approx(1 / 3 / 2)
    assert quality.cold_targets == 1

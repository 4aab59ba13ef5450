"""Every figure of a row, counted by hand."""

from collections.abc import Iterator

import numpy as np
import pytest

from stream_app.evaluation.judge import judge, session_intervals
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists
from tests.stream_app.evaluation.tables import next_clicks


class Fixed:
    """The same list for everyone."""

    name = "fixed"

    def __init__(self, items: list[int], n_items: int, *, skip: int = 0) -> None:
        self.items, self.skip = items, skip
        self.catalogue = np.ones(n_items, dtype=bool)

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        rows = np.arange(self.skip, asked.n_targets)
        items = np.array(self.items + [-1] * (k - len(self.items)))[:k]
        scores = np.where(items >= 0, -np.arange(k, dtype=float), -np.inf)
        yield Lists(rows, np.tile(items, (len(rows), 1)), np.tile(scores, (len(rows), 1)))


def test_a_row_is_counted_as_by_hand() -> None:
    """Targets 2, 3, -1 (cold), 0: ranks 1, 2, miss, miss."""
    asked = next_clicks([[1, 2, 3], [1, -1], [1, 0]])
    support = np.array([0, 4, 2, 1, 0])
    row = judge(Fixed([2, 3], 5), asked, support)
    assert (row.targets, row.cold_targets) == (4, 2), "unknown, and known but never clicked before"
    assert row.recall_5 == row.recall_20 == 0.5
    assert row.mrr_20 == pytest.approx((1 + 1 / 2) / 4)
    assert row.ndcg_20 == pytest.approx((1 + 1 / np.log2(3)) / 4)
    assert row.warm_recall_20 == 1.0
    assert row.warm_mrr_20 == pytest.approx(0.75)
    assert row.coverage_20 == pytest.approx(2 / 5)
    assert row.popularity_bias == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert row.recall_20_low <= row.recall_20 <= row.recall_20_high


def test_only_twenty_of_a_list_count() -> None:
    row = judge(Fixed(list(range(21)), 30), next_clicks([[1, 20], [1, 18]]), np.ones(30, np.int64))
    assert row.recall_20 == 0.5
    assert row.coverage_20 == pytest.approx(20 / 30)


def test_a_ranker_that_leaves_a_target_out_is_found_out() -> None:
    with pytest.raises(AssertionError, match="did not rank every target"):
        judge(Fixed([1], 3, skip=1), next_clicks([[1, 2, 0]]), np.ones(3, np.int64))


def test_intervals_resample_sessions_not_targets() -> None:
    """Sessions that are all hits or all misses: their number sets the width, not that of their targets."""
    n_sessions, length = 100, 25
    sessions = np.repeat(np.arange(n_sessions), length)
    ranks = np.where(sessions % 2 == 0, 1, 99)
    (low, high), mrr = session_intervals(ranks, sessions)
    by_sessions = 2 * 1.96 * 0.5 / np.sqrt(n_sessions)
    assert high - low == pytest.approx(by_sessions, rel=0.15)
    assert mrr == (low, high), "every hit is at rank 1"
    (low, high), _ = session_intervals(ranks, np.arange(len(ranks)))
    assert high - low == pytest.approx(by_sessions / np.sqrt(length), rel=0.15)


def test_intervals_are_the_same_every_time_and_weigh_sessions_by_their_targets() -> None:
    sessions = np.array([0, 0, 0, 1])
    ranks = np.array([1, 1, 1, 50])
    first = session_intervals(ranks, sessions)
    assert first == session_intervals(ranks, sessions)
    assert first[0] == (0.0, 1.0), "either session may be drawn twice"
    assert session_intervals(ranks[:3], sessions[:3])[0] == (1.0, 1.0)
    assert session_intervals(ranks[:0], sessions[:0]) == ((0.0, 0.0), (0.0, 0.0))

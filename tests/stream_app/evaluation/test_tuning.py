"""Tuning looks at the end of training, in order of time, and takes what does best there."""

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.metrics import RankingQuality
from stream_app.core.session_neighbours import SessionKNNConfig
from stream_app.evaluation.judge import quality_of
from stream_app.evaluation.session_knn import SessionKNNRanker
from stream_app.evaluation.tuning import (
    search,
    tune_item2vec,
    tune_recent_popularity,
    tune_session_knn,
    validation_part,
)
from tests.stream_app.evaluation.tables import N_ITEMS, random_sessions, table


@given(st.integers(0, 40), st.integers(1, 60))
def test_validation_is_the_end_and_everything_before_it_is_its_past(n: int, targets: int) -> None:
    train = table(random_sessions(n, n))
    past, held_out = validation_part(train, targets=targets)
    whole = train.at_least(2)
    joined = np.concatenate([past.item_indexes, held_out.sessions.item_indexes])
    np.testing.assert_array_equal(joined, whole.item_indexes)
    assert held_out.n_targets <= targets
    assert held_out.sessions.n_sessions <= 0.1 * whole.n_sessions + 1
    if past.n_sessions and held_out.n_targets:
        assert past.click_ms.max() < held_out.sessions.click_ms.min()


def test_what_a_session_under_way_clicked_later_is_in_neither_part() -> None:
    train = table([[1, 2]] * 20, ms_per_session=1000)
    train.click_ms[1] = 19_500  # the second click of the first session
    past, held_out = validation_part(train, targets=2)
    assert held_out.sessions.start_ms.tolist() == [18_000, 19_000]
    assert past.n_sessions == 18
    assert past.lengths.tolist() == [1] + [2] * 17


class Knobs(msgspec.Struct, frozen=True):
    a: int = 0
    b: int = 0


def test_search_climbs_one_parameter_after_the_other() -> None:
    tried: list[Knobs] = []

    def quality(knobs: Knobs) -> RankingQuality:
        tried.append(knobs)
        # Only together with a = 2 is b = 1 any good.
        value = knobs.a / 10 + (0.5 if knobs == Knobs(2, 1) else 0.0)
        return RankingQuality(targets=1, recall_5=0, recall_10=0, recall_20=value, mrr_20=0)

    assert search(Knobs(), {"a": (0, 1, 2), "b": (0, 1)}, quality) == Knobs(2, 1)
    assert len(tried) == len(set(map(str, tried))), "nothing is ranked twice"


def test_session_knn_learns_that_order_matters() -> None:
    """In every session the items rise by one: what came before the shared item never follows."""
    sessions = [[start, start + 1, start + 2] for start in range(N_ITEMS - 2)] * 40
    wrong = SessionKNNConfig(backward=1.0, self_weight=5.0)
    chosen = tune_session_knn(table(sessions), N_ITEMS, has_clock=False, start=wrong)
    assert chosen.self_weight < 1
    past, held_out = validation_part(table(sessions))
    before = quality_of(SessionKNNRanker(past, N_ITEMS, wrong), held_out)
    after = quality_of(SessionKNNRanker(past, N_ITEMS, chosen), held_out)
    assert before.mrr_20 < 0.5
    assert after.mrr_20 > 0.9


def test_recency_is_tried_only_where_there_is_a_clock() -> None:
    """Items change partners half-way through; only a clock can tell."""
    old, new = (
        [[i, (i + 5) % N_ITEMS] for i in range(N_ITEMS)],
        [[i, (i + 1) % N_ITEMS] for i in range(N_ITEMS)],
    )
    sessions = old * 20 + new * 4
    clocked = table(sessions, ms_per_session=10 * 60_000)
    assert tune_session_knn(clocked, N_ITEMS, has_clock=True).recency_half_life_ms is not None
    assert tune_session_knn(clocked, N_ITEMS, has_clock=False).recency_half_life_ms is None


def test_popularity_that_changes_quickly_gets_a_short_half_life() -> None:
    sessions = [[hour % N_ITEMS, hour % N_ITEMS] for hour in range(200) for _ in range(4)]
    train = table(sessions, ms_per_session=15 * 60_000)
    assert tune_recent_popularity(train, N_ITEMS) < 360 * 60_000


def test_item2vec_learns_whether_a_session_repeats_itself() -> None:
    vectors = np.eye(N_ITEMS, dtype=np.float32)
    known = np.ones(N_ITEMS, dtype=bool)
    repeats = tune_item2vec(table([[i % N_ITEMS] * 3 for i in range(100)]), vectors, known)
    assert repeats.seen_weight > 0


def test_too_little_to_tune_on_gives_the_defaults() -> None:
    assert tune_session_knn(table([[0, 1]]), N_ITEMS, has_clock=False) == SessionKNNConfig()

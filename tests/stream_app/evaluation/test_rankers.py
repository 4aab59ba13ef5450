"""Rankers that give lists, against the evaluations that know every rank and against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.metrics import RankingQuality
from stream_app.evaluation.baselines import (
    ItemKNNConfig,
    evaluate_item_knn,
    evaluate_popularity,
)
from stream_app.evaluation.item2vec_neighbours import Item2VecConfig, Item2VecRanker
from stream_app.evaluation.judge import quality_of
from stream_app.evaluation.next_clicks import NextClicks, all_next_clicks
from stream_app.evaluation.rankers import (
    ItemKNNRanker,
    PopularityRanker,
    Ranker,
    RecentPopularityRanker,
    best_of,
    best_of_rows,
)
from stream_app.evaluation.recent_popularity import evaluate_recent_popularity
from tests.stream_app.evaluation.tables import (
    N_ITEMS,
    asked_lists,
    next_clicks,
    random_sessions,
    session_lists,
    table,
)

WIDE = 60
"""A catalogue wider than a list."""


def collected(ranker: Ranker, asked: NextClicks, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All lists in the order of their targets."""
    items, scores = np.full((asked.n_targets, k), -2), np.full((asked.n_targets, k), np.nan)
    for part in ranker.lists(asked, k):
        assert (items[part.rows] == -2).all(), "each target once"
        items[part.rows], scores[part.rows] = part.items, part.scores
    assert (items > -2).all(), "no target left out"
    return items, scores


def same_figures(a: RankingQuality, b: RankingQuality) -> None:
    for figure in ("recall_5", "recall_10", "recall_20", "mrr_20", "ndcg_20"):
        assert getattr(a, figure) == pytest.approx(getattr(b, figure)), figure


@pytest.mark.parametrize("n_items", [N_ITEMS, WIDE])
def test_popularity_and_item_knn_are_the_ones_that_train_reports(n_items: int) -> None:
    train = table(random_sessions(0, n_items=n_items))
    test = table([*random_sessions(1, n_items=n_items), [-1, 2, -1, 3]])
    asked = all_next_clicks(test)
    ranker = PopularityRanker(train, n_items)
    same_figures(quality_of(ranker, asked), evaluate_popularity(train, test, n_items))
    config = ItemKNNConfig(window=3, distance_decay=0.7, backward=0.4, damping=0.3)
    knn = ItemKNNRanker(train, n_items, config)
    same_figures(quality_of(knn, asked), evaluate_item_knn(train, test, n_items, config))


def test_item_knn_that_learned_nothing_lists_nothing() -> None:
    ranker = ItemKNNRanker(table([[1], [2]]), N_ITEMS, ItemKNNConfig())
    items, scores = collected(ranker, next_clicks([[1, 2]]), 3)
    assert (items == -1).all()
    assert (scores == -np.inf).all()


@given(session_lists, st.integers(1, 6))
def test_recent_popularity_is_the_one_the_gate_uses(sessions: list[list[int]], cut: int) -> None:
    clicks = table(sessions, ms_per_session=700)
    held_out = clicks.select(np.arange(min(cut, clicks.n_sessions - 1), clicks.n_sessions))
    ranker = RecentPopularityRanker(clicks, N_ITEMS, half_life_ms=1000.0)
    expected = evaluate_recent_popularity(clicks, held_out, N_ITEMS, half_life_ms=1000.0)
    same_figures(quality_of(ranker, all_next_clicks(held_out)), expected)


def test_recent_popularity_takes_questions_in_any_order_of_time() -> None:
    """More questions than are answered together, those of later sessions first."""
    sessions = random_sessions(3, 1500, n_items=WIDE)
    clicks = table(sessions, ms_per_session=50)
    backwards = clicks.select(np.arange(clicks.n_sessions)[::-1])
    ranker = RecentPopularityRanker(clicks, WIDE, half_life_ms=5000.0)
    assert all_next_clicks(clicks).n_targets > 2048
    same_figures(
        quality_of(ranker, all_next_clicks(backwards)),
        quality_of(ranker, all_next_clicks(clicks)),
    )


@given(asked_lists, st.sampled_from((0.3, 1.0)), st.sampled_from((0.0, 0.8, 1.0)))
def test_item2vec_is_cosine_to_the_decayed_mean(
    sessions: list[list[int]], decay: float, seen_weight: float
) -> None:
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 4)).astype(np.float32)
    known = np.arange(N_ITEMS) != 3
    config = Item2VecConfig(decay=decay, seen_weight=seen_weight)
    asked = next_clicks(sessions)
    items, scores = collected(Item2VecRanker(vectors, known, config), asked, N_ITEMS)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    row = 0
    for session in sessions:
        for position in range(1, len(session)):
            prefix = session[:position]
            mean = sum(
                (
                    decay**back * unit[item]
                    for back, item in enumerate(reversed(prefix))
                    if item >= 0 and item != 3
                ),
                start=np.zeros(4),
            )
            if not mean.any():
                assert (items[row] == -1).all()
            else:
                cosine = unit @ (mean / np.linalg.norm(mean))
                seen = [item for item in set(prefix) if item >= 0]
                cosine[seen] = (1 + cosine[seen]) * seen_weight - 1
                cosine = np.where(known, cosine, -np.inf)
                np.testing.assert_allclose(scores[row, :-1], np.sort(cosine)[::-1][:-1], atol=1e-5)
                np.testing.assert_allclose(scores[row, :-1], cosine[items[row, :-1]], atol=1e-5)
                assert items[row, -1] == -1, "the unknown item is not listed"
            row += 1


@given(
    st.lists(st.sampled_from((-np.inf, 0.0, 1.0, 2.5)), min_size=1, max_size=8), st.integers(1, 9)
)
def test_best_of_is_a_sort_cut_off(scores: list[float], k: int) -> None:
    items, values = best_of(np.array(scores), k)
    finite = sorted((s for s in scores if s > -np.inf), reverse=True)[:k]
    assert values[: len(finite)].tolist() == finite
    assert (items[len(finite) :] == -1).all()
    assert [scores[i] for i in items[: len(finite)]] == finite
    rows_items, rows_values = best_of_rows(np.array([scores]), k)
    assert rows_values[0].tolist() == values.tolist()
    assert ((rows_items[0] == -1) == (items == -1)).all()

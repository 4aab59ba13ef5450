"""Ranks and quality against the slow and obvious way, ties included."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stream_app.core.metrics import conservative_ranks, quality_of_ranks, ranks_in_top

N_ITEMS = 9
few_values = st.sampled_from((-1.0, 0.0, 0.25, 0.5, 1.0))
tied_scores = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(N_ITEMS)), elements=few_values
)


def _targets(data: st.DataObject, n: int) -> np.ndarray:
    drawn = data.draw(st.lists(st.integers(0, N_ITEMS - 1), min_size=n, max_size=n))
    return np.array(drawn, dtype=np.int64)


def _worst_place(scores: np.ndarray, target: int) -> int:
    """Where the target ends up when a rival orders all ties, and orders them against us."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i == target))
    return order.index(target) + 1


@given(tied_scores, st.data())
def test_a_rank_is_the_worst_place_among_ties(scores: np.ndarray, data: st.DataObject) -> None:
    target = _targets(data, len(scores))
    expected = [_worst_place(row, t) for row, t in zip(scores.tolist(), target, strict=True)]
    assert conservative_ranks(scores, target).tolist() == expected


@given(tied_scores, st.integers(1, N_ITEMS), st.data())
def test_ranks_from_the_top_alone_agree_at_every_cut_below_it(
    scores: np.ndarray, k: int, data: st.DataObject
) -> None:
    """Whatever order the top-K left its ties in."""
    target = _targets(data, len(scores))
    shuffled = np.argsort(data.draw(arrays(np.float64, scores.shape, elements=st.floats(0, 1))))
    order = np.array(
        [
            sorted(row_order, key=lambda i: -row[i])
            for row_order, row in zip(shuffled, scores, strict=True)
        ]
    )[:, :k]
    top_scores = np.take_along_axis(scores, order, axis=1)

    found = ranks_in_top(top_scores, order, target)
    exact = conservative_ranks(scores, target)

    assert ((found == k + 1) | (found < k)).all()
    for cut in range(1, k):
        np.testing.assert_array_equal(found <= cut, exact <= cut)
    inside = exact < k
    np.testing.assert_array_equal(found[inside], exact[inside])


def test_a_model_that_scores_everything_alike_gets_no_credit() -> None:
    scores = np.zeros((4, N_ITEMS), dtype=np.float32)
    assert conservative_ranks(scores, np.arange(4)).tolist() == [N_ITEMS] * 4


@pytest.mark.parametrize("where", [0, 3])
def test_a_nan_anywhere_makes_the_row_a_miss_and_leaves_the_others(where: int) -> None:
    scores = np.tile(np.arange(N_ITEMS, dtype=np.float32), (2, 1))
    scores[0, where] = np.nan
    assert conservative_ranks(scores, np.array([3, 8])).tolist() == [N_ITEMS + 1, 1]


def test_a_nan_in_the_top_is_never_a_hit() -> None:
    top = np.array([[np.nan, 1.0, 0.5, 0.1]], dtype=np.float32)
    assert ranks_in_top(top, np.array([[3, 1, 2, 0]]), np.array([3])).tolist() == [5]


def test_infinite_scores_are_ranked_like_any_other() -> None:
    scores = np.array([[np.inf, 1.0, -np.inf]], dtype=np.float32)
    assert conservative_ranks(scores, np.array([0])).tolist() == [1]
    assert conservative_ranks(scores, np.array([2])).tolist() == [3]


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 20))
def test_quality_is_counted_as_by_hand(ranks: list[int], cold: int) -> None:
    quality = quality_of_ranks(np.array(ranks, dtype=np.int64), cold_targets=cold)
    total = len(ranks) + cold
    assert (quality.targets, quality.cold_targets) == (total, cold)
    for cut, recall in ((5, quality.recall_5), (10, quality.recall_10), (20, quality.recall_20)):
        assert recall == pytest.approx(sum(r <= cut for r in ranks) / total if total else 0)
    expected = sum(1 / r for r in ranks if r <= 20) / total if total else 0
    assert quality.mrr_20 == pytest.approx(expected)
    gain = sum(1 / math.log2(r + 1) for r in ranks if r <= 20) / total if total else 0
    assert quality.ndcg_20 == pytest.approx(gain)

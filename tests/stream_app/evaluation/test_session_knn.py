"""Session-kNN against the formula of its docstring, written down naively."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.session_neighbours import LEAST_WEIGHT, SessionKNNConfig
from stream_app.evaluation.session_knn import SessionKNNRanker
from tests.stream_app.evaluation.tables import (
    N_ITEMS,
    asked_lists,
    next_clicks,
    random_sessions,
    session_lists,
    table,
)
from tests.stream_app.evaluation.test_rankers import collected

configs = st.builds(
    SessionKNNConfig,
    neighbours=st.just(100),
    sessions=st.integers(1, 6),
    decay=st.sampled_from((0.7, 3.0)),
    idf=st.sampled_from((0.0, 0.5)),
    idf_shared=st.sampled_from((0.0, 1.0)),
    backward=st.sampled_from((0.0, 0.6)),
    self_weight=st.sampled_from((0.0, 2.0)),
    place_decay=st.sampled_from((1.0, 4.0)),
)


def similarities(
    past: list[list[int]], prefix: list[int], c: SessionKNNConfig
) -> dict[int, tuple[float, int]]:
    """Of every past session among the newest that share an item: similarity, newest shared item."""
    last_at = {item: place for place, item in enumerate(prefix) if item >= 0}
    oldest = len(prefix) - 1 + math.log(LEAST_WEIGHT) * c.decay
    last_at = {item: place for item, place in last_at.items() if place >= oldest}
    sharing = [n for n, session in enumerate(past) if set(session) & set(last_at)]
    found = {}
    for n in sharing[-c.sessions :]:
        shared = set(past[n]) & set(last_at)
        value = sum(
            math.exp(-(len(prefix) - 1 - last_at[i]) / c.decay) * idf(past, i) ** c.idf_shared
            for i in shared
        )
        found[n] = (value, max(shared, key=last_at.__getitem__))
    return found


def idf(past: list[list[int]], item: int) -> float:
    return math.log(1 + len(past) / max(1, sum(item in session for session in past)))


def votes(past: list[list[int]], prefix: list[int], c: SessionKNNConfig) -> dict[int, float]:
    scores: dict[int, float] = defaultdict(float)
    for n, (similarity, shared) in similarities(past, prefix, c).items():
        at = max(place for place, item in enumerate(past[n]) if item == shared)
        for place, item in enumerate(past[n]):
            if place == at:
                weight = c.self_weight
            else:
                weight = math.exp(-(abs(place - at) - 1) / c.place_decay)
                weight *= 1.0 if place > at else c.backward
            scores[item] += similarity * weight * idf(past, item) ** c.idf
    return {item: score for item, score in scores.items() if score > 0}


@given(session_lists, asked_lists, configs)
def test_scores_are_those_of_the_formula(
    past: list[list[int]], asked: list[list[int]], config: SessionKNNConfig
) -> None:
    ranker = SessionKNNRanker(table(past), N_ITEMS, config)
    items, scores = collected(ranker, next_clicks(asked), N_ITEMS)
    useful = [session for session in past if len(session) >= 2]
    row = 0
    for session in asked:
        for position in range(1, len(session)):
            expected = votes(useful, session[:position], config)
            listed = items[row] >= 0
            found = dict(zip(items[row][listed].tolist(), scores[row][listed], strict=True))
            assert found == pytest.approx(expected)
            assert (np.diff(scores[row][listed]) <= 0).all()
            row += 1


def test_only_the_most_similar_vote_and_of_equals_the_newest() -> None:
    past = table([[1, 2, 4], [1, 5], [1, 6]])
    config = SessionKNNConfig(neighbours=2)
    items, _ = collected(SessionKNNRanker(past, N_ITEMS, config), next_clicks([[2, 1, 0]]), 8)
    assert set(items[1]) - {-1} == {1, 2, 4, 6}, (
        "the one that shares two items, and the newest other"
    )


def test_only_the_newest_sessions_are_looked_at() -> None:
    past = table([[1, 5], [2, 4], [2, 6]])
    config = SessionKNNConfig(sessions=2)
    items, _ = collected(SessionKNNRanker(past, N_ITEMS, config), next_clicks([[1, 2, 0]]), 8)
    assert set(items[0]) - {-1} == {1, 5}
    assert set(items[1]) - {-1} == {2, 4, 6}


def test_an_old_session_fades_where_a_half_life_says_so() -> None:
    past = table([[1, 2], [1, 3]], ms_per_session=1000)
    asked = next_clicks([[1, 0]])
    asked.sessions.click_ms[:] = 3000
    config = SessionKNNConfig(recency_half_life_ms=500.0, self_weight=0.0)
    items, scores = collected(SessionKNNRanker(past, N_ITEMS, config), asked, 2)
    assert items.tolist() == [[3, 2]]
    assert scores[0, 0] / scores[0, 1] == pytest.approx(4)


def test_what_was_clicked_long_ago_does_not_count() -> None:
    config = SessionKNNConfig(decay=1.0)
    ranker = SessionKNNRanker(table([[1, 2], [3, 4]]), N_ITEMS, config)
    n = config.clicks_max
    for far, found in ((n, True), (n + 1, False)):
        session = [1, *[3] * (far - 1), 0]
        items, _ = collected(ranker, next_clicks([session]), 8)
        assert (2 in items[-1]) == found


def test_a_session_leaves_nothing_behind() -> None:
    ranker = SessionKNNRanker(table(random_sessions(6)), N_ITEMS, SessionKNNConfig())
    alone = collected(ranker, next_clicks([[3, 1, 2]]), 8)
    after_others = collected(ranker, next_clicks([*random_sessions(7, 5), [3, 1, 2]]), 8)
    np.testing.assert_array_equal(after_others[1][-2:], alone[1])


def test_nothing_learned_lists_nothing() -> None:
    ranker = SessionKNNRanker(table([[1]]), N_ITEMS, SessionKNNConfig())
    items, _ = collected(ranker, next_clicks([[1, 2]]), 3)
    assert (items == -1).all()


def test_impossible_parameters_are_refused() -> None:
    for wrong in ({"neighbours": 0}, {"sessions": 0}, {"decay": 0.0}, {"place_decay": -1.0}):
        with pytest.raises(ValueError, match="session-kNN"):
            SessionKNNConfig(**wrong)

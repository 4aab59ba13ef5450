"""Baselines against brute force, by the protocol the models are held to."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from stream_app.core.metrics import quality_of_ranks
from stream_app.evaluation.baselines import (
    ItemKNNConfig,
    evaluate_item_knn,
    evaluate_popularity,
    tune_item_knn,
)
from stream_app.evaluation.sessions import SessionTable

N_ITEMS = 30


def table(sessions: list[list[int]]) -> SessionTable:
    starts = np.cumsum([0, *map(len, sessions)])
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    return SessionTable(items, starts, np.repeat(np.arange(len(sessions)), np.diff(starts)))


def random_sessions(seed: int, n: int = 80) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [(rng.zipf(1.5, rng.integers(1, 8)) % N_ITEMS).tolist() for _ in range(n)]


def test_popularity_is_ranked_by_clicks_with_ties_against_it() -> None:
    train, test = random_sessions(0), random_sessions(1)
    counts = [sum(s.count(i) for s in train) for i in range(N_ITEMS)]
    ranks = [sum(count >= counts[target] for count in counts) for s in test for target in s[1:]]
    expected = quality_of_ranks(np.array(ranks))
    assert evaluate_popularity(table(train), table(test), N_ITEMS) == expected


@pytest.mark.parametrize(
    "config",
    [
        ItemKNNConfig(),
        ItemKNNConfig(window=2, distance_decay=0.5, backward=0.3, self_weight=0.2),
        ItemKNNConfig(backward=0.0, self_weight=0.0, damping=0.0),
    ],
)
def test_item_knn_is_ranked_as_by_hand(config: ItemKNNConfig) -> None:
    train, test = random_sessions(2), random_sessions(3)
    similarity: dict[tuple[int, int], float] = defaultdict(float)
    for s in train:
        for i, first in enumerate(s):
            for j in range(i + 1, min(i + config.window, len(s) - 1) + 1):
                weight = config.distance_decay ** (j - i - 1)
                if s[j] == first:
                    similarity[first, first] += weight * config.self_weight
                else:
                    similarity[first, s[j]] += weight
                    similarity[s[j], first] += weight * config.backward
    counts = [sum(s.count(i) for s in train) for i in range(N_ITEMS)]
    ranks = []
    for s in test:
        for clicked, target in itertools.pairwise(s):
            scores = [
                similarity[clicked, i] / (counts[i] + config.regularisation) ** config.damping
                for i in range(N_ITEMS)
            ]
            own = scores[target]
            ranks.append(sum(x >= own - 1e-12 for x in scores) if own > 0 else 10**9)
    expected = quality_of_ranks(np.array(ranks))
    actual = evaluate_item_knn(table(train), table(test), N_ITEMS, config)
    assert actual.recall_20 == pytest.approx(expected.recall_20)
    assert actual.recall_5 == pytest.approx(expected.recall_5)
    assert actual.mrr_20 == pytest.approx(expected.mrr_20)


def test_unknown_items_are_cold_targets_for_baselines_too() -> None:
    train, test = table([[0, 1], [0, 1]]), table([[0, -1], [-1, 1], [0, 1]])
    popularity = evaluate_popularity(train, test, 2)
    knn = evaluate_item_knn(train, test, 2)
    assert (popularity.cold_targets, knn.cold_targets) == (1, 1)
    assert popularity.recall_20 == pytest.approx(2 / 3)
    assert knn.recall_20 == pytest.approx(1 / 3), "after an unknown click kNN knows nothing"


def test_nothing_together_is_all_misses() -> None:
    quality = evaluate_item_knn(table([[0], [1]]), table([[0, 1]]), 2)
    assert quality.recall_20 == 0


def test_tuning_chooses_order_where_order_matters() -> None:
    """Items always come in one direction: looking backward only costs."""
    sessions = [[i, i + 1] for i in range(0, 28, 2)] * 30
    chosen = tune_item_knn(table(sessions), N_ITEMS)
    assert evaluate_item_knn(table(sessions), table(sessions), N_ITEMS, chosen).mrr_20 > 0.99


def test_too_few_sessions_to_tune_on_give_the_defaults() -> None:
    assert tune_item_knn(table([[0, 1]]), N_ITEMS) == ItemKNNConfig()

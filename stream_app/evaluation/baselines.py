"""What a trained model has to beat, ranked by the same protocol: popularity, and item-kNN."""

import itertools
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.errors import ConfigurationError
from stream_app.core.metrics import RankingQuality
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS, quality_with_cold, target_positions, targets_of

_TUNING_CLICKS: Final = 200_000
_GRID_DECAY: Final = (0.5, 0.8)
_GRID_BACKWARD: Final = (0.3, 0.7)
_GRID_SELF: Final = (0.2, 1.0)
_GRID_DAMPING: Final = (0.0, 0.3)

_PAIRS_MAX: Final = 20_000_000
"""Distinct pairs held before they are summed up: bounds memory on long logs."""


class ItemKNNConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Items that follow, or are followed by, the last clicked one in the training sessions."""

    window: int = 20
    """Clicks this far apart count as together."""
    distance_decay: float = 1.0
    """Weight of a pair d clicks apart: distance_decay ** (d - 1)."""
    backward: float = 1.0
    """Weight of pairs in the other order (the neighbour came first)."""
    self_weight: float = 1.0
    """Weight of an item following itself."""
    damping: float = 0.5
    """Sums are divided by (support + regularisation) ** damping of the neighbour; 0.5: the cosine."""
    regularisation: float = 20.0

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 < self.distance_decay <= 1 or self.regularisation < 0:
            raise ConfigurationError(
                "item-kNN: window must be at least 1, distance_decay above 0 and at most 1, "
                "regularisation at least 0"
            )


def evaluate_popularity(train: SessionTable, test: SessionTable, n_items: int) -> RankingQuality:
    """Every answer is the most clicked items of `train`; ties count against it."""
    support = train.support(n_items)
    ascending = np.sort(support)
    rank_of_item = n_items - np.searchsorted(ascending, support, side="left")
    targets = targets_of(test)
    ranks = np.where(targets >= 0, rank_of_item[np.maximum(targets, 0)], MISS)
    return quality_with_cold(ranks, test)


def evaluate_item_knn(
    train: SessionTable,
    test: SessionTable,
    n_items: int,
    config: ItemKNNConfig | None = None,
) -> RankingQuality:
    """Items most similar to the last clicked one (1511.06939, section 4, "Item-KNN").

    Items without a pair all score 0: a target among them is a miss, as ties count against us.
    """
    pairs, weights = _pair_weights(train, n_items, config or ItemKNNConfig())
    ranks_of_pairs = _ranks_within_rows(pairs // n_items, weights)
    positions = target_positions(test)
    clicked, target = test.item_indexes[positions - 1], test.item_indexes[positions]
    wanted = clicked * n_items + target
    found = np.searchsorted(pairs, wanted)
    hit = (clicked >= 0) & (target >= 0) & (found < len(pairs))
    hit[hit] = pairs[found[hit]] == wanted[hit]
    ranks = np.full(len(positions), MISS, dtype=np.int64)
    ranks[hit] = ranks_of_pairs[found[hit]]
    return quality_with_cold(ranks, test)


def item_neighbours(
    train: SessionTable, n_items: int, config: ItemKNNConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """What item-kNN learned as lists: starts int64 [n_items + 1], neighbours and their scores.

    Those of item `i` are `neighbours[starts[i] : starts[i + 1]]`, best first.
    """
    pairs, weights = _pair_weights(train, n_items, config)
    rows = pairs // n_items
    order = np.lexsort((-weights, rows))
    starts = np.searchsorted(rows, np.arange(n_items + 1))
    return starts, (pairs % n_items)[order], weights[order]


def tune_item_knn(train: SessionTable, n_items: int) -> ItemKNNConfig:
    """The best of a small grid on the newest tenth of the training sessions (Recall@20 + MRR@20).

    Looks at the newest `_TUNING_CLICKS` clicks only.  A baseline nobody tuned is beaten too easily.
    """
    recent = train.at_least(2)
    first = int(np.searchsorted(recent.session_starts, recent.n_clicks - _TUNING_CLICKS))
    cut = first + int(0.9 * (recent.n_sessions - first))
    past = recent.select(np.arange(first, cut))
    newest = recent.select(np.arange(cut, recent.n_sessions))
    if past.n_sessions == 0 or newest.n_sessions == 0:
        return ItemKNNConfig()
    grid = itertools.product(_GRID_DECAY, _GRID_BACKWARD, _GRID_SELF, _GRID_DAMPING)
    best, best_value = ItemKNNConfig(), -1.0
    for decay, backward, self_weight, damping in grid:
        config = ItemKNNConfig(
            window=10,
            distance_decay=decay,
            backward=backward,
            self_weight=self_weight,
            damping=damping,
        )
        quality = evaluate_item_knn(past, newest, n_items, config)
        value = quality.recall_20 + quality.mrr_20
        if value > best_value:
            best, best_value = config, value
    return best


def _pair_weights(
    sessions: SessionTable, n_items: int, config: ItemKNNConfig
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sorted pairs `clicked * n_items + neighbour` and the neighbour's score."""
    items = sessions.item_indexes
    session = np.repeat(np.arange(sessions.n_sessions), sessions.lengths)
    keys: list[NDArray[np.int64]] = []
    sums: list[NDArray[np.float64]] = []
    longest = int(sessions.lengths.max(initial=1))
    for distance in range(1, min(config.window, longest - 1) + 1):
        together = session[distance:] == session[:-distance]
        first, second = items[:-distance][together], items[distance:][together]
        known = (first >= 0) & (second >= 0)
        first, second = first[known], second[known]
        weight = config.distance_decay ** (distance - 1)
        same = first == second
        _add(keys, sums, first * n_items + second, np.where(same, config.self_weight, 1.0) * weight)
        if config.backward > 0:
            other = ~same
            back = second[other] * n_items + first[other]
            _add(keys, sums, back, np.full(len(back), config.backward * weight))
        if sum(map(len, keys)) > _PAIRS_MAX:
            pairs, totals = _summed(np.concatenate(keys), np.concatenate(sums))
            keys, sums = [pairs], [totals]
    if not keys:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    pairs, totals = _summed(np.concatenate(keys), np.concatenate(sums))
    popularity = sessions.support(n_items) + config.regularisation
    totals /= np.maximum(popularity[pairs % n_items], 1.0) ** config.damping
    useful = totals > 0
    return pairs[useful], totals[useful]


def _add(
    keys: list[NDArray[np.int64]],
    sums: list[NDArray[np.float64]],
    pairs: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> None:
    pairs, weights = _summed(pairs, weights)
    keys.append(pairs)
    sums.append(weights)


def _summed(
    pairs: NDArray[np.int64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    distinct, inverse = np.unique(pairs, return_inverse=True)
    totals = np.zeros(len(distinct))
    if len(distinct):
        totals += np.bincount(inverse, weights=weights)
    return distinct, totals


def _ranks_within_rows(rows: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Conservative rank of each entry among those of its row, from 1.  rows: sorted."""
    order = np.lexsort((-weights, rows))
    row, weight = rows[order], weights[order]
    row_start = np.searchsorted(row, row, side="left")
    last_of_tie = np.ones(len(row), dtype=bool)
    last_of_tie[:-1] = (row[1:] != row[:-1]) | (weight[1:] != weight[:-1])
    ends = np.flatnonzero(last_of_tie)
    tie_end = ends[np.searchsorted(ends, np.arange(len(row)))]
    ranks = np.empty(len(row), dtype=np.int64)
    ranks[order] = tie_end - row_start + 1
    return ranks

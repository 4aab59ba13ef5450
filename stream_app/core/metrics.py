"""Ranking quality.  One definition for training, the gate, `evaluate` and the live hit rate."""

import msgspec
import numpy as np
from numpy.typing import NDArray

CUT = 20
"""Length of list that every headline figure is cut at."""


class RankingQuality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality over `targets` next clicks; the share of them that no ranker could hit counts as missed."""

    targets: int
    recall_5: float
    recall_10: float
    recall_20: float
    mrr_20: float
    cold_targets: int = 0
    """Targets the model has no row for (counted as misses in every figure above)."""
    ndcg_20: float = 0.0
    """With one wanted item a list it is the mean of 1 / log2(rank + 1)."""


def conservative_ranks(
    scores: NDArray[np.floating], target: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Rank of each row's target among all items, ties counted against us.

    scores: [n, n_items]; target: int [n], an item index per row.  Returns int64 [n], from 1: the
    number of items that score at least as high as the target.  A NaN score anywhere in a row makes
    the row a miss (rank n_items + 1).  ("conservative" in Hidasi & Czapp 2023, 2307.14951, 4.3)

    >>> conservative_ranks(np.array([[0.1, 0.5, 0.5]]), np.array([1])).tolist()
    [2]
    """
    own = np.take_along_axis(scores, target[:, None], axis=1)
    ranks = (scores >= own).sum(axis=1, dtype=np.int64)
    worst: NDArray[np.int64] = np.where(np.isnan(scores).any(axis=1), scores.shape[1] + 1, ranks)
    return worst


def ranks_in_top(
    top_scores: NDArray[np.floating],
    top_indexes: NDArray[np.integer],
    target: NDArray[np.integer],
) -> NDArray[np.int64]:
    """The same from the best `k` items alone, exact for every cut below `k`.

    top_scores, top_indexes: [n, k], best first.  A target outside the list, or tied with the last
    of it (the tie may go on below), gets rank k + 1: a miss at every cut below k.

    >>> s = np.array([[0.9, 0.5, 0.5, 0.1]])
    >>> ranks_in_top(s, np.array([[3, 1, 2, 0]]), np.array([1])).tolist()
    [3]
    """
    k = top_scores.shape[1]
    match = top_indexes == target[:, None]
    own = np.where(match, top_scores, -np.inf).max(axis=1, initial=-np.inf)
    ranks = (top_scores >= own[:, None]).sum(axis=1, dtype=np.int64)
    lost = ~match.any(axis=1) | ~(own > top_scores[:, -1])
    conservative: NDArray[np.int64] = np.where(lost, k + 1, ranks)
    return conservative


def quality_of_ranks(ranks: NDArray[np.integer], *, cold_targets: int = 0) -> RankingQuality:
    """Recall@5/10/20, MRR@20, NDCG@20 of ranks (from 1), and `cold_targets` more that were all missed."""
    total = len(ranks) + cold_targets
    if total == 0:
        return RankingQuality(targets=0, recall_5=0.0, recall_10=0.0, recall_20=0.0, mrr_20=0.0)
    hits = ranks[ranks <= CUT]
    return RankingQuality(
        targets=total,
        recall_5=float((ranks <= 5).sum() / total),
        recall_10=float((ranks <= 10).sum() / total),
        recall_20=float(len(hits) / total),
        mrr_20=float((1.0 / hits).sum() / total),
        cold_targets=cold_targets,
        ndcg_20=float((1.0 / np.log2(hits + 1.0)).sum() / total),
    )

"""The evaluation loop: a ranker's lists against what was clicked, and every figure that comes of it."""

import time
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.metrics import CUT, RankingQuality, quality_of_ranks, ranks_in_top
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Ranker
from stream_app.evaluation.targets import MISS

RESAMPLES: Final = 1000
_DRAWN_TOGETHER: Final = 2**22


class JudgedRanker(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table of quality: all targets in every figure, but in the `warm_` ones."""

    name: str
    recall_5: float
    recall_10: float
    recall_20: float
    mrr_20: float
    ndcg_20: float
    coverage_20: float
    """Share of the ranker's catalogue that is in at least one list of 20."""
    popularity_bias: float
    """Mean popularity of the listed items, 0 for one never clicked in training to 1 for the most clicked
    (Ludewig & Jannach 2018, 1803.09587: average popularity of the top 20, scaled by the largest)."""
    recall_20_low: float
    """95 % interval: bootstrap over sessions."""
    recall_20_high: float
    mrr_20_low: float
    mrr_20_high: float
    targets: int
    cold_targets: int
    """Targets never clicked in training.  A ranker that learns while it is judged may hit some; to any other
    they are misses, and never dropped."""
    warm_recall_20: float
    warm_mrr_20: float
    seconds: float


def judge(ranker: Ranker, asked: NextClicks, support: NDArray[np.int64]) -> JudgedRanker:
    """Rank every target among the whole catalogue, ties counted against the ranker.

    support: clicks on each item in training, int64 [n_items].
    """
    targets = asked.targets
    began = time.perf_counter()
    ranks, listed, popularity = ranks_and_lists(ranker, asked, support)
    seconds = time.perf_counter() - began
    return judged(
        ranker.name,
        ranks,
        warm=(targets >= 0) & (support[np.maximum(targets, 0)] > 0),
        sessions=asked.session_numbers,
        coverage=float(listed.sum() / max(1, ranker.catalogue.sum())),
        popularity_bias=popularity,
        seconds=seconds,
    )


def judged(
    name: str,
    ranks: NDArray[np.int64],
    *,
    warm: NDArray[np.bool_],
    sessions: NDArray[np.int64],
    coverage: float,
    popularity_bias: float,
    seconds: float,
) -> JudgedRanker:
    """All figures of one rank per target.  warm, sessions: [n_targets], clicked before or not, and whose it is."""
    quality, warm_quality = quality_of_ranks(ranks), quality_of_ranks(ranks[warm])
    recall, mrr = session_intervals(ranks, sessions)
    return JudgedRanker(
        name=name,
        recall_5=quality.recall_5,
        recall_10=quality.recall_10,
        recall_20=quality.recall_20,
        mrr_20=quality.mrr_20,
        ndcg_20=quality.ndcg_20,
        coverage_20=coverage,
        popularity_bias=popularity_bias,
        recall_20_low=recall[0],
        recall_20_high=recall[1],
        mrr_20_low=mrr[0],
        mrr_20_high=mrr[1],
        targets=quality.targets,
        cold_targets=quality.targets - warm_quality.targets,
        warm_recall_20=warm_quality.recall_20,
        warm_mrr_20=warm_quality.mrr_20,
        seconds=round(seconds, 3),
    )


def quality_of(ranker: Ranker, asked: NextClicks) -> RankingQuality:
    """The figures of ranks alone: what tuning looks at."""
    ranks, _, _ = ranks_and_lists(ranker, asked, np.zeros(len(ranker.catalogue), dtype=np.int64))
    return quality_of_ranks(ranks)


def ranks_and_lists(
    ranker: Ranker, asked: NextClicks, support: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], float]:
    """Rank of each target int64 [n_targets] (exact up to 20), items listed at all [n_items], and the
    mean popularity of the listed ones.  Raises `AssertionError` if a target was left out."""
    targets = asked.targets
    ranks = np.zeros(asked.n_targets, dtype=np.int64)
    listed = np.zeros(len(support), dtype=bool)
    scaled = support / max(1, int(support.max(initial=0)))
    popularity, places = 0.0, 0
    for part in ranker.lists(asked, CUT + 1):
        target = targets[part.rows]
        found = ranks_in_top(part.scores, part.items, target)
        ranks[part.rows] = np.where(target >= 0, found, MISS)
        shown = part.items[:, :CUT]
        shown = shown[shown >= 0]
        listed[shown] = True
        popularity += float(scaled[shown].sum())
        places += len(shown)
    assert (ranks > 0).all(), f"{ranker.name} did not rank every target"
    return ranks, listed, popularity / max(1, places)


def session_intervals(
    ranks: NDArray[np.int64], sessions: NDArray[np.int64], *, resamples: int = RESAMPLES
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of Recall@20 and MRR@20: percentiles over samples of whole sessions.

    ranks, sessions: int64 [n_targets], rank and session of each target.  The targets of a session are
    not independent, so sessions are drawn with replacement, not targets (the cluster bootstrap; Davison
    & Hinkley 1997, section 3.8).  The same input gives the same interval.
    """
    if len(ranks) == 0:
        return (0.0, 0.0), (0.0, 0.0)
    _, session = np.unique(sessions, return_inverse=True)
    hit = ranks <= CUT
    gain = np.where(hit, 1.0 / np.maximum(ranks, 1), 0.0)
    sums = np.stack([np.bincount(session, weights=w) for w in (np.ones(len(ranks)), hit, gain)])
    n = sums.shape[1]
    rng = np.random.default_rng(20)
    figures = np.empty((resamples, 2))
    together = max(1, _DRAWN_TOGETHER // n)
    for first in range(0, resamples, together):
        drawn = rng.integers(0, n, size=(min(together, resamples - first), n))
        targets, hits, gains = (row[drawn].sum(axis=1) for row in sums)
        figures[first : first + together] = np.stack([hits / targets, gains / targets], axis=1)
    low, high = np.percentile(figures, [2.5, 97.5], axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))

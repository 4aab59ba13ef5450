"""Recent popularity as the worker serves it, on held-out sessions: what any model has to beat first."""

import numpy as np
from numpy.typing import NDArray

from stream_app.core.metrics import RankingQuality
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS, quality_with_cold, target_positions


def evaluate_recent_popularity(
    clicks: SessionTable, held_out: SessionTable, n_items: int, *, half_life_ms: float
) -> RankingQuality:
    """Every answer is the items with the largest decayed click counts at that moment.

    clicks: everything that was clicked, before the held-out sessions and during them (theirs included,
    and those of sessions that are not held out); counted in the order of their times, so that each next
    click is ranked by what was counted up to the click before it.  Ties count against popularity.
    Counts decay as in `core.statistics`: the key log2(count) + time / half-life does not depend on when
    it is looked at, and one more click at time t makes it log2(2^key + 2^(t / half-life)).
    """
    positions = target_positions(held_out)
    if len(positions) == 0:
        return quality_with_cold(np.empty(0, dtype=np.int64), held_out)
    start_ms = int(held_out.click_ms.min())
    known = clicks.item_indexes >= 0
    items, age = clicks.item_indexes[known], (clicks.click_ms[known] - start_ms) / half_life_ms
    keys = _keys_at_start(items[age < 0], age[age < 0], n_items)
    later = np.flatnonzero(age >= 0)
    later = later[np.argsort(age[later], kind="stable")]
    items, age = items[later], age[later]

    asked = (held_out.click_ms[positions - 1] - start_ms) / half_life_ms
    counted_until = np.searchsorted(age, asked, side="right")
    targets = held_out.item_indexes[positions]
    ranks = np.full(len(positions), MISS, dtype=np.int64)
    counted = 0
    for query in np.argsort(asked, kind="stable").tolist():
        for click in range(counted, int(counted_until[query])):
            keys[items[click]] = np.logaddexp2(keys[items[click]], age[click])
        counted = max(counted, int(counted_until[query]))
        key = keys[targets[query]] if targets[query] >= 0 else -np.inf
        if key > -np.inf:
            ranks[query] = np.count_nonzero(keys >= key)
    return quality_with_cold(ranks, held_out)


def _keys_at_start(
    items: NDArray[np.int64], age: NDArray[np.float64], n_items: int
) -> NDArray[np.float64]:
    """Keys from the clicks before the held-out sessions; -inf for an item never clicked."""
    counts = np.bincount(items, weights=np.exp2(age), minlength=n_items)
    keys = np.full(n_items, -np.inf)
    np.log2(counts, where=counts > 0, out=keys)
    return keys

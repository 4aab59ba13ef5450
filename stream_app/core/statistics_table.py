"""Item records in, version by version; views out.  The same for a worker, for offline use, and for a
process that counts for itself."""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from stream_app.core.item_store import ItemStore
from stream_app.core.pair_rows import Ints
from stream_app.core.statistics import RANKED_ITEMS_MAX, SessionClick
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_view import StatisticsView, VersionTotals


class StatisticsTable:
    """What was published under one recipe since counting began."""

    def __init__(
        self, recipe: StatisticsRecipe, *, began: int = 0, ranked: int = RANKED_ITEMS_MAX
    ) -> None:
        """began: records of an earlier version are passed over.  ranked: the longest list of the most popular that
        will be asked for."""
        self.recipe, self.began = recipe, began
        self._store = ItemStore(recipe)
        self._popular = _Ranking(self._store, 0, ranked)
        self._follow_ups = _Ranking(self._store, -1, ranked)
        self.refused = 0
        """Records that made no sense."""

    def __len__(self) -> int:
        return len(self._store.number_of)

    def apply(self, changes: Mapping[str, bytes | None], totals: VersionTotals) -> StatisticsView:
        """The version after these records."""
        changed, freed, refused = self._store.apply(changes, oldest_version=self.began)
        self.refused += refused
        self._popular.update(changed, freed)
        self._follow_ups.update(changed, freed)
        return StatisticsView(
            self.recipe,
            totals,
            self._store.snapshot(),
            self._popular.numbers,
            self._follow_ups.numbers,
        )


class _Ranking:
    """The first items by one popularity, kept up to date at the cost of what changed.

    A click only ever raises a key, so the new first `size` are among the old ones and the changed ones;
    only losing one of them makes a look at all items necessary.
    """

    def __init__(self, store: ItemStore, popularity: int, size: int) -> None:
        self._store, self._popularity, self._size = store, popularity, size
        self.numbers: Ints = np.zeros(0, dtype=np.int64)
        """Best first, ties by item id; never changed in place."""

    def update(self, changed: Ints, freed: Ints) -> None:
        keys = self._store.keys[self._popularity]
        if np.isin(self.numbers, freed).any():
            numbers = np.flatnonzero(keys > -np.inf)
        else:
            numbers = np.union1d(self.numbers, changed)
        found = keys[numbers]
        if len(numbers) > self._size:
            least = np.partition(found, len(found) - self._size)[len(found) - self._size]
            numbers, found = numbers[found >= least], found[found >= least]
        there = found > -np.inf
        numbers, found = numbers[there], found[there]
        order = np.argsort(-found, kind="stable")
        numbers, found = numbers[order], found[order]
        if (found[1:] == found[:-1]).any():
            ids = [self._store.ids[number] for number in numbers.tolist()]
            ranked = sorted(zip((-found).tolist(), ids, numbers.tolist(), strict=True))
            numbers = np.array([number for _, _, number in ranked], dtype=np.int64)
        self.numbers = numbers[: self._size]


class LocalStatistics:
    """Counts and table together, for one process that counts for itself (no aggregator, or offline)."""

    def __init__(
        self, recipe: StatisticsRecipe, *, partitions: int = 1, ranked: int = RANKED_ITEMS_MAX
    ) -> None:
        """partitions: of the click topic, see `StatisticsCounts`."""
        self.counts = StatisticsCounts(recipe, partitions=partitions)
        self._table = StatisticsTable(recipe, ranked=ranked)

    def fold(self, clicks: Iterable[SessionClick], *, version: int | None = None) -> StatisticsView:
        """Count one version's clicks, in ascending (partition, offset) order.

        version: what the view is called, above the last one; None for counts that were never published.
        """
        records = self.counts.fold(clicks, version=version or self.counts.version + 1)
        return self._table.apply(records, totals_of(self.counts, version))


def totals_of(counts: StatisticsCounts, version: int | None) -> VersionTotals:
    return VersionTotals(
        version,
        counts.totals.time_ms,
        tuple(counts.totals.values),
        counts.follow_up_total.values[0],
        counts.follow_up_total.time_ms,
    )


NOTHING_KNOWN: Final = LocalStatistics(StatisticsRecipe()).fold(())
"""Before anything was counted; its version is None."""

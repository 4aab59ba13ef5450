"""Everything the aggregator counts, folded version by version; what changed comes out as records.

The records are the state: rows and totals are rounded as they are published, so an aggregator that
starts from the topic, one that never stopped and an offline replay have the same bits.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.item_records import (
    encode_records,
    head_type,
    read_heads,
    row_begin,
    written_in,
)
from stream_app.core.pair_rows import Floats, Ints, NewPairs, decay, update_rows
from stream_app.core.recent_sessions import RecentSessions
from stream_app.core.statistics import DROPPED_SHARE, SessionClick
from stream_app.core.statistics_recipe import StatisticsRecipe

Records = dict[str, bytes | None]
"""New records by item id; None: dropped."""

NOBODY: Final = 2**62
"""`since` of a number that no item has."""


class DecayedTotals:
    """All clicks, at several half-lives."""

    def __init__(
        self, half_lives_ms: Sequence[float], values: Sequence[float], time_ms: int
    ) -> None:
        self._half_lives_ms = half_lives_ms
        self.values = list(values)
        self.time_ms = time_ms
        """Newest click, which `values` are as of; 0 before the first."""

    def add(self, times_ms: Ints) -> None:
        if not len(times_ms):
            return
        newest = max(self.time_ms, int(times_ms.max()))
        for h, half_life_ms in enumerate(self._half_lives_ms):
            added = math.fsum(decay(times_ms - newest, half_life_ms).tolist())
            self.values[h] = (
                self.values[h] * 2.0 ** ((self.time_ms - newest) / half_life_ms) + added
            )
        self.time_ms = newest


class StatisticsCounts:
    """Popularities, follow-ups and co-occurrence of at most `items_max` items after each fold.

    Items have numbers, the smallest that is free: rows name their neighbours by them.
    """

    def __init__(self, recipe: StatisticsRecipe, *, partitions: int = 1) -> None:
        """partitions: of the click topic; the sessions that are remembered are shared out among them."""
        self.recipe = recipe
        self.number_of: dict[str, int] = {}
        self.clicks = 0
        """Clicks ever counted."""
        self.version = 0
        """Last one folded."""
        self.totals = DecayedTotals(
            recipe.popularity_half_lives_ms, [0.0] * len(recipe.popularity_half_lives_ms), 0
        )
        self.follow_up_total = DecayedTotals([recipe.follow_up_half_life_ms], [0.0], 0)
        self.sessions = RecentSessions(
            positions=recipe.pair_positions,
            idle_gap_ms=recipe.idle_gap_ms,
            sessions_max=max(1, recipe.sessions_max // partitions),
        )
        self._ids: list[str] = []
        """By number; also of numbers that are free."""
        self._free: list[int] = []
        """Numbers below `len(_ids)` that nobody has; a heap."""
        self._rows: list[bytes] = []
        n_popularities, n_half_lives = (
            len(recipe.popularity_half_lives_ms),
            len(recipe.pair_half_lives_ms),
        )
        self._heads: NDArray[Any] = np.zeros(0, dtype=head_type(n_popularities, n_half_lives))
        """By number: the records' heads as they are."""
        self._since: Ints = np.zeros(0, dtype=np.int64)
        """By number; `NOBODY` where it is free."""

    def __len__(self) -> int:
        return len(self.number_of)

    @property
    def watermark_ms(self) -> int | None:
        """Newest time of a click."""
        return self.totals.time_ms or None

    # -- folding --------------------------------------------------------------------------------------

    def fold(self, clicks: Iterable[SessionClick], *, version: int) -> Records:
        """Count one version's clicks; the records of what changed, dropped items last.

        clicks: in ascending (partition, offset) order.  version: above the last one.
        """
        assert version > self.version, (version, self.version)
        self.version = version
        numbers: list[int] = []
        times_ms: list[int] = []
        follow_ups: list[int] = []
        pairs = NewPairs([], [], [], [])
        number_of, follow = self.number_of, self.sessions.follow
        for partition, offset, session_id, item_id, time_ms, remembered in clicks:
            if not remembered:
                self.sessions.forget(partition, session_id)
            if item_id is None:
                continue
            number = number_of.get(item_id)
            if number is None:
                number = self._new_number(item_id)
            numbers.append(number)
            times_ms.append(time_ms)
            if not remembered:
                continue
            # One string per item, not one per click: sessions keep it.
            before = follow(partition, offset, session_id, self._ids[number], time_ms)
            if not before:
                continue
            follow_ups.append(len(numbers) - 1)
            for distance, other_id in enumerate(reversed(before)):
                other = number_of.get(other_id)
                if other is not None:
                    pairs.before.append(other)
                    pairs.after.append(number)
                    pairs.distance.append(distance)
                    pairs.time_ms.append(time_ms)
        self.clicks += len(numbers)
        self._grow()
        changed = np.unique(np.array(numbers, dtype=np.int64))
        if len(changed):
            self._count(np.array(numbers), np.array(times_ms), np.array(follow_ups, dtype=np.int64))
        if pairs.before:
            changed = np.union1d(changed, self._pair(pairs))
        dropped = self._drop_least_popular()
        if dropped:
            changed = changed[self._since[changed] != NOBODY]
        self._heads["version"][changed] = version
        records: Records = self._records(changed)
        records.update(dict.fromkeys(dropped))
        return records

    def remember(self, click: SessionClick) -> None:
        """Follow a click that is counted already: see `RecentSessions.resume`."""
        number = self.number_of.get(click.item_id or "")
        if number is not None:
            click = click._replace(item_id=self._ids[number])
        self.sessions.take(click)

    def _new_number(self, item_id: str) -> int:
        if self._free:
            number = heapq.heappop(self._free)
            self._ids[number] = item_id
        else:
            number = len(self._ids)
            self._ids.append(item_id)
            self._rows.append(b"")
        self.number_of[item_id] = number
        return number

    def _grow(self) -> None:
        """Room for the numbers that are new; whoever has one of them has it since this version."""
        size = len(self._ids)
        if size > len(self._since):
            room = max(1024, 2 * len(self._since), size)
            heads = np.zeros(room, dtype=self._heads.dtype)
            heads[: len(self._heads)] = self._heads
            since = np.full(room, NOBODY, dtype=np.int64)
            since[: len(self._since)] = self._since
            self._heads, self._since = heads, since

    def _count(self, numbers: Ints, times_ms: Ints, follow_ups: Ints) -> None:
        """follow_ups: positions of the clicks that are."""
        new = np.unique(numbers[self._since[numbers] == NOBODY])
        self._since[new] = self.version
        self._heads[new] = np.zeros(1, dtype=self._heads.dtype)
        for number in new.tolist():
            self._rows[number] = b""
        heads = self._heads
        half_lives_ms = self.recipe.popularity_half_lives_ms
        self._add(heads["counts"], heads["time_ms"], half_lives_ms, numbers, times_ms)
        self.totals.add(times_ms)
        self._add(
            heads["follow_ups"][:, None],
            heads["follow_up_time_ms"],
            [self.recipe.follow_up_half_life_ms],
            numbers[follow_ups],
            times_ms[follow_ups],
        )
        self.follow_up_total.add(times_ms[follow_ups])

    @staticmethod
    def _add(
        counts: Floats,
        time_ms: Ints,
        half_lives_ms: Sequence[float],
        numbers: Ints,
        times_ms: Ints,
    ) -> None:
        """counts: [n_numbers, n_half_lives], as of `time_ms`: both changed in place."""
        changed, at = np.unique(numbers, return_inverse=True)
        newest = time_ms[changed]
        np.maximum.at(newest, at, times_ms)
        for h, half_life_ms in enumerate(half_lives_ms):
            kept = counts[changed, h] * decay(time_ms[changed] - newest, half_life_ms)
            added = decay(times_ms - newest[at], half_life_ms)
            counts[changed, h] = kept + np.bincount(at, added, len(changed))
        time_ms[changed] = newest

    def _pair(self, pairs: NewPairs) -> Ints:
        heads = self._heads
        rows = update_rows(
            pairs,
            self.recipe,
            row_time_ms=heads["row_time_ms"],
            row_version=heads["row_version"],
            row_totals=heads["row_totals"].T,
            since=self._since,
            blobs=self._rows,
        )
        heads["row_time_ms"][rows.numbers] = rows.time_ms
        heads["row_totals"][rows.numbers] = rows.totals.T
        heads["row_version"][rows.numbers] = self.version
        for number, blob in zip(rows.numbers.tolist(), rows.blobs, strict=True):
            self._rows[number] = blob
        return rows.numbers

    def _drop_least_popular(self) -> list[str]:
        if len(self.number_of) <= self.recipe.items_max:
            return []
        kept = self.recipe.items_max - int(self.recipe.items_max * DROPPED_SHARE)
        half_life_ms = self.recipe.popularity_half_lives_ms[0]
        numbers = np.fromiter(self.number_of.values(), dtype=np.int64)
        numbers.sort()
        ages = self._heads["time_ms"][numbers] / half_life_ms
        counts = self._heads["counts"][numbers, 0].tolist()
        keys = np.array([math.log2(count) for count in counts]) + ages
        order = np.lexsort((numbers, -keys))
        dropped = []
        for number in numbers[order[kept:]].tolist():
            dropped.append(self._ids[number])
            del self.number_of[self._ids[number]]
            self._rows[number] = b""
            self._since[number] = NOBODY
            heapq.heappush(self._free, number)
        return dropped

    # -- records --------------------------------------------------------------------------------------

    def _records(self, numbers: Ints) -> Records:
        heads = self._heads[numbers]
        heads["format"], heads["number"] = 2, numbers
        heads["n_popularities"] = len(self.recipe.popularity_half_lives_ms)
        heads["n_half_lives"] = len(self.recipe.pair_half_lives_ms)
        heads["since"] = self._since[numbers]
        rows = [self._rows[number] for number in numbers.tolist()]
        ids = [self._ids[number] for number in numbers.tolist()]
        return dict(zip(ids, encode_records(heads, rows), strict=True))

    def records(self) -> Records:
        """Of all items, by number."""
        return self._records(np.array(sorted(self.number_of.values()), dtype=np.int64))

    def restore(
        self, records: Mapping[str, bytes], *, version: int, oldest_version: int = 0
    ) -> int:
        """Take over what was published up to a version; how many records made no sense.

        Records of an earlier version than the oldest are passed over.  Totals, `clicks` and sessions are the
        caller's to set.
        """
        recipe = self.recipe
        records = {
            item_id: value
            for item_id, value in records.items()
            if written_in(value) >= oldest_version
        }
        ids, values = list(records), list(records.values())
        read = read_heads(
            values, len(recipe.popularity_half_lives_ms), len(recipe.pair_half_lives_ms)
        )
        heads, good = read.heads, np.flatnonzero(read.good)
        numbers = heads["number"].astype(np.int64)
        size = int(numbers.max(initial=-1)) + 1
        self._ids, self._rows = [""] * size, [b""] * size
        self._grow()
        for at, number in zip(good.tolist(), numbers.tolist(), strict=True):
            self._ids[number] = ids[at]
            self._rows[number] = values[at][row_begin(values[at]) :]
            self.number_of[ids[at]] = number
        self._heads[numbers] = heads
        self._since[numbers] = heads["since"]
        self._free = sorted(set(range(size)) - set(self.number_of.values()))
        self.version = version
        return len(records) - int(read.good.sum())

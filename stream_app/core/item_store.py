"""The item records as a reader keeps them: raw bytes per item, and two numbers of each in arrays.

One store is kept up to date in place.  A snapshot is a version of it: what changes afterwards is written
down beside it first (an undo), so that it stays what it was, costs nothing while it is the newest, and
needs no copy of a million items.

Safe for one thread that changes the store and others that read snapshots of it: a reader looks at the
store first and at the undo second, a writer writes them the other way round.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.item_records import head_type, read_heads, written_in
from stream_app.core.pair_rows import Floats, Ints
from stream_app.core.statistics_recipe import StatisticsRecipe

NOBODY: Final = 2**62
"""`since` of a number that no item has."""


@dataclass(slots=True)
class _Undo:
    """What a snapshot's store looked like, where it changed since."""

    number_of: dict[str, int | None] = field(default_factory=dict)
    records: dict[int, bytes] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)
    arrays: list[tuple[Ints, Ints, Floats]] = field(default_factory=list)
    """Per later version, oldest first: numbers (ascending), their `since`, their `keys`."""


class ItemStore:
    """Items by number.  keys: log2(count) + time / half-life, [popularities, then follow-ups; n_numbers];
    -inf where nothing was counted: the order of two items is that of their keys, whenever it is asked."""

    def __init__(self, recipe: StatisticsRecipe) -> None:
        half_lives_ms = (*recipe.popularity_half_lives_ms, recipe.follow_up_half_life_ms)
        self._half_lives_ms = np.array(half_lives_ms)
        self.n_popularities = len(recipe.popularity_half_lives_ms)
        self.n_half_lives = len(recipe.pair_half_lives_ms)
        self.head_bytes = head_type(self.n_popularities, self.n_half_lives).itemsize
        self.number_of: dict[str, int] = {}
        self.ids: list[str] = []
        self.records: list[bytes] = []
        self.since: Ints = np.zeros(0, dtype=np.int64)
        self.keys: Floats = np.zeros((len(half_lives_ms), 0))
        self.scratch: list[Floats] = []
        """Zeroed arrays as long as `since`, for whoever sums by number; put back zeroed."""
        self._snapshots: list[weakref.ref[Snapshot]] = []

    def snapshot(self) -> "Snapshot":
        """The store as it is now, for ever."""
        made = Snapshot(self)
        self._snapshots.append(weakref.ref(made))
        return made

    def apply(
        self, changes: Mapping[str, bytes | None], *, oldest_version: int = 0
    ) -> tuple[Ints, Ints, int]:
        """Take one version's records: numbers that changed, numbers that are free now, and how many records
        made no sense.  Records of an earlier version than the oldest are dropped items'."""
        changes = {
            item_id: value if value is not None and written_in(value) >= oldest_version else None
            for item_id, value in changes.items()
        }
        ids = [item_id for item_id, value in changes.items() if value is not None]
        values = [value for value in changes.values() if value is not None]
        read = read_heads(
            values, self.n_popularities, self.n_half_lives, n_items=len(self.number_of)
        )
        heads = read.heads
        good = np.flatnonzero(read.good)
        numbers = heads["number"].astype(np.int64)
        kept = dict(zip([ids[at] for at in good.tolist()], numbers.tolist(), strict=True))
        leaving = {
            item_id: number
            for item_id in changes
            if (number := self.number_of.get(item_id)) is not None and number != kept.get(item_id)
        }
        freed = np.array(list(leaving.values()), dtype=np.int64)
        self._remember(np.unique(np.concatenate([numbers, freed])), changes)

        for item_id, number in leaving.items():
            del self.number_of[item_id]
            self.records[number] = b""
        self.since[freed] = NOBODY
        self.keys[:, freed] = -np.inf
        self._grow(int(numbers.max(initial=-1)) + 1)
        for at, (item_id, number) in zip(good.tolist(), kept.items(), strict=True):
            self.number_of[item_id] = number
            self.ids[number] = item_id
            self.records[number] = values[at]
        self.since[numbers] = heads["since"]
        self.keys[:, numbers] = self._keys_of(heads)
        gone = freed[~np.isin(freed, numbers)]
        return np.unique(numbers), gone, int(len(values) - read.good.sum())

    def _keys_of(self, heads: NDArray[Any]) -> Floats:
        counts = np.vstack([heads["counts"].T, heads["follow_ups"]])
        times = np.empty(counts.shape)
        times[:-1] = heads["time_ms"]
        times[-1] = heads["follow_up_time_ms"]
        with np.errstate(divide="ignore"):
            keys: Floats = np.log2(counts) + times / self._half_lives_ms[:, None]
        return keys

    def _grow(self, size: int) -> None:
        if size > len(self.ids):
            self.ids += [""] * (size - len(self.ids))
            self.records += [b""] * (size - len(self.records))
        if size > len(self.since):
            room = max(1024, size, len(self.since) * 3 // 2)
            since = np.full(room, NOBODY, dtype=np.int64)
            since[: len(self.since)] = self.since
            keys = np.full((len(self.keys), room), -np.inf)
            keys[:, : self.keys.shape[1]] = self.keys
            self.since, self.keys, self.scratch = since, keys, []

    def _remember(self, numbers: Ints, changes: Mapping[str, bytes | None]) -> None:
        """Let the snapshots that anybody still has keep what is about to change."""
        alive = [(ref, snapshot) for ref in self._snapshots if (snapshot := ref()) is not None]
        self._snapshots = [ref for ref, _ in alive]
        if not alive:
            return
        there = numbers[numbers < len(self.ids)]
        known = there.tolist()
        arrays = (there, self.since[there], self.keys[:, there])
        number_of = {item_id: self.number_of.get(item_id) for item_id in changes}
        records = {number: self.records[number] for number in known}
        ids = {number: self.ids[number] for number in known}
        for _, snapshot in alive:
            undo = snapshot.undo or _Undo()
            undo.number_of = number_of | undo.number_of
            undo.records = records | undo.records
            undo.ids = ids | undo.ids
            undo.arrays.append(arrays)
            snapshot.undo = undo

    def borrow_scratch(self) -> Floats:
        """A zeroed array, as long as there are numbers at least.  Put it back into `scratch`, zeroed."""
        try:
            return self.scratch.pop()
        except IndexError:
            return np.zeros(len(self.since))


class Snapshot:
    """A store as it was at one moment."""

    __slots__ = ("__weakref__", "store", "undo")

    def __init__(self, store: ItemStore) -> None:
        self.store = store
        self.undo: _Undo | None = None
        """None: nothing changed since."""

    def number(self, item_id: str) -> int | None:
        found = self.store.number_of.get(item_id)
        undo = self.undo
        return found if undo is None else undo.number_of.get(item_id, found)

    def record(self, number: int) -> bytes:
        found = self.store.records[number]
        undo = self.undo
        return found if undo is None else undo.records.get(number, found)

    def ids(self, numbers: Sequence[int]) -> list[str]:
        ids = self.store.ids
        found = [ids[number] for number in numbers]
        undo = self.undo
        if undo is None:
            return found
        return [undo.ids.get(number, new) for number, new in zip(numbers, found, strict=True)]

    def since(self, numbers: Ints) -> Ints:
        """The version in which each number was given to the item that has it; `NOBODY` for free ones.

        numbers: from 0, of any size.
        """
        known = self.store.since
        found: Ints = known[np.minimum(numbers, len(known) - 1)]
        found[numbers >= len(known)] = NOBODY
        undo = self.undo
        if undo is not None:
            for changed, since, _ in reversed(undo.arrays):
                at, hit = _found_in(changed, numbers)
                found[hit] = since[at[hit]]
        return found

    def keys(self, numbers: Ints) -> Floats:
        """[n_popularities + 1, n]."""
        found: Floats = self.store.keys.take(numbers, axis=1)
        undo = self.undo
        if undo is not None:
            for changed, _, keys in reversed(undo.arrays):
                at, hit = _found_in(changed, numbers)
                found[:, hit] = keys[:, at[hit]]
        return found

    def keys_of(self, popularity: int, numbers: Ints) -> Floats:
        """One row of `keys`: [n]."""
        found: Floats = self.store.keys[popularity].take(numbers)
        undo = self.undo
        if undo is not None:
            for changed, _, keys in reversed(undo.arrays):
                at, hit = _found_in(changed, numbers)
                found[hit] = keys[popularity, at[hit]]
        return found


def _found_in(ascending: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where each wanted number is, and whether it is there at all."""
    at = np.searchsorted(ascending, wanted)
    hit = at < len(ascending)
    hit[hit] = ascending[at[hit]] == wanted[hit]
    return at, hit

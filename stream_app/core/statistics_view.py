"""What a worker answers from: popularity, and what follows what, as of one version of the statistics."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from stream_app.core.item_records import row_begin
from stream_app.core.item_store import Snapshot
from stream_app.core.pair_rows import Floats, Ints
from stream_app.core.ranking import round_significant
from stream_app.core.records import ScoredItem
from stream_app.core.statistics_recipe import StatisticsRecipe

_LOG_SHARE_MAX: Final = 1000.0
"""A forged record may claim more clicks of an item than a float can tell as a share."""
_ROW_HEAD: Final = struct.Struct("<I16xq")
"""At offset 16 of a record: version the row was written in, time it is as of."""


class VersionTotals(NamedTuple):
    """Of all items together, at one version."""

    version: int | None
    time_ms: int
    """Newest click; 0 before the first."""
    totals: tuple[float, ...]
    """Decayed count of all clicks at `time_ms`, by half-life."""
    follow_up_total: float
    """Decayed count of follow-up clicks at `follow_up_time_ms`."""
    follow_up_time_ms: int


@dataclass(frozen=True, slots=True)
class Row:
    """What co-occurs with an item, decayed to the version's newest click."""

    neighbours: Ints
    """Numbers, ascending."""
    share: Floats
    """[n]: sum over half-lives of w_h C_h(i, j) / (N_h(i) + prior)."""
    prior: float
    """Sum over half-lives of w_h prior / (N_h(i) + prior): how much is left to popularity."""
    counts: Floats
    """[n_half_lives, n]: C_h(i, j)."""
    totals: tuple[float, ...]
    """[n_half_lives]: N_h(i)."""


class StatisticsView:
    """The statistics at one version; never changes.  Implements `core.ports.Statistics`."""

    __slots__ = (
        "_bare",
        "_follow_up_key",
        "_lists",
        "_popular",
        "_rows",
        "_snapshot",
        "_total_keys",
        "follow_ups",
        "kept",
        "recipe",
        "totals",
        "version",
    )

    def __init__(
        self,
        recipe: StatisticsRecipe,
        totals: VersionTotals,
        snapshot: Snapshot,
        popular: Ints,
        follow_ups: Ints,
    ) -> None:
        """popular, follow_ups: numbers of the items ranked by all and by follow-up clicks, best first."""
        self.recipe, self.totals, self.version = recipe, totals, totals.version
        self._snapshot, self._popular, self.follow_ups = snapshot, popular, follow_ups
        half_lives_ms = recipe.popularity_half_lives_ms
        self._total_keys = np.array(
            [
                _key(total, totals.time_ms, half_life_ms)
                for total, half_life_ms in zip(totals.totals, half_lives_ms, strict=True)
            ]
        )
        self._follow_up_key = _key(
            totals.follow_up_total, totals.follow_up_time_ms, recipe.follow_up_half_life_ms
        )
        self._bare = sum(recipe.pair_weights)
        self._lists: dict[int, list[ScoredItem]] = {}
        self._rows: dict[int, Row] = {}
        self.kept: dict[int, Any] = {}
        """What a reader of this version looked up, by a number of his own; it must not refer to the view."""

    def __len__(self) -> int:
        return len(self._popular)

    # -- popularity -----------------------------------------------------------------------------------

    def top(self, k: int) -> Sequence[ScoredItem]:
        """Best `min(k, items known)`; score: the item's share of all decayed clicks, 5 digits.

        Ties by item id.  Made once per k.  At most the size the ranking was given can be asked for.
        """
        made = self._lists.get(k)
        if made is None:
            numbers = self._popular[:k]
            keys = self._snapshot.keys_of(0, numbers)
            scores = round_significant(_shares(keys - self._total_keys[0])).tolist()
            ids = self._snapshot.ids(numbers.tolist())
            made = list(map(ScoredItem, ids, scores, range(1, len(ids) + 1)))
            self._lists[k] = made
        return made

    def popular(self, n: int) -> Ints:
        """Numbers of the `n` most clicked items, best first."""
        return self._popular[:n]

    def number(self, item_id: str) -> int | None:
        """What rows call the item."""
        return self._snapshot.number(item_id)

    def ids(self, numbers: Sequence[int]) -> list[str]:
        return self._snapshot.ids(numbers)

    def follow_up_shares(self, numbers: Ints) -> Floats:
        """P(j): share of all decayed follow-up clicks, [n]."""
        keys = self._snapshot.keys_of(-1, numbers)
        return _shares(keys - self._follow_up_key)

    def log_popularities(self, numbers: Ints) -> Floats:
        """Natural logarithm of the share of all decayed clicks at each half-life (the plain one first), then
        of the follow-up clicks: [n, n_popularities + 1].  -inf: not counted."""
        keys = self._snapshot.keys(numbers).T
        keys[:, :-1] -= self._total_keys
        keys[:, -1] -= self._follow_up_key
        keys *= math.log(2)
        return keys

    # -- co-occurrence --------------------------------------------------------------------------------

    def row(self, item_id: str) -> Row | None:
        """None where nothing was ever seen beside the item.  Read once per version."""
        number = self._snapshot.number(item_id)
        if number is None:
            return None
        row = self._rows.get(number)
        if row is None:
            row = self._rows[number] = self._read_row(self._snapshot.record(number))
        return row if row.totals else None

    def _read_row(self, record: bytes) -> Row:
        n_half_lives = len(self.recipe.pair_half_lives_ms)
        begin = row_begin(record)
        n = (len(record) - begin) // (4 + 4 * n_half_lives)
        row_version, row_time_ms = _ROW_HEAD.unpack_from(record, 16)
        if not row_time_ms:
            return _NO_ROW
        totals = _floats(n_half_lives).unpack_from(record, begin - 4 * n_half_lives)
        ahead_ms = min(0, row_time_ms - self.totals.time_ms)
        neighbours = np.frombuffer(record, "<u4", n, begin).astype(np.int64)
        counts = np.frombuffer(record, "<f4", n * n_half_lives, begin + 4 * n)
        counts = counts.reshape(n_half_lives, n).astype(np.float64)
        sane = (np.diff(neighbours) > 0).all() and (counts >= 0).all() and np.isfinite(counts).all()
        if not sane:  # a stranger's work
            return _NO_ROW
        valid = self._snapshot.since(neighbours) <= row_version
        if not valid.all():  # their numbers are other items' by now
            neighbours, counts = neighbours[valid], counts[:, valid]
        share, prior, decayed = np.zeros(len(neighbours)), 0.0, []
        clicks = self.recipe.prior_clicks
        for h, weight in enumerate(self.recipe.pair_weights):
            factor = 2.0 ** (ahead_ms / self.recipe.pair_half_lives_ms[h])
            decayed.append(totals[h] * factor)
            counts[h] *= factor
            share += counts[h] * (weight / (decayed[h] + clicks))
            prior += weight * clicks / (decayed[h] + clicks)
        return Row(neighbours, share, prior, counts, tuple(decayed))

    def scored(
        self, recent_item_ids: Sequence[str], n_popular: int
    ) -> tuple[Ints, Floats, list[Row | None]] | None:
        """The neighbours of a session's last items, and the most popular follow-ups; None without any neighbour.

        recent_item_ids: oldest first.  Returns numbers [n] (each once, in no order), A(j) [n] and the rows
        of the last items, newest first.  All other items' A(j) is at most that of the last popular one:

            A(j) = sum over the last items l_k of decay^(k-1) sum_h w_h (C_h(l_k, j) + prior P(j)) / (N_h(l_k) + prior)
        """
        last = recent_item_ids[-self.recipe.pair_positions :][::-1]
        rows = [self.row(item_id) for item_id in last]
        if not any(row is not None and len(row.neighbours) for row in rows):
            return None
        store = self._snapshot.store
        scratch = store.borrow_scratch()
        found, prior = [], 0.0
        for row, weight in zip(rows, self.recipe.position_weights, strict=False):
            if row is None:
                prior += weight * self._bare
                continue
            prior += weight * row.prior
            summed = scratch[row.neighbours]
            found.append(row.neighbours[summed == 0])
            summed += weight * row.share
            scratch[row.neighbours] = summed
        popular = self.follow_ups[:n_popular]
        found.append(popular[scratch[popular] == 0])
        numbers = np.concatenate(found)
        scores: Floats = scratch[numbers] + prior * self.follow_up_shares(numbers)
        scratch[numbers] = 0
        if len(scratch) == len(store.since):
            store.scratch.append(scratch)
        return numbers, scores, rows

    def associated(
        self, sessions: Sequence[Sequence[str]], k: int
    ) -> list[list[ScoredItem] | None]:
        """For each session (its last items, oldest first) the best `k` of all items by A(j), as `scored` has it.

        None: nothing is known to follow its items.  Ties by item id; scores with 5 digits.  Where fewer
        than `k` items score anything, the most popular ones follow with a score of 0.
        """
        lists: list[list[tuple[float, str]] | None] = []
        for recent in sessions:
            scored = self.scored(recent, k)
            lists.append(None if scored is None else self._best(scored[0], scored[1], k))
        flat = [0.0 - score for best in lists if best is not None for score, _ in best]  # no -0.0
        rounded = round_significant(np.array(flat, dtype=np.float64)).tolist()
        made: list[list[ScoredItem] | None] = []
        begin, ranks = 0, range(1, k + 1)
        for best in lists:
            if best is None:
                made.append(None)
                continue
            end = begin + len(best)
            ids = [item_id for _, item_id in best]
            made.append(list(map(ScoredItem, ids, rounded[begin:end], ranks)))
            begin = end
        return made

    def _best(self, numbers: Ints, scores: Floats, k: int) -> list[tuple[float, str]]:
        """(-score, item id), best first."""
        if len(scores) > k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            chosen = scores >= least
            numbers, scores = numbers[chosen], scores[chosen]
        ids = self._snapshot.ids(numbers.tolist())
        best = sorted(zip((-scores).tolist(), ids, strict=True))[:k]
        best = [entry for entry in best if entry[0] < 0]
        if len(best) < k:
            known = {item_id for _, item_id in best}
            more = [item.item_id for item in self.top(k) if item.item_id not in known]
            best += [(0.0, item_id) for item_id in more[: k - len(best)]]
        return best


_NO_ROW: Final = Row(np.zeros(0, dtype=np.int64), np.zeros(0), 0.0, np.zeros((0, 0)), ())


@cache
def _floats(n: int) -> struct.Struct:
    return struct.Struct(f"<{n}f")


def _shares(log2: Floats) -> Floats:
    shares: Floats = np.exp2(np.minimum(log2, _LOG_SHARE_MAX))
    return shares


def _key(total: float, time_ms: int, half_life_ms: float) -> float:
    return math.log2(total) + time_ms / half_life_ms if total > 0 else 0.0

"""Co-occurrence rows: per item the items of the next and previous clicks, with decaying counts.

A row is kept as it is published, and what is published is rounded: so whoever reads the rows back goes
on with the very same bits.  All rows of a version are brought up to date together, in numpy; sums are
added in click order (`bincount`), powers come from the C library, so no float depends on the vector
instructions of the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.statistics_recipe import StatisticsRecipe

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PAIR_FLOOR: Final = 2.0**-10
"""A neighbour whose counts are all below this is forgotten when its row changes."""
WIDE_ROW: Final = 512
"""Rows with more candidates than this are cut one by one: one of them would widen the table of all."""
_LOW: Final = 0xFFFF_FFFF


def decay(ahead_ms: NDArray[np.integer], half_life_ms: float) -> Floats:
    """2 ** (ahead / half-life), any 1-D length; ahead: 0 or negative, ms.

    The C library's power: numpy's own differs in the last bit between processors.
    """
    return np.array([2.0**x for x in (ahead_ms / half_life_ms).tolist()], dtype=np.float64)


@dataclass(slots=True)
class NewPairs:
    """Pairs of one version in click order, by item number, forward ones only."""

    before: list[int]
    after: list[int]
    distance: list[int]
    """Positions apart, less one."""
    time_ms: list[int]
    """Of the click on `after`."""


@dataclass(slots=True)
class ChangedRows:
    """Rows after a version, ascending by item number."""

    numbers: Ints
    time_ms: Ints
    totals: NDArray[np.float32]
    """[n_half_lives, n_rows]: all weights ever added to a row, decayed, also of neighbours that are not kept."""
    blobs: list[bytes]
    """`neighbours` uint32 ascending, then float32 counts, a half-life after the other; little-endian."""


def neighbours_of(blob_bytes: int, n_half_lives: int) -> int:
    """Neighbours in a row of so many bytes."""
    return blob_bytes // (4 + 4 * n_half_lives)


def split_blobs(
    blobs: Sequence[bytes], n_half_lives: int
) -> tuple[Ints, Ints, NDArray[np.float32]]:
    """Rows laid out one after the other: position of the row [n], neighbour [n], counts [n_half_lives, n]."""
    words = np.frombuffer(b"".join(blobs), dtype="<u4")
    lengths = np.array([len(blob) for blob in blobs], dtype=np.int64)
    sizes = lengths // (4 + 4 * n_half_lives)
    rows = np.repeat(np.arange(len(blobs)), sizes)
    begins = np.cumsum(lengths // 4) - lengths // 4
    within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at = begins[rows] + within
    step = sizes[rows]
    counts = words.view("<f4")
    return (
        rows,
        words[at].astype(np.int64),
        np.stack([counts[at + step * (h + 1)] for h in range(n_half_lives)]).astype(np.float32),
    )


def update_rows(
    pairs: NewPairs,
    recipe: StatisticsRecipe,
    *,
    row_time_ms: Ints,
    row_version: Ints,
    row_totals: Floats,
    since: Ints,
    blobs: Sequence[bytes],
) -> ChangedRows:
    """The rows that the pairs change.

    row_time_ms, row_version, since: [n_numbers]; row_totals: [n_half_lives, n_numbers]; blobs by number.
    A neighbour whose number was given to another item after the row was written (`since` above
    `row_version`) is forgotten.
    """
    forward = np.array(
        [pairs.before, pairs.after, pairs.distance, pairs.time_ms], dtype=np.int64
    ).reshape(4, -1)
    weight_of = np.array(recipe.position_weights)
    weights = weight_of[forward[2]]
    source, target, time_ms = forward[0], forward[1], forward[3]
    if recipe.pair_backward > 0:
        # An item clicked again follows itself, and reads backward no other way.
        back = np.flatnonzero(source != target)
        source, target = (
            np.concatenate([source, target[back]]),
            np.concatenate([target, source[back]]),
        )
        time_ms = np.concatenate([time_ms, time_ms[back]])
        weights = np.concatenate([weights, weights[back] * recipe.pair_backward])
    numbers, row = np.unique(source, return_inverse=True)
    newest = row_time_ms[numbers]
    np.maximum.at(newest, row, time_ms)
    factors = [decay(row_time_ms[numbers] - newest, h) for h in recipe.pair_half_lives_ms]
    added = [weights * decay(time_ms - newest[row], h) for h in recipe.pair_half_lives_ms]
    totals = np.stack(
        [
            row_totals[h, numbers] * factors[h] + np.bincount(row, added[h], len(numbers))
            for h in range(len(factors))
        ]
    ).astype(np.float32)

    old_blobs = [blobs[number] for number in numbers.tolist()]
    old_row, old_target, old_counts = split_blobs(old_blobs, len(factors))
    valid = old_target < len(since)  # the rest is a stranger's work
    valid[valid] = since[old_target[valid]] <= row_version[numbers][old_row[valid]]
    old_row, old_target = old_row[valid], old_target[valid]
    counts = [old_counts[h, valid] * factors[h][old_row] for h in range(len(factors))]
    keys = old_row << 32 | old_target

    new_keys, pair_key = np.unique(row << 32 | target, return_inverse=True)
    sums = [np.bincount(pair_key, added[h], len(new_keys)) for h in range(len(factors))]
    at = np.searchsorted(keys, new_keys)
    known = np.zeros(len(new_keys), dtype=bool)
    inside = at < len(keys)
    known[inside] = keys[at[inside]] == new_keys[inside]
    for h in range(len(factors)):
        counts[h][at[known]] += sums[h][known]
        counts[h] = np.insert(counts[h], at[~known], sums[h][~known])
    keys = np.insert(keys, at[~known], new_keys[~known])

    rounded = np.stack(counts).astype(np.float32)
    kept = (rounded >= PAIR_FLOOR).any(axis=0)
    keys, rounded = keys[kept], rounded[:, kept]
    kept = _best(keys >> 32, rounded, totals, recipe)
    return _packed(numbers, newest, totals, keys[kept], rounded[:, kept])


def mixed(
    counts: NDArray[np.floating], totals: NDArray[np.floating], recipe: StatisticsRecipe
) -> Floats:
    """Share of a row's clicks that go to a neighbour, over all half-lives: [n].  counts: [n_half_lives, n]."""
    score = np.zeros(counts.shape[1])
    for h, weight in enumerate(recipe.pair_weights):
        score += counts[h].astype(np.float64) * (
            weight / (totals[h].astype(np.float64) + recipe.prior_clicks)
        )
    return score


def _best(
    row: Ints, counts: NDArray[np.float32], totals: NDArray[np.float32], recipe: StatisticsRecipe
) -> NDArray[np.bool_]:
    """Which entries are among the first of their row by score; of equal ones the lower numbers.

    row: ascending [n]; within a row entries ascend by number.
    """
    sizes = np.bincount(row, minlength=totals.shape[1])
    kept = np.ones(len(row), dtype=bool)
    n_kept = recipe.neighbours_max
    if sizes.max(initial=0) <= n_kept:
        return kept
    score = mixed(counts, totals[:, row], recipe)
    begins = np.cumsum(sizes) - sizes
    for wide in np.flatnonzero(sizes > max(WIDE_ROW, n_kept)).tolist():
        entries = slice(begins[wide], begins[wide] + sizes[wide])
        kept[entries] = _first(score[None, entries], n_kept)[0]
    narrow = np.flatnonzero((sizes > n_kept) & (sizes <= max(WIDE_ROW, n_kept)))
    if len(narrow):
        width = int(sizes[narrow].max())
        column = np.arange(width)
        there = column < sizes[narrow, None]
        at = np.where(there, begins[narrow, None] + column, 0)
        table = np.where(there, score[at], -1.0)
        kept[at[there]] = _first(table, n_kept)[there]
    return kept


def _first(table: Floats, n_kept: int) -> NDArray[np.bool_]:
    """The largest `n_kept` of each row, of equal ones the leftmost."""
    least = np.partition(table, -n_kept, axis=1)[:, -n_kept, None]
    above, equal = table > least, table == least
    room = n_kept - above.sum(axis=1, keepdims=True)
    first: NDArray[np.bool_] = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return first


def _packed(
    numbers: Ints,
    time_ms: Ints,
    totals: NDArray[np.float32],
    keys: Ints,
    counts: NDArray[np.float32],
) -> ChangedRows:
    ends = (np.cumsum(np.bincount(keys >> 32, minlength=len(numbers))) * 4).tolist()
    parts = [(keys & _LOW).astype("<u4").tobytes()]
    parts += [count.astype("<f4", copy=False).tobytes() for count in counts]
    begins = [0, *ends[:-1]]
    blobs = [
        b"".join([part[begin:end] for part in parts])
        for begin, end in zip(begins, ends, strict=True)
    ]
    return ChangedRows(numbers, time_ms, totals, blobs)

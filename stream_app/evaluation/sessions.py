"""Click tables -> sessions as flat arrays; split by time, never at random."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.session import SessionLimits
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.session_cut import session_numbers

MADE_UP_START_MS: Final = 1_000_000_000_000
UNKNOWN: Final = -1
"""Item index of a click on an item outside the vocabulary."""


@dataclass(frozen=True, slots=True, eq=False)
class SessionTable:
    """Sessions in the order of their first event, each one's clicks in order.

    item_indexes: int64 [n_clicks], `UNKNOWN` (-1) where the vocabulary lacks the item.
    session_starts: int64 [n_sessions + 1]; session `s` is `item_indexes[starts[s] : starts[s + 1]]`.
    click_ms: int64 [n_clicks], event times; in a file without a clock, the session's number.
    """

    item_indexes: NDArray[np.int64]
    session_starts: NDArray[np.int64]
    click_ms: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert len(self.session_starts) >= 1, "session_starts holds the end of the last session"
        assert self.session_starts[-1] == len(self.item_indexes) == len(self.click_ms)

    @property
    def n_sessions(self) -> int:
        return len(self.session_starts) - 1

    @property
    def n_clicks(self) -> int:
        return len(self.item_indexes)

    @property
    def n_targets(self) -> int:
        """Next clicks to predict: every position from a session's second."""
        return int(np.maximum(self.lengths - 1, 0).sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Clicks of each session, int64 [n_sessions]."""
        return np.diff(self.session_starts)

    @property
    def start_ms(self) -> NDArray[np.int64]:
        """Event time of each session's first click, int64 [n_sessions]."""
        return self.click_ms[self.session_starts[:-1]]

    def support(self, n_items: int) -> NDArray[np.int64]:
        """Clicks on each item, int64 [n_items]; unknown items are left out."""
        known = self.item_indexes[self.item_indexes >= 0]
        return np.bincount(known, minlength=n_items).astype(np.int64, copy=False)

    def select(self, sessions: NDArray[np.int64]) -> "SessionTable":
        """These sessions, by number, in the order given."""
        lengths = self.lengths[sessions]
        starts = np.zeros(len(sessions) + 1, dtype=np.int64)
        np.cumsum(lengths, out=starts[1:])
        shift = np.repeat(self.session_starts[:-1][sessions] - starts[:-1], lengths)
        clicks = np.arange(starts[-1], dtype=np.int64) + shift
        return SessionTable(self.item_indexes[clicks], starts, self.click_ms[clicks])

    def at_least(self, n_clicks: int) -> "SessionTable":
        """Without the sessions shorter than `n_clicks`; a session of one click has no next click."""
        long_enough = self.lengths >= n_clicks
        return self if long_enough.all() else self.select(np.flatnonzero(long_enough))

    def known_only(self) -> "SessionTable":
        """Without clicks on unknown items (training cannot learn from them)."""
        known = self.item_indexes >= 0
        if known.all():
            return self
        ends = np.concatenate(([0], np.cumsum(known)))[self.session_starts].astype(np.int64)
        kept = SessionTable(self.item_indexes[known], ends, self.click_ms[known])
        return kept.at_least(1)

    def split_at(self, cut_ms: int) -> "tuple[SessionTable, SessionTable]":
        """What was known at `cut_ms`, and the sessions that start then or later.

        A session that is under way at the cut is cut off there: its clicks so far are the past, and
        the rest is in neither part, since a test session must start with an empty state.
        """
        ordinal = np.repeat(np.arange(self.n_sessions), self.lengths)
        begun_before = self.start_ms < cut_ms
        past = begun_before[ordinal] & (self.click_ms < cut_ms)
        lengths = np.bincount(ordinal[past], minlength=self.n_sessions)[begun_before]
        starts = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=starts[1:])
        train = SessionTable(self.item_indexes[past], starts, self.click_ms[past])
        return train, self.select(np.flatnonzero(~begun_before))

    def start_of_newest(self, share: float) -> int:
        """Start (ms) of the first session of the newest `share` of them (0 < share < 1)."""
        if not 0 < share < 1:
            raise ConfigurationError(f"the held-out share is {share}, it must be between 0 and 1")
        assert self.n_sessions, "no sessions, no newest ones"
        return int(self.start_ms[min(int(self.n_sessions * (1 - share)), self.n_sessions - 1)])

    def split_newest(self, share: float) -> "tuple[SessionTable, SessionTable]":
        """`split_at` the start of the newest `share` of the sessions (0 < share < 1).

        Sessions that start in the same millisecond stay together on the later side.
        """
        return self.split_at(self.start_of_newest(share)) if self.n_sessions else (self, self)


def with_made_up_clock(sessions: SessionTable) -> SessionTable:
    """Sessions of a file without a clock, one a second: statistics can count them."""
    times = MADE_UP_START_MS + 1000 * sessions.click_ms
    return SessionTable(sessions.item_indexes, sessions.session_starts, times)


def vocabulary_of_clicks(clicks: pa.Table, known: ItemVocabulary | None = None) -> ItemVocabulary:
    """The items of a click table in order of first appearance, after those already `known`."""
    seen = _item_strings(clicks).unique().to_pylist()
    return ItemVocabulary(seen) if known is None else known.extended(seen)


def sessions_of_clicks(
    clicks: pa.Table, vocabulary: ItemVocabulary, *, limits: SessionLimits | None = None
) -> SessionTable:
    """Sessions of a click table, cut exactly as the worker cuts them (`core.session.advance`).

    clicks: session_id, item_id (string), event_time_ms (int64), and optionally event_id, rows in
    the order in which they arrived.  Deduplication and the bot limit apply as online.
    """
    n = clicks.num_rows
    times = _int64(clicks, "event_time_ms")
    codes = _codes(clicks["session_id"])
    events = _codes(clicks["event_id"]) if "event_id" in clicks.column_names else None
    numbers = session_numbers(codes, times, events, limits or SessionLimits())
    kept = np.flatnonzero(numbers >= 0)
    kept = kept[np.argsort(numbers[kept], kind="stable")]
    numbers = numbers[kept]
    first = np.flatnonzero(np.diff(numbers, prepend=-1)) if len(kept) else np.empty(0, np.int64)
    by_start = np.argsort(times[kept[first]], kind="stable")
    starts = np.append(first, len(kept)).astype(np.int64)
    items = item_indexes(clicks, vocabulary) if n else np.empty(0, np.int64)
    return SessionTable(items[kept], starts, times[kept]).select(by_start)


def sessions_of_sequences(
    sequences: pa.Table, vocabulary: ItemVocabulary, *, split: str | None = None
) -> SessionTable:
    """Sessions of a benchmark table (session_id, item_id, position, split), in the file's order.

    split: only this one's (`train`, `test`).  The file has no clock, so `click_ms` is the session's
    number in the file, which is its order in time.
    """
    if split is not None:
        sequences = sequences.filter(pc.equal(sequences["split"], split))
    codes = _codes(sequences["session_id"])
    order = np.lexsort((_int64(sequences, "position"), codes))
    codes = codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return SessionTable(
        item_indexes(sequences, vocabulary)[order],
        np.append(starts, len(codes)).astype(np.int64),
        codes,
    )


def vocabulary_of_sequences(
    sequences: pa.Table, *, split: str = "train", known: ItemVocabulary | None = None
) -> ItemVocabulary:
    """The items of one split in order of first appearance, after those already `known`."""
    return vocabulary_of_clicks(sequences.filter(pc.equal(sequences["split"], split)), known)


def item_indexes(clicks: pa.Table, vocabulary: ItemVocabulary) -> NDArray[np.int64]:
    """Row of each click's item, int64 [n_clicks]; `UNKNOWN` (-1) for items the model lacks."""
    column = _item_strings(clicks)
    values = pa.array(list(vocabulary.ids), type=pa.string())
    found = pc.index_in(column, value_set=values)
    return np.asarray(pc.fill_null(found, UNKNOWN).combine_chunks()).astype(np.int64)


def _item_strings(clicks: pa.Table) -> pa.ChunkedArray:
    _required(clicks, "item_id")
    return pc.cast(clicks["item_id"], pa.string())


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number per value, in order of first appearance; -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1)).astype(np.int64)


def _int64(table: pa.Table, name: str) -> NDArray[np.int64]:
    _required(table, name)
    return np.asarray(table[name].combine_chunks()).astype(np.int64)


def _required(table: pa.Table, name: str) -> None:
    if name not in table.column_names:
        found = ", ".join(table.column_names)
        raise ClickFileError(f"there is no column {name} among {found}")
    if table[name].null_count:
        raise ClickFileError(f"column {name} has {table[name].null_count} empty values")

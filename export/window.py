"""What a retraining learns from and what it is judged on: the click log's newest sessions, cut in time."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_app.core.session import SessionLimits
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import (
    UNKNOWN,
    SessionTable,
    sessions_of_clicks,
    vocabulary_of_clicks,
)
from stream_app.files.click_log import list_files, read_window

DAY_MS: Final = 86_400_000
_COLUMNS: Final = ("session_id", "item_id", "event_time_ms", "event_type", "event_id")


@dataclass(frozen=True, eq=False)
class Window:
    """Sessions of the training window, in order of their start."""

    vocabulary: ItemVocabulary
    """Every item clicked in the window, in order of first appearance."""
    sessions: SessionTable
    """Indexes into `vocabulary`; sessions of one click included."""
    newest_ms: int
    """Event time of the newest click; 0 where the log is empty."""


@dataclass(frozen=True, eq=False)
class Division:
    """A window divided at a moment."""

    past: SessionTable
    """To learn from: clicks before the cut."""
    held_out: SessionTable
    """Sessions of two clicks or more that start at the cut or later."""
    cut_ms: int


def read_newest(
    click_log: str,
    *,
    window_days: float,
    clicks_max: int,
    event_types: Collection[str],
    limits: SessionLimits,
) -> Window:
    """The newest days of the log, up to its newest click (event time), at most about `clicks_max` clicks.

    Days are read one by one and the oldest are let go again, so memory holds `clicks_max` clicks and one
    day.  An empty log gives an empty window.
    """
    contents = list_files(click_log)
    start_ms = None
    if contents.days():
        newest_day = np.datetime64(contents.days()[-1], "ms").astype(np.int64)
        start_ms = int(newest_day + DAY_MS - window_days * DAY_MS)
    kept: deque[pa.Table] = deque()
    for day in read_window(click_log, start_ms=start_ms, columns=_COLUMNS):
        chosen = day.filter(pc.is_in(day["event_type"], value_set=pa.array(sorted(event_types))))
        kept.append(chosen.drop_columns(["event_type"]))
        while len(kept) > 1 and sum(map(len, kept)) - len(kept[0]) >= clicks_max:
            kept.popleft()
    if not kept:
        nothing = ItemVocabulary(())
        empty = np.empty(0, dtype=np.int64)
        return Window(nothing, SessionTable(empty, np.zeros(1, dtype=np.int64), empty), 0)
    clicks = pa.concat_tables(kept)
    vocabulary = vocabulary_of_clicks(clicks)
    sessions = sessions_of_clicks(clicks, vocabulary, limits=limits)
    newest_ms = int(pc.max(clicks["event_time_ms"]).as_py() or 0)
    return Window(vocabulary, sessions, newest_ms)


def divide(
    sessions: SessionTable, *, share: float, targets_max: int, not_before_ms: int = 0
) -> Division:
    """Hold out the newest sessions: the given share, but no more than give `targets_max` next clicks.

    A slice that is large enough to judge by may be small against the window, and so what is held out,
    and therefore not learned yet, is as fresh as can be: minutes in a busy shop, not a tenth of the
    fortnight.  The cut moves forward from run to run, so the live model has never seen what it is
    judged on; not_before_ms (the live model's newest click + 1) makes sure of it.
    """
    usable = np.flatnonzero(sessions.lengths >= 2)
    if len(usable) == 0:
        after_all = int(sessions.click_ms.max(initial=0)) + 1
        return Division(sessions, sessions.select(usable), max(after_all, not_before_ms))
    targets = np.cumsum(sessions.lengths[usable][::-1] - 1)  # from the newest back
    held_out = int(np.searchsorted(targets, targets_max, side="left")) + 1
    held_out = max(1, min(held_out, int(len(usable) * share)))
    cut_ms = max(int(sessions.start_ms[usable[-held_out]]), not_before_ms)
    past, newest = sessions.split_at(cut_ms)
    return Division(past, newest.at_least(2), cut_ms)


def to_learn(past: SessionTable, *, known_until_ms: int | None, replay_clicks: int) -> SessionTable:
    """What a training goes over: all of `past` from scratch, else the new sessions and some old ones.

    known_until_ms: newest click of the model it starts from; None: from scratch.  Old sessions are
    taken evenly over time, so many that new and old together have about `replay_clicks` clicks: a
    model that sees new sessions alone forgets the others.
    """
    if known_until_ms is None or past.n_clicks <= replay_clicks:
        return past
    is_new = past.start_ms > known_until_ms
    new, old = np.flatnonzero(is_new), np.flatnonzero(~is_new)
    old_clicks = int(past.lengths[old].sum())
    room = max(replay_clicks - (past.n_clicks - old_clicks), 0)
    n_taken = int(len(old) * min(room / max(old_clicks, 1), 1.0))
    taken = old[np.linspace(0, len(old) - 1, n_taken).astype(np.int64)]
    return past.select(np.sort(np.concatenate((taken, new))))


def in_vocabulary_of(
    sessions: SessionTable, known: ItemVocabulary, other: ItemVocabulary
) -> SessionTable:
    """The same sessions as rows of `other`, -1 where it lacks the item.  known: what they index now."""
    index_of = other.index_of
    table = np.array(
        [index_of.get(item, UNKNOWN) for item in known.ids] + [UNKNOWN], dtype=np.int64
    )
    # UNKNOWN is -1, the last entry, and stays unknown.
    return SessionTable(table[sessions.item_indexes], sessions.session_starts, sessions.click_ms)

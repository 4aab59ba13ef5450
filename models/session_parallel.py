"""Session-parallel mini-batches (Hidasi et al. 2016, 1511.06939, section 3.1.1 and figure 3)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation.sessions import SessionTable


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One event of each session under way; row by row the slots of the batch.

    inputs, targets: item indexes, int64 [batch]: the click, and the next one to predict.
    kept: rows of the step before that go on, int64 [batch], where slots closed for want of sessions;
    None: all of them.  Applied to the hidden state before `fresh`.
    fresh: rows (of this step) whose session starts here, int64: their hidden state is zero now.
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    kept: NDArray[np.int64] | None
    fresh: NDArray[np.int64]


def session_parallel(sessions: SessionTable, batch_size: int) -> Iterator[Batch]:
    """Every pair of neighbouring clicks of every session exactly once, sessions in table order.

    A slot whose session has ended takes the next session; when none is left, the batch shrinks,
    until the last session has ended.  Sessions need two clicks or more.
    """
    assert sessions.n_sessions == 0 or sessions.lengths.min() >= 2, "drop one-click sessions first"
    items, starts = sessions.item_indexes, sessions.session_starts
    n_sessions = sessions.n_sessions
    taken = min(batch_size, n_sessions)
    position = starts[:taken].copy()
    last = starts[1 : taken + 1] - 1
    kept: NDArray[np.int64] | None = None
    fresh = np.arange(taken)
    while len(position):
        yield Batch(items[position], items[position + 1], kept, fresh)
        position += 1
        finished = np.flatnonzero(position == last)
        n_new = min(len(finished), n_sessions - taken)
        fresh, closed = finished[:n_new], finished[n_new:]
        position[fresh] = starts[taken : taken + n_new]
        last[fresh] = starts[taken + 1 : taken + n_new + 1] - 1
        taken += n_new
        kept = None
        if len(closed):
            kept = np.delete(np.arange(len(position)), closed)
            position, last = position[kept], last[kept]
            fresh = np.searchsorted(kept, fresh)

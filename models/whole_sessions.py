"""Batches of whole sessions of about equal length, padded at the end."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.evaluation.sessions import SessionTable

_BATCHES_SORTED: Final = 20
"""Sessions are drawn at random so many batches at a time, and those of a length put together."""


@dataclass(frozen=True, slots=True, eq=False)
class SessionBatch:
    """items: int64 [clicks, batch], item indexes, each session's own one after its end.

    lengths: int64 [batch], clicks of each session, two or more.
    """

    items: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def n_targets(self) -> int:
        return int((self.lengths - 1).sum())


def whole_sessions(
    sessions: SessionTable,
    *,
    batch_clicks: int,
    session_clicks_max: int,
    generator: np.random.Generator,
) -> Iterator[SessionBatch]:
    """Every session once, in random order, about `batch_clicks` next clicks together.

    Of a session with more than `session_clicks_max` next clicks the last ones.
    """
    lengths = np.minimum(sessions.lengths, session_clicks_max + 1)
    ends = sessions.session_starts[1:]
    order = generator.permutation(sessions.n_sessions)
    together = max(1, int(_BATCHES_SORTED * batch_clicks / max((lengths - 1).mean(), 1e-9)))
    batches: list[NDArray[np.int64]] = []
    for first in range(0, len(order), together):
        chosen = order[first : first + together]
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
        number = (np.cumsum(lengths[chosen] - 1) - 1) // batch_clicks
        batches += np.split(chosen, np.flatnonzero(np.diff(number)) + 1)
    for number in generator.permutation(len(batches)):
        batch = batches[number]
        length = lengths[batch]
        at = np.arange(int(length.max()))[:, None]
        starts = ends[batch] - length
        yield SessionBatch(
            sessions.item_indexes[np.where(at < length, starts + at, starts)], length
        )

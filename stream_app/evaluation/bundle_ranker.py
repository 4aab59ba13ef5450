"""A bundle as one ranker among others: its own graphs, stepped over the sessions as the worker does."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists

SESSIONS_TOGETHER: Final = 512


class ModelLists(NamedTuple):
    """Of some targets, as a bundle's scorer gives them."""

    rows: NDArray[np.int64]
    """Which targets, [n]."""
    items: NDArray[np.int64]
    """Indexes into the bundle's vocabulary, [n, k]."""
    scores: NDArray[np.float32]
    known: NDArray[np.bool_]
    """The bundle knows an item of the session; where not, the start state was asked."""


class BundleRanker:
    """States start at zero and are stored as serving stores them.  A click on an item outside the bundle's
    vocabulary is passed over, as the worker does; a session that knows nothing yet gets the start state's list."""

    def __init__(self, scorer: OnnxScorer, vocabulary: ItemVocabulary, *, name: str) -> None:
        """vocabulary: the evaluation's; it must hold every item of the bundle's."""
        self.name = name
        self._scorer = scorer
        self._ours = np.array([vocabulary.index_of[item] for item in scorer.vocabulary.ids])
        self._theirs = np.full(len(vocabulary), -1, dtype=np.int64)
        self._theirs[self._ours] = np.arange(len(self._ours))
        self.catalogue: NDArray[np.bool_] = self._theirs >= 0

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        for part in self.model_lists(asked, k):
            yield _padded(part.rows, self._ours[part.items], part.scores, k)

    def model_lists(self, asked: NextClicks, k: int) -> Iterator[ModelLists]:
        """The same in the bundle's own numbers, at most `k` items each."""
        lengths, starts = asked.sessions.lengths, asked.sessions.session_starts
        row_of = np.full(asked.sessions.n_clicks, -1, dtype=np.int64)
        row_of[asked.positions] = np.arange(asked.n_targets)
        by_length = np.argsort(-lengths, kind="stable")
        by_length = by_length[lengths[by_length] >= 2]
        clicked = asked.sessions.item_indexes
        for first in range(0, len(by_length), SESSIONS_TOGETHER):
            group = by_length[first : first + SESSIONS_TOGETHER]
            begin, length = starts[group], lengths[group]
            states = np.zeros((len(group), self._scorer.state_size_bytes), dtype=np.uint8)
            knows_something = np.zeros(len(group), dtype=bool)
            for position in range(int(length[0]) - 1):
                alive = int(np.searchsorted(-length, -(position + 1), side="left"))
                states = states[:alive]
                item = clicked[begin[:alive] + position]
                theirs = np.where(item >= 0, self._theirs[item], -1)
                known = np.flatnonzero(theirs >= 0)
                if len(known):
                    states[known] = self._scorer.step(states[known], theirs[known])
                    knows_something[known] = True
                rows = row_of[begin[:alive] + position + 1]
                wanted = np.flatnonzero(rows >= 0)
                if len(wanted):
                    scores, items = self._scorer.top_k(states[wanted], k)
                    yield ModelLists(rows[wanted], items, scores, knows_something[wanted])


def _padded(
    rows: NDArray[np.int64], items: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> Lists:
    """A catalogue smaller than `k` gives shorter lists."""
    missing = k - items.shape[1]
    if missing > 0:
        wide = ((0, 0), (0, missing))
        items = np.pad(items, wide, constant_values=-1)
        scores = np.pad(scores, wide, constant_values=-np.inf)
    return Lists(rows, items, scores)

"""The things the core needs from outside, as protocols.  Each has an in-memory twin for tests."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream_app.core.manifest import SecondStage
from stream_app.core.records import ItemId, ScoredItem
from stream_app.core.session import SessionState
from stream_app.core.session_neighbours import SessionNeighbours
from stream_app.core.vocabulary import ItemVocabulary

StateRows = NDArray[np.uint8]
"""Model states, one session a row: uint8 [n, state_size_bytes], the tensors of the manifest in its
order, little-endian.  The worker moves these bytes and does not know what is in them."""


class Scorer(Protocol):
    """One live model.  Rows of a batch do not influence each other, bit for bit."""

    @property
    def model_version(self) -> str: ...
    @property
    def vocabulary(self) -> ItemVocabulary: ...
    @property
    def state_size_bytes(self) -> int: ...

    @property
    def ranker(self) -> "Ranker | None":
        """What orders the model's best anew, with the statistics' candidates; None: nothing does."""
        ...

    def step(self, states: StateRows, item_indexes: NDArray[np.int64]) -> StateRows:
        """States after one more click each.  item_indexes: int64 [n].  Zeros are a fresh session."""
        ...

    def top_k(self, states: StateRows, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Best `min(k, n_items)` items of each row, best first: scores, item indexes; both [n, k]."""
        ...


class Ranker(Protocol):
    """The second stage of a model.  A candidate's score does not depend on the others', bit for bit."""

    @property
    def stage(self) -> SecondStage: ...
    @property
    def directions(self) -> NDArray[np.float32]:
        """The items' item2vec vectors at length 1 (0: it has none), [n_items, dim]."""
        ...

    @property
    def placed(self) -> NDArray[np.bool_]:
        """Items too new for clicks to have told their place in the model, [n_items]."""
        ...

    @property
    def neighbours(self) -> SessionNeighbours | None:
        """Past sessions to find those in that are like the running one; None: there are none."""
        ...

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n] for `features` [n, n_features]."""
        ...


class SessionStore(Protocol):
    """Where session states live between clicks, by (partition, session id).  Whoever owns it writes it."""

    def get_many(self, keys: Sequence[tuple[int, str]]) -> list[SessionState | None]: ...


class Statistics(Protocol):
    """What is popular and what follows what right now, for answers without a model."""

    @property
    def version(self) -> int | None:
        """Version of the statistics, None if none was read."""
        ...

    def top(self, k: int) -> Sequence[ScoredItem]:
        """Best `k`, ranks from 1; score: share of recent clicks, rounded to 5 significant digits."""
        ...

    def associated(
        self, sessions: Sequence[Sequence[ItemId]], k: int
    ) -> Sequence[Sequence[ScoredItem] | None]:
        """For each session (its last items, oldest first) the best `k` to follow them, ranks from 1.

        None where nothing is known to follow any of its items.
        """
        ...

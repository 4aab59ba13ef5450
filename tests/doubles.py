"""In-memory twins of what the core needs from outside."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_app.core.records import ScoredItem
from stream_app.core.vocabulary import ItemVocabulary

UNITS = 4


class FakeScorer:
    """A tiny recurrent model.  Element by element only, so that rows cannot influence each other."""

    def __init__(self, model_version: str, item_ids: Iterable[str], seed: int = 0) -> None:
        self.model_version = model_version
        self.vocabulary = ItemVocabulary(item_ids)
        self.state_size_bytes = UNITS * 4
        self.ranker: Any = None
        self.rows_stepped: list[int] = []
        """Rows of each call of `step`: how well the batch was used."""
        rng = np.random.default_rng(seed)
        shape = (len(self.vocabulary), UNITS)
        self._table = rng.normal(size=shape).astype(np.float32)

    def step(self, states: NDArray[np.uint8], item_indexes: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert states.dtype == np.uint8
        assert states.shape == (len(item_indexes), self.state_size_bytes)
        self.rows_stepped.append(len(item_indexes))
        hidden = np.ascontiguousarray(states).view("<f4")
        after = np.float32(0.5) * hidden + self._table[item_indexes]
        after /= np.float32(1) + np.abs(after)
        return after.astype("<f4").view(np.uint8)

    def top_k(
        self, states: NDArray[np.uint8], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        assert len(states), "nobody asks for nothing"
        hidden = np.ascontiguousarray(states).view("<f4")
        scores = np.zeros((len(states), len(self._table)), dtype=np.float32)
        for unit in range(UNITS):
            scores += hidden[:, unit : unit + 1] * self._table[:, unit]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), order.astype(np.int64)


class FixedPopularity:
    """The same items for everybody, in the order given."""

    def __init__(self, item_ids: Iterable[str], version: int | None = 1) -> None:
        self.version = version
        self._items = [
            ScoredItem(item_id, 1 / 2**rank, rank) for rank, item_id in enumerate(item_ids, 1)
        ]

    def top(self, k: int) -> Sequence[ScoredItem]:
        return self._items[:k]

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:
        """Nothing is known to follow anything."""
        return [None] * len(sessions)

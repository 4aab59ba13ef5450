"""What a source of candidates is given, and what it gives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from stream_app.core.manifest import SecondStage
from stream_app.core.pair_rows import Floats, Ints
from stream_app.core.records import ItemId
from stream_app.core.session_neighbours import SessionNeighbours
from stream_app.core.sources.item_codes import ItemCodes
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_view import StatisticsView
from stream_app.core.vocabulary import ItemVocabulary

Features = NDArray[np.float32]

LEAST_SHARE: Final = 1e-7
"""Added to shares before their logarithm is taken: what nobody clicks is no further away than this."""
LOG_LEAST: Final = math.log(LEAST_SHARE)


class Asked(NamedTuple):
    """One session that wants a list."""

    recent: Sequence[ItemId]
    """Last items, oldest first; one at least."""
    clicks: int
    """In the session so far."""
    model_items: NDArray[np.int64]
    """The model's best items, best first, indexes [n]; none where it does not know the session."""
    model_scores: NDArray[np.float32]
    """[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What sources look at: of one model and one version of the statistics."""

    stage: SecondStage
    vocabulary: ItemVocabulary
    directions: NDArray[np.float32]
    """The items' item2vec vectors at length 1 (0 where there is none), [n_items, dim]."""
    statistics: StatisticsView
    codes: ItemCodes
    neighbours: SessionNeighbours | None = None
    """The bundle's past sessions; None where it has none."""


class Proposed(NamedTuple):
    """What one source proposes to a batch, session after session; an item may come twice."""

    codes: Ints
    """[sum of sizes]."""
    sizes: Ints
    """[n_sessions]."""

    @classmethod
    def joined(cls, parts: Sequence[Ints]) -> "Proposed":
        """parts: codes of each session."""
        codes = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return cls(codes, np.array([len(part) for part in parts], dtype=np.int64))


@dataclass(eq=False)
class Batch:
    """The candidates of all sources, each once per session, in the order of their codes."""

    asked: Sequence[Asked]
    codes: Ints
    """[n]."""
    session: Ints
    """[n], in rising order."""
    starts: Ints
    """[n_sessions + 1]."""
    item_codes: ItemCodes

    @cached_property
    def indexes(self) -> Ints:
        """In the vocabulary, -1 where it lacks the item; [n]."""
        return self.item_codes.indexes(self.codes)

    def ranks(self, values: Floats) -> Floats:
        """How many of the session's values are larger, [n]."""
        # Two sorts that the processor helps with, a quarter of the time of np.lexsort; 16 bits are sorted by radix.
        session, starts = self.session, self.starts
        order = np.argsort(-values)
        short = np.int16 if len(starts) < 2**15 else np.int64
        order = order[np.argsort(session[order].astype(short), kind="stable")]
        in_order = values[order]
        first_of_tie = np.ones(len(values), dtype=bool)
        first_of_tie[1:] = (in_order[1:] != in_order[:-1]) | (session[1:] != session[:-1])
        place = np.maximum.accumulate(np.where(first_of_tie, np.arange(len(values)), 0))
        ranks = np.empty(len(values))
        ranks[order] = place - starts[session]
        return ranks


def best_of(numbers: Ints, scores: Floats, n: int) -> Ints:
    """The `n` numbers of the highest scores, and all that tie with the last of them: nothing depends on how ties
    are broken."""
    if n == 0 or len(scores) <= n:
        return numbers[: len(scores) if n else 0]
    least = np.partition(scores, len(scores) - n)[len(scores) - n]
    best: Ints = numbers[scores >= least]
    return best


class Source(Protocol):
    """One place that candidates come from.  It tells something of every candidate, whoever proposed it."""

    @classmethod
    def of(cls, known: Known) -> Self: ...

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:
        """Its columns, in order."""
        ...

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        """At most so many items a session as the manifest's `SecondStage` says, and those that tie with the last."""
        ...

    def tell(self, columns: Features, batch: Batch, places: Ints) -> None:
        """Fill in its columns.

        columns: float32 [n, its features], zeros; places: int64, the row of each item that it proposed,
        in the order of its `propose`.
        """
        ...

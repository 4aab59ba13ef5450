"""What the second stage chooses from, and what it is told of each item: the same in training and on the stream.

Candidates of a session are the model's best, what follows its last items in the statistics, the most
popular follow-ups, what past sessions like it went on to, the item2vec neighbours of its last item, and its
own items.  Every source may be
missing.  A whole batch of sessions is gathered at once, item ids are looked at last: a click costs some
200 us.

A new source is a file in `core/sources/` and a place in `SOURCES`; a ranker names the features that it was
trained on, and is not asked about others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.manifest import SecondStage
from stream_app.core.pair_rows import Ints
from stream_app.core.records import ItemId
from stream_app.core.session_neighbours import SessionNeighbours
from stream_app.core.sources.associations import Associations
from stream_app.core.sources.item2vec_neighbours import Item2vecNeighbours
from stream_app.core.sources.item_codes import ItemCodes
from stream_app.core.sources.model_items import ModelItems
from stream_app.core.sources.own_items import OwnItems
from stream_app.core.sources.session_votes import SessionVotes
from stream_app.core.sources.source import Asked, Batch, Features, Known, Source
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_view import StatisticsView
from stream_app.core.vocabulary import ItemVocabulary

SOURCES: Final[tuple[type[Source], ...]] = (
    ModelItems,
    Associations,
    SessionVotes,
    Item2vecNeighbours,
    OwnItems,
)
"""In the order of their features."""
_SPAN: Final = 2**32
"""More than there are codes, half of them negative."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Of a batch of sessions, session after session; each item once per session, in the order of their codes.

    codes: int64 [n], see `ItemCodes`.  starts: int64 [n_sessions + 1].
    """

    codes: Ints
    starts: Ints
    features: Features
    """[n, n_features], in the order of `feature_names`."""


@cache
def feature_names(
    recipe: StatisticsRecipe, sources: tuple[type[Source], ...] = SOURCES
) -> tuple[str, ...]:
    """Of every candidate, in order.  A ranker that was trained on others is not asked."""
    return tuple(name for source in sources for name in source.feature_names(recipe))


class CandidateSource:
    """For one model and one version of the statistics: sessions in, candidates with features out."""

    def __init__(
        self,
        stage: SecondStage,
        vocabulary: ItemVocabulary,
        directions: NDArray[np.float32],
        statistics: StatisticsView,
        neighbours: SessionNeighbours | None = None,
        sources: tuple[type[Source], ...] = SOURCES,
    ) -> None:
        """directions: the items' item2vec vectors at length 1 (0 where there is none), [n_items, dim]."""
        self._codes = ItemCodes(vocabulary, statistics)
        known = Known(stage, vocabulary, directions, statistics, self._codes, neighbours)
        self._sources = [source.of(known) for source in sources]
        self._widths = [len(source.feature_names(statistics.recipe)) for source in sources]

    def candidates(self, asked: Sequence[Asked]) -> Candidates:
        """A session without any is an empty one."""
        n = len(asked)
        proposed = [source.propose(asked) for source in self._sources]
        codes = np.concatenate([part.codes for part in proposed])
        session = np.concatenate([np.repeat(np.arange(n), part.sizes) for part in proposed])
        key, places = np.unique(session * _SPAN + codes + _SPAN // 2, return_inverse=True)
        session, codes = key // _SPAN, key % _SPAN - _SPAN // 2
        starts = np.searchsorted(session, np.arange(n + 1))
        features = np.zeros((len(codes), sum(self._widths)), dtype=np.float32)
        batch = Batch(asked, codes, session, starts, self._codes)
        column = place = 0
        for source, part, width in zip(self._sources, proposed, self._widths, strict=True):
            source.tell(
                features[:, column : column + width],
                batch,
                places[place : place + len(part.codes)],
            )
            column, place = column + width, place + len(part.codes)
        return Candidates(codes, starts, features)

    def codes_of(self, indexes: Ints) -> Ints:
        """Codes of the model's items."""
        return self._codes.of_indexes(indexes)

    def ids(self, codes: Ints) -> list[ItemId]:
        """What the items are called."""
        return self._codes.ids(codes)

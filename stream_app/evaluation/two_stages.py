"""A bundle with its second stage as a ranker: the worker's own candidates, over statistics of the past."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_app.core.records import ItemId
from stream_app.core.second_stage import SecondStages
from stream_app.core.sources.source import Asked
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from stream_app.core.statistics_view import StatisticsView
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.bundle_ranker import BundleRanker
from stream_app.evaluation.next_clicks import NextClicks
from stream_app.evaluation.rankers import Lists, empty_lists
from stream_app.evaluation.session_log import SessionLog
from stream_app.evaluation.sessions import SessionTable

PAST_CLICKS_MAX: Final = 1_000_000
"""Newest clicks that statistics are counted from, 20 to 40 us each."""
_NOBODY_KNOWS: Final = ItemId("an item of no vocabulary")


class TwoStageRanker:
    """Answers as the worker gives them while statistics stand still, and the model with them.

    A stream's statistics go on counting, so where there is a clock the prequential protocol says more.
    """

    def __init__(
        self,
        model: BundleRanker,
        stages: SecondStages,
        vocabulary: ItemVocabulary,
        *,
        history_max: int,
        name: str,
    ) -> None:
        """history_max: last items of a session that a worker remembers."""
        self.name = name
        self.catalogue: NDArray[np.bool_] = np.ones(len(vocabulary), dtype=bool)
        """The statistics may list what the model does not know."""
        self._model, self._stages = model, stages
        self._vocabulary, self._history_max = vocabulary, history_max

    def lists(self, asked: NextClicks, k: int) -> Iterator[Lists]:
        clicked, ids = asked.sessions.item_indexes, self._vocabulary.ids
        begins = asked.sessions.session_starts[asked.session_numbers]
        index_of = self._vocabulary.index_of
        n = max(self._stages.ranker.stage.model_items, k)
        for part in self._model.model_lists(asked, n):
            questions = []
            for place, row in enumerate(part.rows.tolist()):
                begin, position = int(begins[row]), int(asked.positions[row])
                recent = clicked[max(begin, position - self._history_max) : position].tolist()
                names = [ids[item] if item >= 0 else _NOBODY_KNOWS for item in recent]
                known = part.known[place]
                questions.append(
                    Asked(
                        names,
                        position - begin,
                        part.items[place] if known else part.items[place, :0],
                        part.scores[place] if known else part.scores[place, :0],
                    )
                )
            ranked = self._stages.lists(questions, k)
            found = empty_lists(part.rows, k)
            for place in range(len(questions)):
                answer = ranked.answer(place, None, k)
                for column, item in enumerate(answer[0] if answer is not None else ()):
                    found.items[place, column] = index_of[item.item_id]
                    found.scores[place, column] = item.score
            yield found


def statistics_of(
    sessions: SessionTable, vocabulary: ItemVocabulary, recipe: StatisticsRecipe
) -> StatisticsView:
    """What was counted when the last of the sessions was over.  They must have a clock, see
    `sessions.with_made_up_clock`."""
    log = SessionLog(sessions, vocabulary)
    first = max(0, len(log.ms) - PAST_CLICKS_MAX)
    return LocalStatistics(recipe).fold(log.counted(first, len(log.ms)), version=1)

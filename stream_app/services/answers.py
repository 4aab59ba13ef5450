"""What answers are given from right now: the live model, and the stream statistics."""

import time
from collections.abc import Sequence
from typing import Final

from stream_app.adapters.statistics_reader import StatisticsReader
from stream_app.core.pipeline import DecodedClick
from stream_app.core.ports import Statistics
from stream_app.core.statistics import SessionClick, session_click
from stream_app.core.statistics_table import LocalStatistics
from stream_app.services.live_model import LiveModel
from stream_app.services.ports import Answers
from stream_app.settings import Settings, statistics_recipe

COUNT_SECONDS: Final = 1.0
"""Own counts become a version so often: doing it for every batch would cost more than the counting."""


class LiveAnswers:
    """The newest whole versions of both.

    Where no aggregator has published anything yet, this worker counts the clicks of its own partitions
    (statistics version None); that costs accuracy, and is better than nothing.
    """

    def __init__(
        self, live_model: LiveModel, statistics: StatisticsReader, settings: Settings
    ) -> None:
        self._live_model, self._statistics = live_model, statistics
        self._event_types = frozenset(settings.serving.event_types)
        self._own = LocalStatistics(
            statistics_recipe(settings), partitions=settings.topics.partitions
        )
        self._own_view: Statistics = self._own.fold(())
        self._uncounted: list[SessionClick] = []
        self._counted_at = -COUNT_SECONDS

    def now(self) -> Answers:
        """What to answer the next batch from."""
        statistics: Statistics = self._statistics.view()
        if statistics.version is None:
            statistics = self._own_view
        return Answers(self._live_model.scorer, statistics)

    def learn(self, clicks: Sequence[DecodedClick]) -> None:
        """Count clicks that were answered, for as long as there are no statistics but our own."""
        if self._statistics.view().version is not None:
            return
        self._uncounted += [
            counted
            for record, click in clicks
            if (counted := session_click(record, click, self._event_types)) is not None
        ]
        if time.monotonic() - self._counted_at >= COUNT_SECONDS:
            self._uncounted.sort()
            self._own_view = self._own.fold(self._uncounted)
            self._uncounted = []
            self._counted_at = time.monotonic()

    def wait_until_settled(self, seconds: float) -> bool:
        """Wait until the live model is loaded (or there is none) and the statistics are read."""
        deadline = time.monotonic() + seconds
        return self._live_model.wait_until_settled(
            seconds
        ) and self._statistics.wait_until_caught_up(max(0.0, deadline - time.monotonic()))

    @property
    def statistics_version(self) -> int | None:
        return self._statistics.view().version

    @property
    def statistics_staleness_seconds(self) -> float:
        return self._statistics.staleness_seconds

    def is_ready(self) -> tuple[bool, str]:
        if not self._live_model.is_settled:
            return False, "the newest release was not looked at yet"
        return True, "answering"

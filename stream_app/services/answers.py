"""What answers are given from right now: the live model, and what is popular."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stream_app.adapters.statistics_reader import StatisticsReader
from stream_app.core.errors import BadRecordError
from stream_app.core.pipeline import ClickRecord
from stream_app.core.ports import Popularity, Scorer
from stream_app.core.statistics import MINUTE_MS, CountedClick, LocalPopularity, countable
from stream_app.services.live_model import LiveModel
from stream_app.settings import Settings


@dataclass(frozen=True, slots=True)
class Answers:
    """One batch's worth: read once, so that no batch mixes two models or two statistics versions."""

    scorer: Scorer | None
    popularity: Popularity


class LiveAnswers:
    """The newest whole versions of both.

    Where no aggregator has published anything yet, popularity is counted from this worker's own
    partitions (statistics version None); that costs accuracy, and is better than nothing.
    """

    def __init__(
        self, live_model: LiveModel, statistics: StatisticsReader, settings: Settings
    ) -> None:
        self._live_model, self._statistics = live_model, statistics
        self._event_types = frozenset(settings.serving.event_types)
        self._ahead_ms_max = settings.serving.event_time_ahead_hours_max * 3_600_000
        self._own = LocalPopularity(
            settings.statistics.half_life_minutes * MINUTE_MS, settings.statistics.items_max
        )

    def now(self, records: Sequence[ClickRecord]) -> Answers:
        """What to answer these clicks from."""
        popularity: Popularity = self._statistics.view()
        if popularity.version is None:
            popularity = self._own.fold(self._countable(records))
        return Answers(self._live_model.scorer, popularity)

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

    def _countable(self, records: Sequence[ClickRecord]) -> Iterator[CountedClick]:
        for record in records:
            try:
                click = countable(
                    record.value,
                    kafka_timestamp_ms=record.timestamp,
                    event_types=self._event_types,
                    ahead_ms_max=self._ahead_ms_max,
                )
            except BadRecordError:
                continue  # the pipeline meets it again, and dead-letters it
            if click is not None:
                yield click

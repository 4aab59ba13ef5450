"""Stream statistics as the prequential protocol learns them.  The one place that knows which class counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_app.core.records import ScoredItem
from stream_app.core.statistics import (
    CountedClick,
    LocalPopularity,
    PopularityView,
    SessionClick,
)
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics


@dataclass(slots=True)
class LoggedClick:
    """A click of a log as a message of the click topic (`core.pipeline.ClickRecord`)."""

    offset: int
    timestamp: int
    """Event time: a log was never late."""
    session_id: str
    item_id: str
    value: bytes | None
    """JSON, as on the topic; None where the click is only learned from."""
    topic: str = "log"
    partition: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class StatisticsAtVersion(Protocol):
    """What answers are given from where there is no model; see `core.ports`."""

    @property
    def version(self) -> int | None: ...
    def top(self, k: int) -> Sequence[ScoredItem]: ...
    def associated(
        self, sessions: Sequence[Sequence[str]], k: int
    ) -> Sequence[Sequence[ScoredItem] | None]: ...


class StreamStatistics(Protocol):
    """Counts clicks, a version at a time, as the aggregator does."""

    def learn(self, clicks: Sequence[LoggedClick], *, version: int) -> StatisticsAtVersion: ...


StatisticsMaker = Callable[[], StreamStatistics]


class RecentPopularity:
    """Click counts that halve every half-life, and nothing else."""

    def __init__(self, half_life_ms: float, *, items_max: int = 1_000_000) -> None:
        self._popularity = LocalPopularity(half_life_ms, items_max)

    def learn(self, clicks: Sequence[LoggedClick], *, version: int) -> StatisticsAtVersion:
        counted = [CountedClick(click.item_id, click.timestamp) for click in clicks]
        return _PopularityAlone(self._popularity.fold(counted, version=version))


class CoOccurrence:
    """All of the aggregator's statistics: what follows what, mixed with what is popular."""

    def __init__(self, recipe: StatisticsRecipe) -> None:
        self._local = LocalStatistics(recipe)

    def learn(self, clicks: Sequence[LoggedClick], *, version: int) -> StatisticsAtVersion:
        counted = [
            SessionClick(
                click.partition,
                click.offset,
                click.session_id,
                click.item_id,
                click.timestamp,
                True,
            )
            for click in clicks
        ]
        return self._local.fold(counted, version=version)


class _PopularityAlone:
    """Popularity where statistics are wanted: nothing is known to follow anything."""

    def __init__(self, view: PopularityView) -> None:
        self._view = view

    @property
    def version(self) -> int | None:
        return self._view.version

    def top(self, k: int) -> Sequence[ScoredItem]:
        return self._view.top(k)

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:  # noqa: ARG002
        return [None] * len(sessions)

"""The stream statistics as a worker sees them: a thread follows the topic, the worker takes a view."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import KafkaConnection
from stream_app.core.errors import BadRecordError, NextclickError
from stream_app.core.statistics import (
    NOTHING_POPULAR,
    RANKED_ITEMS_MAX,
    DecayedCount,
    PopularityView,
    Ranking,
)
from stream_app.core.statistics_records import (
    StatisticsFold,
    VersionMarker,
)
from stream_app.logging_setup import get_logger

POLL_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 2.0

log = get_logger("statistics_reader")


class StatisticsReader:
    """Follows the statistics topic from `start` to `stop`; a broker that goes away is asked again.

    Only whole versions are applied, and only once all that was there at the start has been read, so a
    view never shows a mixture of two versions.
    """

    def __init__(
        self, kafka: KafkaConnection, topic: str, *, ranked: int = RANKED_ITEMS_MAX
    ) -> None:
        """ranked: the longest list that will be asked of a view."""
        self._kafka, self._topic, self._ranked = kafka, topic, ranked
        self._view: PopularityView = NOTHING_POPULAR
        self._changed_at = time.monotonic()
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics-reader", daemon=True)

    def start(self) -> None:
        self._changed_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; at once, or after the few seconds that a connection attempt may take."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(8)

    def view(self) -> PopularityView:
        """What is popular now, unchanging; `version` is None before the first version was read.

        Cheap: call it for every batch, and use one view for a whole batch.
        """
        return self._view

    @property
    def is_caught_up(self) -> bool:
        """Whether everything that was on the topic at the start has been read (also if it is empty)."""
        return self._caught_up.is_set()

    def wait_until_caught_up(self, timeout_seconds: float) -> bool:
        return self._caught_up.wait(timeout_seconds)

    @property
    def staleness_seconds(self) -> float:
        """Since the last version came in (before the first: since `start`)."""
        return time.monotonic() - self._changed_at

    def _run(self) -> None:
        complained = False
        while not self._stop.is_set():
            try:
                self._follow()
            except NextclickError as error:
                if not complained:
                    log.warning("statistics_unavailable", error=str(error))
                complained = True
                self._stop.wait(RETRY_SECONDS)
            except Exception as error:
                log.exception("statistics_reader_failed", error=str(error))
                self._stop.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        fold = StatisticsFold()
        ranking: Ranking | None = None
        with CompactedTopic(self._kafka, self._topic, committed_only=True) as topic:
            for records in topic.read_to_end(should_stop=self._stop.is_set):
                for record in records:
                    _take(fold, record)
            if self._stop.is_set():
                return
            if fold.marker is not None:
                ranking = self._rank_anew(fold, fold.marker)
            self._caught_up.set()
            while not self._stop.is_set():
                for record in topic.poll(POLL_SECONDS):
                    half_life_ms = fold.marker.half_life_ms if fold.marker else None
                    changes = _take(fold, record)
                    if changes is None or fold.marker is None:
                        continue
                    if ranking is None or fold.marker.half_life_ms != half_life_ms:
                        ranking = self._rank_anew(fold, fold.marker)
                    else:
                        ranking.update(changes, fold.items)
                        self._show(ranking, fold.marker)

    def _rank_anew(self, fold: StatisticsFold, marker: VersionMarker) -> Ranking:
        ranking = Ranking(marker.half_life_ms, size=self._ranked)
        ranking.rebuild(fold.items)
        self._show(ranking, marker)
        return ranking

    def _show(self, ranking: Ranking, marker: VersionMarker) -> None:
        self._view = ranking.view(marker.version, marker.total)
        self._changed_at = time.monotonic()


def _take(fold: StatisticsFold, record: Any) -> Mapping[str, DecayedCount | None] | None:
    """A record that somebody else wrote is passed over."""
    try:
        return fold.take(record.key, record.value)
    except BadRecordError as error:
        log.warning("statistics_record_skipped", offset=record.offset, error=str(error))
        return None


def read_versions(kafka: KafkaConnection, topic: str) -> list[VersionMarker]:
    """The markers of the last 7 days, ascending: which clicks each version counted.

    With them an offline replay folds the very same versions: for each marker, the clicks from the
    offsets of the marker before, by ascending (partition, offset).
    """
    fold = StatisticsFold()
    with CompactedTopic(kafka, topic, committed_only=True) as reader:
        for records in reader.read_to_end():
            for record in records:
                _take(fold, record)
    return fold.versions()

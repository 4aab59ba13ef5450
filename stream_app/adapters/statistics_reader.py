"""The stream statistics as a worker sees them: a thread follows the topic, the worker takes a view."""

import threading
import time
from typing import Any, Final

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import KafkaConnection
from stream_app.core.errors import BadRecordError, NextclickError
from stream_app.core.statistics import RANKED_ITEMS_MAX
from stream_app.core.statistics_records import StatisticsFold, VersionMarker
from stream_app.core.statistics_table import NOTHING_KNOWN, StatisticsTable
from stream_app.core.statistics_view import StatisticsView, VersionTotals
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
        self._view: StatisticsView = NOTHING_KNOWN
        self._published_at: int | None = None
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

    def view(self) -> StatisticsView:
        """What is known now, unchanging; `version` is None before the first version was read.

        Cheap: call it for every batch, and use one view for a whole batch.
        """
        return self._view

    @property
    def published_at(self) -> int | None:
        """When the version of the view was published (the aggregator's clock, ms since the epoch)."""
        return self._published_at

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
        table: StatisticsTable | None = None
        with CompactedTopic(self._kafka, self._topic, committed_only=True) as topic:
            # The versions that are there at the start are taken in together: singly they would take minutes.
            found: dict[str, bytes | None] = {}
            for records in topic.read_to_end(should_stop=self._stop.is_set):
                for record in records:
                    found.update(_take(fold, record) or {})
            if self._stop.is_set():
                return
            if fold.marker is not None:
                table = self._apply(None, found, fold.marker)
            del found
            self._caught_up.set()
            while not self._stop.is_set():
                for record in topic.poll(POLL_SECONDS):
                    changes = _take(fold, record)
                    if changes is not None and fold.marker is not None:
                        table = self._apply(table, changes, fold.marker)

    def _apply(
        self, table: StatisticsTable | None, changes: dict[str, bytes | None], marker: VersionMarker
    ) -> StatisticsTable | None:
        """Show the marker's version.  One of an earlier release is none: it holds nothing that we read."""
        if marker.recipe is None:
            return None
        if table is None or (table.recipe, table.began) != (marker.recipe, marker.began):
            table = StatisticsTable(marker.recipe, began=marker.began, ranked=self._ranked)
        refused = table.refused
        self._view = table.apply(changes, totals_of(marker))
        self._published_at = marker.published_at
        self._changed_at = time.monotonic()
        if table.refused > refused:
            log.warning("statistics_records_refused", records=table.refused - refused)
        return table


def totals_of(marker: VersionMarker) -> VersionTotals:
    """What a version's marker says of all items together."""
    return VersionTotals(
        marker.version,
        marker.watermark or 0,
        marker.totals,
        marker.follow_up_total,
        marker.follow_up_watermark,
    )


def _take(fold: StatisticsFold, record: Any) -> dict[str, bytes | None] | None:
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

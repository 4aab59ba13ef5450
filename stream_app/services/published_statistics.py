"""The statistics topic as an aggregator finds it when it starts."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.core.errors import BadRecordError
from stream_app.core.item_records import FORMAT_1
from stream_app.core.recent_sessions import Anchor
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_records import (
    ITEM_PREFIX,
    HistoryKey,
    StatisticsFold,
    VersionMarker,
)
from stream_app.logging_setup import get_logger
from stream_app.settings import KafkaSettings

log = get_logger("statistics")


@dataclass(slots=True)
class Published:
    """Everything that is on the topic."""

    marker: VersionMarker | None
    """Of the last whole version."""
    records: dict[str, bytes]
    """By item id, as of that version."""
    of_format_1: set[str]
    """Items whose newest record is of the earlier format."""
    markers: deque[VersionMarker]
    """Single ones, oldest first."""
    histories: deque[HistoryKey]

    def counts(self, recipe: StatisticsRecipe, *, partitions: int) -> StatisticsCounts | None:
        """The counts of the last version, bit for bit (without its sessions); None where nothing was
        published, or by another recipe: then counting begins anew."""
        marker = self.marker
        if marker is None or marker.recipe != recipe:
            return None
        counts = StatisticsCounts(recipe, partitions=partitions)
        refused = counts.restore(self.records, version=marker.version, oldest_version=marker.began)
        if refused:
            log.warning("statistics_records_refused", records=refused)
        counts.totals.values = list(marker.totals)
        counts.totals.time_ms = marker.watermark or 0
        counts.follow_up_total.values = [marker.follow_up_total]
        counts.follow_up_total.time_ms = marker.follow_up_watermark
        counts.clicks = marker.clicks
        return counts

    def anchors(self) -> dict[int, Anchor]:
        """From where on the clicks of each partition are read again for its sessions."""
        found = self.marker.sessions if self.marker else {}
        return {int(number): Anchor(*anchor) for number, anchor in found.items()}


def read_published(
    kafka: KafkaSettings, topic: str, *, progress: Callable[[], None] = lambda: None
) -> Published:
    """Read the topic; records of somebody else are told of and passed over.  progress: called now and then."""
    fold = StatisticsFold()
    records: dict[str, bytes] = {}
    of_format_1: set[str] = set()
    with CompactedTopic(kafka, topic, committed_only=True) as reader:
        for batch in reader.read_to_end():
            progress()
            for record in batch:
                try:
                    changes = fold.take(record.key, record.value)
                except BadRecordError as error:
                    log.warning("statistics_record_skipped", offset=record.offset, error=str(error))
                    continue
                if record.key.startswith(ITEM_PREFIX):
                    item_id = record.key.removeprefix(ITEM_PREFIX).decode()
                    if record.value is not None and record.value.startswith(FORMAT_1):
                        of_format_1.add(item_id)
                    else:
                        of_format_1.discard(item_id)
                for item_id, value in (changes or {}).items():
                    if value is None:
                        records.pop(item_id, None)
                    else:
                        records[item_id] = value
    return Published(
        fold.marker,
        records,
        of_format_1,
        deque(fold.markers.values()),
        deque(fold.histories),
    )

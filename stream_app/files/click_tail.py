"""The newest clicks of a click log that grows: kept in memory, so that each look reads new files only."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from stream_app.files.click_log import (
    LOG_COLUMNS,
    Erasures,
    day_start_ms,
    in_order,
    list_files,
    read_file,
)

HOUR_MS: Final = 3_600_000
AHEAD_MS_MAX: Final = 300_000
"""A click whose event time is further ahead of Kafka's clock counts as of Kafka's time: one visitor's wrong clock
would otherwise make everything before it old."""
_COLUMNS: Final = (
    "topic",
    "partition",
    "offset",
    "kafka_timestamp_ms",
    "session_id",
    "item_id",
    "event_time_ms",
    "event_type",
    "event_id",
)


class ClickTail:
    """For one thread.  A session that is erased is gone at the next look."""

    def __init__(
        self,
        root: str | Path,
        *,
        window_hours: float,
        clicks_max: int,
        event_types: Collection[str],
    ) -> None:
        """Keep the clicks of so many hours up to the newest one (event time), and the newest `clicks_max`
        of those.  event_types: which events are clicks."""
        self._root = str(root)
        self._fs, _ = fsspec.core.url_to_fs(self._root)
        self._window_ms = int(window_hours * HOUR_MS)
        self._clicks_max = clicks_max
        self._event_types = pa.array(sorted({*event_types}))
        self._read: set[str] = set()
        self._clicks = LOG_COLUMNS.empty_table().select(_COLUMNS)

    def look(self) -> pa.Table:
        """The clicks as they are now: session_id, item_id, event_time_ms, event_id, in the order of event
        time, then partition and offset.  Raises `ClickFileError` for an unreadable file."""
        complete = list_files(self._root).complete
        self._read.intersection_update(file.path for file in complete)
        newest_day = max((file.day for file in complete), default="")
        new = [
            file
            for file in complete
            if file.path not in self._read
            and day_start_ms(newest_day) - self._window_ms < day_start_ms(file.day) + 24 * HOUR_MS
        ]
        if new:
            tables = [self._clicks, *(read_file(self._fs, file.path) for file in new)]
            clicks = pa.concat_tables(table.select(_COLUMNS) for table in tables)
            clicks = _in_time(Erasures.read(self._fs, new).apply(clicks))
            self._clicks = self._trimmed(in_order(clicks))
            self._read.update(file.path for file in new)
        return self._clicks.select(("session_id", "item_id", "event_time_ms", "event_id"))

    def _trimmed(self, clicks: pa.Table) -> pa.Table:
        wanted = pc.and_(
            pc.is_in(clicks["event_type"], value_set=self._event_types),
            pc.is_valid(clicks["session_id"]),
        )
        clicks = clicks.filter(wanted)
        if not len(clicks):
            return clicks
        from_ms = pc.max(clicks["event_time_ms"]).as_py() - self._window_ms
        clicks = clicks.filter(pc.greater_equal(clicks["event_time_ms"], from_ms))
        return clicks.slice(max(len(clicks) - self._clicks_max, 0)).combine_chunks()


def _in_time(clicks: pa.Table) -> pa.Table:
    ahead = pc.greater(
        clicks["event_time_ms"], pc.add(clicks["kafka_timestamp_ms"], pa.scalar(AHEAD_MS_MAX))
    )
    times = pc.if_else(ahead, clicks["kafka_timestamp_ms"], clicks["event_time_ms"])
    place = clicks.column_names.index("event_time_ms")
    return clicks.set_column(place, LOG_COLUMNS.field("event_time_ms"), times)

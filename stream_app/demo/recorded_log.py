"""A real log for the demo: its first days become history to learn from, the rest is streamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream_app.core.errors import ConfigurationError
from stream_app.files.click_files import read_table
from stream_app.files.click_log import DAY_MS, LOG_COLUMNS, ClickLogWriter

HISTORY_TOPIC: Final = "recorded"
"""Topic under which the history stands in the click log: its offsets are those of no Kafka topic."""
_SHARE_MIN: Final = 0.1
STREAM_SECONDS: Final = 240.0
"""Without --speed, the streamed part is played so that it takes so long."""


@dataclass(frozen=True, slots=True)
class RecordedLog:
    history_clicks: int
    stream_clicks: int
    stream_from_ms: int
    """First event time of the streamed part."""
    stream_until_ms: int
    """Behind its last."""

    @property
    def speed(self) -> float:
        """Times recorded speed that plays the stream in `STREAM_SECONDS`; never slower than recorded."""
        return max(1.0, (self.stream_until_ms - self.stream_from_ms) / 1000 / STREAM_SECONDS)


def divide_log(
    path: Path,
    *,
    format: str | None,  # noqa: A002 - the name of the flag and of the thing
    columns: Mapping[str, str],
    first_day: datetime | None,
    train_days: float | None,
    stream_days: float | None,
    click_log: str,
) -> RecordedLog:
    """Write the first days into the click log; what follows is left to the replayer.

    first_day: where to begin, the log's first day (midnight UTC) if not given.  train_days: how many
    become history; by default all up to the last midnight that leaves a worthwhile stream.
    stream_days: stream no more than so many.  Raises `ClickFileError` for an unreadable file, `ConfigurationError` where
    nothing is left to stream.
    """
    table = read_table(path, format=format, columns=columns)
    times = table["event_time_ms"].to_numpy()
    begin_ms = int(times[0]) // DAY_MS * DAY_MS
    if first_day is not None:
        begin_ms = round(first_day.replace(tzinfo=first_day.tzinfo or UTC).timestamp() * 1000)
    if train_days is None:
        split_ms = _usual_split_ms(times[np.searchsorted(times, begin_ms) :])
    else:
        split_ms = begin_ms + round(train_days * DAY_MS)
    end_ms = np.iinfo(np.int64).max
    if stream_days is not None:
        end_ms = split_ms + round(stream_days * DAY_MS)
    begin, split, end = np.searchsorted(times, [begin_ms, split_ms, end_ms]).tolist()
    if split >= end:
        raise ConfigurationError(
            f"{path} has no clicks to stream after {_day(split_ms)}: it runs from {_day(times[0])} to "
            f"{_day(times[-1])}; give fewer --train-days, or another --first-day"
        )
    history = table.slice(begin, split - begin)
    if len(history):
        _write_history(history, click_log)
    return RecordedLog(len(history), end - split, int(times[split]), int(times[end - 1]) + 1)


def _usual_split_ms(times: NDArray[np.int64]) -> int:
    """The last midnight (UTC) behind which at least a tenth of the clicks lies, and before which too;
    where there is none, the moment at which three quarters of them are over."""
    if not len(times):
        return 0
    first, last = int(times[0]), int(times[-1])
    midnights = np.arange(first // DAY_MS + 1, last // DAY_MS + 1) * DAY_MS
    before = np.searchsorted(times, midnights) / len(times)
    fit = midnights[(before >= _SHARE_MIN) & (before <= 1 - _SHARE_MIN)]
    return int(fit[-1]) if len(fit) else int(times[len(times) * 3 // 4])


def _write_history(clicks: pa.Table, click_log: str) -> None:
    count = len(clicks)
    columns = {
        "topic": pa.array([HISTORY_TOPIC] * count),
        "partition": pa.array(np.zeros(count, np.int32)),
        "offset": pa.array(np.arange(count, dtype=np.int64)),
        "kafka_timestamp_ms": clicks["event_time_ms"],
        **{name: clicks[name] for name in clicks.column_names},
        "recommendation_id": pa.nulls(count, pa.string()),
        "consent": pc.is_valid(clicks["session_id"]),
        "properties": pa.nulls(count, pa.string()),
    }
    rows = pa.table([columns[name] for name in LOG_COLUMNS.names], names=LOG_COLUMNS.names)
    ClickLogWriter(click_log).write_range(HISTORY_TOPIC, 0, 0, count - 1, rows)


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(int(ms) / 1000, tz=UTC):%Y-%m-%d %H:%M}"

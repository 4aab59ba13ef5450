"""A recorded log divided into history and stream."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream_app.core.errors import ConfigurationError
from stream_app.demo.recorded_log import RecordedLog, divide_log
from stream_app.files.click_log import DAY_MS, read_window

DAY_0 = 16_000 * DAY_MS
HOUR = 3_600_000


def write(path: Path, *times_ms: int) -> Path:
    table = pa.table(
        {
            "session_id": [f"s{i}" for i in range(len(times_ms))],
            "item_id": [i % 3 for i in range(len(times_ms))],
            "timestamp_ms": np.array(times_ms, np.int64),
        }
    )
    pq.write_table(table, path)
    return path


def divide(path: Path, click_log: Path, **more: object) -> RecordedLog:
    arguments: dict[str, object] = {
        "format": None,
        "columns": {"event_time": "timestamp_ms"},
        "first_day": None,
        "train_days": None,
        "stream_days": None,
        **more,
    }
    return divide_log(path, click_log=str(click_log), **arguments)  # type: ignore[arg-type]


def test_the_first_days_are_archived_and_the_rest_is_left_to_stream(tmp_path: Path) -> None:
    hours = [DAY_0 + h * HOUR for h in range(1, 96, 2)]
    log = divide(write(tmp_path / "f", *hours), tmp_path / "log", train_days=2.0, stream_days=1.0)
    assert (log.history_clicks, log.stream_clicks) == (24, 12)
    assert log.stream_from_ms == DAY_0 + 49 * HOUR
    assert log.stream_until_ms == DAY_0 + 71 * HOUR + 1
    archived = pa.concat_tables(read_window(tmp_path / "log"))
    assert archived["event_time_ms"].to_pylist() == hours[:24]
    assert archived["session_id"].to_pylist() == [f"s{i}" for i in range(24)]
    assert archived["offset"].to_pylist() == list(range(24))
    assert log.speed == pytest.approx(22 * 3600 / 240, rel=1e-3)


def test_a_first_day_may_be_chosen(tmp_path: Path) -> None:
    hours = [DAY_0 + h * HOUR for h in range(96)]
    first_day = datetime(2013, 10, 23)  # noqa: DTZ001 - as the flag gives it; 16,001 days since 1970
    log = divide(
        write(tmp_path / "f", *hours), tmp_path / "log", first_day=first_day, train_days=1.0
    )
    assert (log.history_clicks, log.stream_clicks) == (24, 48)


def test_by_default_the_split_is_the_last_midnight_with_enough_clicks_on_either_side(
    tmp_path: Path,
) -> None:
    """A log that ends shortly after midnight would otherwise leave next to nothing to stream."""
    times = [DAY_0 - HOUR, *(DAY_0 + h * HOUR for h in range(48)), DAY_0 + 48 * HOUR + 5]
    log = divide(write(tmp_path / "f", *times), tmp_path / "log")
    assert log.stream_from_ms == DAY_0 + 24 * HOUR
    assert (log.history_clicks, log.stream_clicks) == (25, 25)


def test_a_log_without_a_midnight_is_split_at_three_quarters(tmp_path: Path) -> None:
    times = [DAY_0 + HOUR + i * 1000 for i in range(100)]
    log = divide(write(tmp_path / "f", *times), tmp_path / "log")
    assert (log.history_clicks, log.stream_clicks) == (75, 25)
    assert log.speed == 1.0


def test_nothing_left_to_stream_is_said_with_the_logs_span(tmp_path: Path) -> None:
    path = write(tmp_path / "f", DAY_0 + HOUR, DAY_0 + 2 * HOUR)
    with pytest.raises(ConfigurationError, match=r"2013-10-22 01:00 to 2013-10-22 02:00"):
        divide(path, tmp_path / "log", train_days=5.0)

"""However the log grows, the tail is what a reading of the whole window would give, and reads no file twice."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from stream_app.core.errors import ClickFileError
from stream_app.core.records import ERASE, VIEW_ITEM
from stream_app.files import click_tail
from stream_app.files.click_log import DAY_MS, ClickLogWriter, read_window
from stream_app.files.click_tail import HOUR_MS, ClickTail
from tests.stream_app.files.test_click_log import DAY_0_MS, rows

COLUMNS = ("session_id", "item_id", "event_time_ms", "event_id")


def tail_of(root: Path, **changes: Any) -> ClickTail:
    arguments: dict[str, Any] = {
        "window_hours": 36.0,
        "clicks_max": 1_000,
        "event_types": {VIEW_ITEM},
    }
    return ClickTail(root, **(arguments | changes))


def read_whole(root: Path, window_hours: float) -> pa.Table:
    days = list(read_window(root, columns=(*COLUMNS, "event_type")))
    clicks = pa.concat_tables(days)
    clicks = clicks.filter(pc.equal(clicks["event_type"], VIEW_ITEM))
    from_ms = pc.max(clicks["event_time_ms"]).as_py() - window_hours * HOUR_MS
    return clicks.filter(pc.greater_equal(clicks["event_time_ms"], from_ms)).select(COLUMNS)


def spread(first: int, last: int, partition: int) -> pa.Table:
    """Ten minutes between two clicks, out of order, some of them carts."""
    offsets = range(first, last + 1)
    times = [DAY_0_MS + (offset ^ 3) * 600_000 + partition for offset in offsets]
    return rows(
        first,
        last,
        partition=partition,
        event_time_ms=times,
        kafka_timestamp_ms=times,
        event_type=["add_to_cart" if offset % 7 == 0 else VIEW_ITEM for offset in offsets],
    )


def test_it_follows_a_growing_log(tmp_path: Path) -> None:
    writer, tail = ClickLogWriter(tmp_path), tail_of(tmp_path)
    assert len(tail.look()) == 0
    offset = [0, 0]
    for step in range(30):
        partition = step % 2
        first, last = offset[partition], offset[partition] + 12 + step
        writer.write_range("clicks", partition, first, last, spread(first, last, partition))
        offset[partition] = last + 1
        if step % 3:
            assert tail.look().equals(read_whole(tmp_path, 36.0))
    assert len(tail.look()) < sum(offset)  # the window has moved on


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = click_tail.read_file
    monkeypatch.setattr(
        click_tail, "read_file", lambda fs, path: (read.append(path), real(fs, path))[1]
    )
    writer, tail = ClickLogWriter(tmp_path), tail_of(tmp_path)
    for first in range(0, 50, 10):
        writer.write_range("clicks", 0, first, first + 9, spread(first, first + 9, 0))
        tail.look()
        tail.look()
    assert len(read) == len(set(read)) == 5


def test_days_before_the_window_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ClickLogWriter(tmp_path)
    for day in range(5):
        writer.write_range(
            "clicks",
            0,
            day * 10,
            day * 10 + 9,
            rows(
                day * 10,
                day * 10 + 9,
                event_time_ms=[DAY_0_MS + day * DAY_MS] * 10,
                kafka_timestamp_ms=[DAY_0_MS + day * DAY_MS] * 10,
            ),
        )
    read: list[str] = []
    real = click_tail.read_file
    monkeypatch.setattr(
        click_tail, "read_file", lambda fs, path: (read.append(path), real(fs, path))[1]
    )
    tail_of(tmp_path, window_hours=6.0).look()
    assert len(read) == 2


def test_an_erased_session_is_gone_at_the_next_look(tmp_path: Path) -> None:
    writer, tail = ClickLogWriter(tmp_path), tail_of(tmp_path)
    writer.write_range("clicks", 0, 0, 9, rows(0, 9))
    assert "s3" in tail.look()["session_id"].to_pylist()
    erased = rows(10, 10, event_type=[ERASE], session_id=["s3"])
    writer.write_range("clicks", 0, 10, 10, erased)
    assert set(tail.look()["session_id"].to_pylist()) == {"s0", "s1", "s2", "s4"}


def test_a_wrong_clock_does_not_make_everything_else_old(tmp_path: Path) -> None:
    """It is in the past of nobody: the click counts as of the time at which Kafka received it."""
    writer, tail = ClickLogWriter(tmp_path), tail_of(tmp_path)
    writer.write_range("clicks", 0, 0, 9, rows(0, 9))
    ahead = rows(10, 10, event_time_ms=[DAY_0_MS + 20 * HOUR_MS])
    writer.write_range("clicks", 0, 10, 10, ahead)
    clicks = tail.look()
    assert clicks["event_time_ms"].to_pylist() == [DAY_0_MS + offset for offset in range(11)]
    slightly = rows(11, 11, event_time_ms=[DAY_0_MS + 200_000])
    writer.write_range("clicks", 0, 11, 11, slightly)
    assert tail.look()["event_time_ms"].to_pylist()[-1] == DAY_0_MS + 200_000


def test_the_newest_clicks_are_kept(tmp_path: Path) -> None:
    ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 99, rows(0, 99))
    clicks = tail_of(tmp_path, clicks_max=30).look()
    assert clicks["item_id"].to_pylist() == [f"i{offset}" for offset in range(70, 100)]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 9, rows(0, 9))
    [path] = tmp_path.glob("day=*/*.parquet")
    path.write_bytes(b"rubbish")
    with pytest.raises(ClickFileError, match=path.name):
        tail_of(tmp_path).look()

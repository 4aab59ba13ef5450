"""The click log: ranges count whole or not at all; reading is by day, once per click, without the erased."""

import errno
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.records import ERASE, VIEW_ITEM
from stream_app.files.click_log import (
    DAY_MS,
    LOG_COLUMNS,
    ClickLogWriter,
    list_files,
    read_window,
)

DAY_0_MS = 1_700_006_400_000
"""2023-11-15, midnight UTC."""


def rows(
    first: int, last: int, *, partition: int = 0, days: int = 1, **changes: object
) -> pa.Table:
    """Clicks at these offsets, spread over `days`; the same offset always gives the same click."""
    offsets = list(range(first, last + 1))
    size = len(offsets)
    columns: dict[str, object] = {
        "topic": ["clicks"] * size,
        "partition": [partition] * size,
        "offset": offsets,
        "kafka_timestamp_ms": [DAY_0_MS + offset for offset in offsets],
        "session_id": [f"s{offset % 5}" for offset in offsets],
        "item_id": [f"i{offset}" for offset in offsets],
        "event_time_ms": [DAY_0_MS + offset % days * DAY_MS + offset for offset in offsets],
        "event_type": [VIEW_ITEM] * size,
        "event_id": [None] * size,
        "user_id": [None] * size,
        "recommendation_id": [None] * size,
        "consent": [True] * size,
        "properties": [None] * size,
        **changes,
    }
    plain = pa.schema(
        [LOG_COLUMNS.field(0).with_type(pa.string()), *[LOG_COLUMNS.field(i) for i in range(1, 13)]]
    )
    return pa.table(columns, schema=plain).cast(LOG_COLUMNS)


def read_offsets(root: Path, **options: int) -> list[int]:
    return [o for table in read_window(root, **options) for o in table["offset"].to_pylist()]  # type: ignore[arg-type]


def test_a_range_of_several_days_becomes_a_file_a_day_with_telling_names(tmp_path: Path) -> None:
    written = ClickLogWriter(tmp_path).write_range(
        "clicks", 3, 0, 8, rows(0, 8, partition=3, days=3)
    )
    assert written == 3
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("day=*/*"))
    assert names == [
        "day=2023-11-15/clicks-3-0-8.1of3.parquet",
        "day=2023-11-16/clicks-3-0-8.2of3.parquet",
        "day=2023-11-17/clicks-3-0-8.3of3.parquet",
    ]
    tables = list(read_window(tmp_path))
    assert [sorted(table["offset"].to_pylist()) for table in tables] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5, 8],
    ]
    assert tables[0].schema.equals(LOG_COLUMNS)


class CrashError(Exception):
    pass


def crash_after(steps: int) -> Callable[[str], None]:
    count = 0

    def checkpoint(_: str) -> None:
        nonlocal count
        count += 1
        if count > steps:
            raise CrashError

    return checkpoint


@pytest.mark.parametrize("steps", range(10))
def test_a_crash_after_any_step_leaves_each_click_once(tmp_path: Path, steps: int) -> None:
    """Three days are six steps (written, then in place); the range counts after the last only."""
    ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 4, rows(0, 4, days=3))
    crashing = ClickLogWriter(tmp_path, checkpoint=crash_after(steps))
    try:
        crashing.write_range("clicks", 0, 5, 13, rows(5, 13, days=3))
    except CrashError:
        assert sorted(read_offsets(tmp_path)) == list(range(5 if steps < 5 else 14))
    writer = ClickLogWriter(tmp_path)
    next_offset = writer.recover("clicks", 0)
    assert next_offset == (5 if steps < 5 else 14)
    writer.write_range("clicks", 0, next_offset, 20, rows(next_offset, 20, days=3))
    assert sorted(read_offsets(tmp_path)) == list(range(21))
    in_files = [
        o for path in tmp_path.glob("day=*/*") for o in pq.read_table(path)["offset"].to_pylist()
    ]
    assert sorted(in_files) == list(range(21)), "a click is in two files"
    assert not list_files(tmp_path).incomplete
    assert list((tmp_path / ".incoming").iterdir()) == []


@settings(max_examples=12)  # each example syncs dozens of files to disk
@given(st.integers(0, 2**32))
def test_any_history_of_flushes_and_crashes_ends_in_each_click_once(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    root = tmp_path_factory.mktemp("log")
    position, end = 0, 25
    while position < end:
        writer = ClickLogWriter(root, checkpoint=crash_after(rng.randrange(1, 9)))
        position = writer.recover("clicks", 0) or 0
        try:
            while position < end:
                last = min(end - 1, position + rng.randrange(8))
                writer.write_range("clicks", 0, position, last, rows(position, last, days=3))
                position = last + 1
        except CrashError:
            continue
    ClickLogWriter(root).recover("clicks", 0)
    in_files = [
        o for path in root.glob("day=*/*") for o in pq.read_table(path)["offset"].to_pylist()
    ]
    assert sorted(in_files) == list(range(end))


def test_recovering_one_partition_leaves_the_others_alone(tmp_path: Path) -> None:
    """Another archive may be writing them at this moment."""
    for partition in (0, 10):
        crashing = ClickLogWriter(tmp_path, checkpoint=crash_after(3))
        with pytest.raises(CrashError):
            crashing.write_range("clicks", partition, 0, 5, rows(0, 5, partition=partition, days=3))
    assert ClickLogWriter(tmp_path).recover("clicks", 1) is None
    assert len(list_files(tmp_path).incomplete) == 2
    ClickLogWriter(tmp_path).recover("clicks", 0)
    (left,) = list_files(tmp_path).incomplete
    assert left.range.partition == 10
    assert [path.name.split("-")[1] for path in (tmp_path / ".incoming").iterdir()] == ["10"] * 2


def test_a_range_without_a_valid_click_leaves_no_file(tmp_path: Path) -> None:
    assert ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 9, rows(0, 9).slice(0, 0)) == 0
    assert list_files(tmp_path).complete == ()


def test_clicks_of_overlapping_ranges_are_read_once_in_order(tmp_path: Path) -> None:
    """Two archives that both held a partition for a moment have both written it."""
    writer = ClickLogWriter(tmp_path)
    writer.write_range("clicks", 0, 0, 9, rows(0, 9, days=2))
    writer.write_range("clicks", 0, 5, 14, rows(5, 14, days=2))
    writer.write_range("clicks", 1, 0, 9, rows(0, 9, partition=1, days=2))
    for table in read_window(tmp_path):
        keys = list(
            zip(
                *(table[n].to_pylist() for n in ("event_time_ms", "partition", "offset")),
                strict=True,
            )
        )
        assert keys == sorted(set(keys))
    assert sum(len(table) for table in read_window(tmp_path)) == 15 + 10


def test_a_window_cuts_by_event_time(tmp_path: Path) -> None:
    ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 11, rows(0, 11, days=4))
    assert read_offsets(tmp_path, start_ms=DAY_0_MS + DAY_MS, end_ms=DAY_0_MS + 2 * DAY_MS) == [
        1,
        5,
        9,
    ]
    assert read_offsets(tmp_path, start_ms=DAY_0_MS + 4, end_ms=DAY_0_MS + 8) == [4]
    assert read_offsets(tmp_path, start_ms=DAY_0_MS + 9 * DAY_MS) == []
    assert read_offsets(tmp_path / "nothing-there") == []
    (table,) = read_window(tmp_path, end_ms=DAY_0_MS + 1, columns=["item_id", "offset"])
    assert table.schema.names == ["item_id", "offset"]


def test_an_erased_session_is_left_out_up_to_its_erase_event(tmp_path: Path) -> None:
    """Also where the erase event lies in a later day; clicks after it are a new session's."""
    writer = ClickLogWriter(tmp_path)
    writer.write_range("clicks", 0, 0, 9, rows(0, 9, days=2))
    erase = rows(10, 12, session_id=["s3", "s3", "s4"], event_type=[VIEW_ITEM, ERASE, VIEW_ITEM])
    writer.write_range("clicks", 0, 10, 12, erase)
    writer.write_range("clicks", 0, 13, 14, rows(13, 14, days=2))
    assert sorted(read_offsets(tmp_path)) == [0, 1, 2, 4, 5, 6, 7, 9, 12, 13, 14]


def test_an_erase_event_on_another_partition_counts_by_kafkas_clock(tmp_path: Path) -> None:
    writer = ClickLogWriter(tmp_path)
    writer.write_range("clicks", 0, 0, 9, rows(0, 9))
    erase = rows(5, 5, partition=1, session_id=["s1"], event_type=[ERASE])
    writer.write_range("clicks", 1, 5, 5, erase)
    # s1 has clicked at 1 and 6; the erase event was stored at the time of 5.
    assert read_offsets(tmp_path) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_clicks_without_a_session_are_read_on_request_only(tmp_path: Path) -> None:
    table = rows(0, 2, session_id=["a", None, "b"], consent=[True, False, True])
    ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 2, table)
    assert read_offsets(tmp_path) == [0, 2]
    assert read_offsets(tmp_path, anonymous=True) == [0, 1, 2]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    ClickLogWriter(tmp_path).write_range("clicks", 0, 0, 2, rows(0, 2))
    (path,) = tmp_path.glob("day=*/*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ClickFileError, match=r"clicks-0-0-2\.1of1.*cannot be read"):
        list(read_window(tmp_path))


def test_files_of_an_earlier_topic_are_refused_by_the_writer(tmp_path: Path) -> None:
    ClickLogWriter(tmp_path, topic_id=b"a" * 16).write_range("clicks", 0, 0, 2, rows(0, 2))
    assert ClickLogWriter(tmp_path, topic_id=b"a" * 16).recover("clicks", 0) == 3
    with pytest.raises(ConfigurationError, match="earlier topic"):
        ClickLogWriter(tmp_path, topic_id=b"b" * 16).recover("clicks", 0)


def test_names_with_dashes_and_strangers_beside_them_are_told_apart(tmp_path: Path) -> None:
    topic = "shop-1.clicks-2.v1"
    writer = ClickLogWriter(tmp_path)
    table = rows(7, 9).set_column(
        0, LOG_COLUMNS.field("topic"), pa.array([topic] * 3).dictionary_encode()
    )
    writer.write_range(topic, 12, 7, 9, table)
    (tmp_path / "day=2023-11-15" / "notes.parquet").write_text("not ours")
    (tmp_path / "README").write_text("not ours")
    (file,) = list_files(tmp_path).complete
    assert (file.range.topic, file.range.partition, file.range.first) == (topic, 12, 7)
    assert writer.recover(topic, 12) == 10


def test_a_probe_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk a file can still be created: one more for each start of a supervisor."""
    writer = ClickLogWriter(tmp_path)
    real_open = LocalFileSystem.open

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def created_and_full(self: LocalFileSystem, path: str, mode: str) -> Full:
        real_open(self, path, mode).close()
        return Full()

    monkeypatch.setattr(LocalFileSystem, "open", created_and_full)
    with pytest.raises(OSError, match="No space left"):
        writer.check_writable()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_other_file_systems_work_by_url() -> None:
    root = "memory://nextclick-test/log"
    writer = ClickLogWriter(root)
    writer.check_writable()
    writer.write_range("clicks", 0, 0, 8, rows(0, 8, days=3))
    assert writer.recover("clicks", 0) == 9
    assert sum(len(table) for table in read_window(root)) == 9

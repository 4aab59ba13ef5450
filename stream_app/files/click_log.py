"""The click log: archived clicks as Parquet, by day of event time; its files are the whole truth.

A file is `<root>/day=YYYY-MM-DD/<topic>-<partition>-<first>-<last>.<i>of<k>.parquet`: part i of the k
days that the offsets first..last of a partition touch.  **A range counts once all its k parts are
there**; readers leave out any other, and the writer that takes over the partition deletes it and
writes its clicks anew.  So a process killed between any two steps leaves no click missing or twice.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from stream_app.core.errors import ClickFileError, ConfigurationError
from stream_app.core.records import ERASE

LOG_COLUMNS: Final = pa.schema(
    [
        pa.field("topic", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("kafka_timestamp_ms", pa.int64(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_time_ms", pa.int64(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("event_id", pa.string()),
        pa.field("user_id", pa.string()),
        pa.field("recommendation_id", pa.string()),
        pa.field("consent", pa.bool_(), nullable=False),
        pa.field("properties", pa.string()),
    ]
)
"""session_id and user_id are null where the visitor gave no consent."""

DAY_MS: Final = 86_400_000

_FILE: Final = re.compile(
    r"day=(?P<day>\d{4}-\d\d-\d\d)/(?P<topic>[^/]+)-(?P<partition>\d+)"
    r"-(?P<first>\d+)-(?P<last>\d+)\.(?P<part>\d+)of(?P<parts>\d+)\.parquet"
)
INCOMING: Final = ".incoming"
_ERASURES: Final = b"nextclick.erasures"
"""Key in a file's footer: how many erase events it holds, so that most files need not be read for them."""
_TOPIC_ID: Final = b"nextclick.topic-id"


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """The offsets first..last (both included) of one partition, spread over `parts` files."""

    topic: str
    partition: int
    first: int
    last: int
    parts: int


@dataclass(frozen=True, slots=True)
class LogFile:
    path: str
    day: str
    range: OffsetRange
    part: int

    def is_of(self, topic: str, partition: int) -> bool:
        return (self.range.topic, self.range.partition) == (topic, partition)


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a click log: files of complete ranges, and those of ranges cut short."""

    complete: tuple[LogFile, ...]
    incomplete: tuple[LogFile, ...]

    def days(self) -> list[str]:
        return sorted({file.day for file in self.complete})


def list_files(root: str | Path) -> Contents:
    """Look at the names alone.  A root that is not there is an empty log."""
    fs, base = fsspec.core.url_to_fs(str(root))
    fs.invalidate_cache()
    found = _files_in(fs, base)
    seen: dict[OffsetRange, set[int]] = defaultdict(set)
    for file in found:
        seen[file.range].add(file.part)
    complete = {r for r, parts in seen.items() if parts == set(range(1, r.parts + 1))}
    return Contents(
        complete=tuple(file for file in found if file.range in complete),
        incomplete=tuple(file for file in found if file.range not in complete),
    )


def read_window(
    root: str | Path,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    anonymous: bool = False,
    columns: Iterable[str] | None = None,
) -> Iterator[pa.Table]:
    """The archived clicks with start_ms <= event time < end_ms, a table per day, oldest day first.

    root: directory or any fsspec URL.  Columns: `LOG_COLUMNS`, or those named.  Rows are by event
    time, then by partition and offset, each (topic, partition, offset) once.  Clicks of a session
    before its erase event are left out, erase events too, and clicks without consent unless
    `anonymous`.  One day is in memory at a time.  Raises `ClickFileError` for an unreadable file.
    """
    fs, _ = fsspec.core.url_to_fs(str(root))
    contents = list_files(root)
    erasures = Erasures.read(fs, contents.complete)
    names = list(LOG_COLUMNS.names if columns is None else columns)
    for day in contents.days():
        begins_ms = day_start_ms(day)
        if (end_ms is not None and begins_ms >= end_ms) or (
            start_ms is not None and begins_ms + DAY_MS <= start_ms
        ):
            continue
        files = [file for file in contents.complete if file.day == day]
        table = pa.concat_tables(read_file(fs, file.path) for file in files)
        table = _within(table, start_ms, end_ms)
        table = erasures.apply(table)
        if not anonymous:
            table = table.filter(pc.is_valid(table["session_id"]))
        table = in_order(table)
        if len(table):
            yield table.select(names).combine_chunks()


def day_start_ms(day: str) -> int:
    """`2026-11-24` -> ms since 1970."""
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


class ClickLogWriter:
    """Writes ranges of one click log.  Local directories are safe against kills and power failures.

    On other file systems a part is written under its final name, which object stores do atomically.
    topic_id: names the topic's incarnation; files of another one of the same name are refused.
    checkpoint: called with the name of each step once it is done; tests crash there.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        topic_id: bytes = b"",
        checkpoint: Callable[[str], None] | None = None,
    ) -> None:
        self._fs, self._base = fsspec.core.url_to_fs(str(root))
        self._local = isinstance(self._fs, LocalFileSystem)
        self._root = str(root)
        self._topic_id = topic_id.hex().encode()
        self._done = checkpoint or (lambda _: None)

    def check_writable(self) -> None:
        """Raises `OSError` if nothing can be written here."""
        probe = f"{self._base}/{INCOMING}/probe-{uuid4().hex}"
        self._fs.makedirs(f"{self._base}/{INCOMING}", exist_ok=True)
        try:
            with self._fs.open(probe, "wb") as stream:
                stream.write(b"x")
        finally:  # on a full disk the file is there, and empty
            if self._fs.exists(probe):
                self._fs.rm_file(probe)

    def recover(self, topic: str, partition: int) -> int | None:
        """Delete what a killed writer left of this partition; the offset after its last whole range.

        None: nothing of it was archived yet.  To be called by whoever takes over the partition.
        Raises `ConfigurationError` if the log is of an earlier topic of that name.
        """
        contents = list_files(self._root)
        for file in contents.incomplete:
            if file.is_of(topic, partition):
                self._fs.rm_file(file.path)
        for path in self._incoming(topic, partition):
            path.unlink(missing_ok=True)
        ours = [file for file in contents.complete if file.is_of(topic, partition)]
        if not ours:
            return None
        newest = max(ours, key=lambda file: file.range.last)
        self._check_topic_id(newest)
        return newest.range.last + 1

    def _check_topic_id(self, file: LogFile) -> None:
        with opened(self._fs, file.path) as parquet:
            theirs = (parquet.schema_arrow.metadata or {}).get(_TOPIC_ID, b"")
        if theirs and self._topic_id and theirs != self._topic_id:
            raise ConfigurationError(
                f"the click log {self._root} was written from an earlier topic {file.range.topic}, whose "
                "offsets mean nothing in the one of today: set another click_log, or move the old one "
                "away (it can still be read for training under its own directory)"
            )

    def write_range(self, topic: str, partition: int, first: int, last: int, rows: pa.Table) -> int:
        """Archive the offsets first..last, of which `rows` (`LOG_COLUMNS`) hold the valid clicks.

        Returns the number of files; none where no click was valid.  Raises `OSError` (disk full,
        not writable), and then the range does not count.
        """
        by_day = list(_split_by_day(rows.cast(LOG_COLUMNS)))
        names = [
            f"day={day}/{topic}-{partition}-{first}-{last}.{i}of{len(by_day)}.parquet"
            for i, (day, _) in enumerate(by_day, 1)
        ]
        if not self._local:
            for name, (_, table) in zip(names, by_day, strict=True):
                with self._fs.open(f"{self._base}/{name}", "wb") as stream:
                    self._write_parquet(table, stream)
                self._done("part_in_place")
            return len(names)

        temporary: list[Path] = []
        for table in (table for _, table in by_day):
            path = Path(self._base, INCOMING, f"{topic}-{partition}-{uuid4().hex}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("wb") as stream:
                    self._write_parquet(table, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
            except BaseException:
                for each in (*temporary, path):
                    each.unlink(missing_ok=True)
                raise
            temporary.append(path)
            self._done("part_written")
        for path, name in zip(temporary, names, strict=True):
            target = Path(self._base, name)
            _make_directory(target.parent)
            path.rename(target)
            fsync_directory(target.parent)
            self._done("part_in_place")
        return len(names)

    def _write_parquet(self, table: pa.Table, stream: Any) -> None:
        erasures = pc.sum(pc.equal(table["event_type"], ERASE)).as_py()
        facts = {_ERASURES: str(erasures), _TOPIC_ID: self._topic_id}
        pq.write_table(table.replace_schema_metadata(facts), stream, compression="zstd")

    def _incoming(self, topic: str, partition: int) -> Iterator[Path]:
        pattern = re.compile(rf"{re.escape(topic)}-{partition}-[0-9a-f]+\.parquet")
        folder = Path(self._base, INCOMING)
        if self._local and folder.is_dir():
            yield from (path for path in folder.iterdir() if pattern.fullmatch(path.name))


@dataclass(frozen=True, slots=True)
class Erasures:
    """Which sessions were erased, and where in the log."""

    rows: pa.Table
    """session_id, and topic, partition, offset and kafka_timestamp_ms of the erase event."""

    @classmethod
    def read(cls, fs: Any, files: Iterable[LogFile]) -> "Erasures":
        found = []
        for file in files:
            with opened(fs, file.path) as parquet:
                if (parquet.schema_arrow.metadata or {}).get(_ERASURES) == b"0":
                    continue
                table = parquet.read()
                found.append(table.filter(pc.equal(table["event_type"], ERASE)))
        rows = pa.concat_tables(found) if found else LOG_COLUMNS.empty_table()
        return cls(rows.filter(pc.is_valid(rows["session_id"])))

    def may_touch(self, parquet: pq.ParquetFile) -> bool:
        """Whether a file holds a click of an erased session, before or after its erase event."""
        if not len(self.rows):
            return False
        ids = parquet.read(columns=["session_id"])["session_id"]
        return bool(pc.any(pc.is_in(ids, self.rows["session_id"].combine_chunks())).as_py())

    def apply(self, table: pa.Table) -> pa.Table:
        """Without erase events and without what came before them in the log."""
        table = table.filter(pc.not_equal(table["event_type"], ERASE))
        erased = self.rows["session_id"].combine_chunks()
        touched = pc.fill_null(pc.is_in(table["session_id"], erased.unique()), False).to_numpy()
        if not touched.any():
            return table
        by_session = defaultdict(list)
        for row in self.rows.to_pylist():
            by_session[row["session_id"]].append(row)
        keep = ~touched
        rows = table.select(["session_id", "topic", "partition", "offset", "kafka_timestamp_ms"])
        indexes = np.flatnonzero(touched)
        for index, row in zip(indexes, rows.take(pa.array(indexes)).to_pylist(), strict=True):
            keep[index] = not any(_came_before(row, e) for e in by_session[row["session_id"]])
        return table.filter(pa.array(keep))


def _came_before(row: dict[str, Any], erasure: dict[str, Any]) -> bool:
    if (row["topic"], row["partition"]) == (erasure["topic"], erasure["partition"]):
        return bool(row["offset"] < erasure["offset"])
    # Offsets of two partitions say nothing of each other; Kafka's clock does.
    return bool(row["kafka_timestamp_ms"] <= erasure["kafka_timestamp_ms"])


def _files_in(fs: Any, base: str) -> list[LogFile]:
    if not fs.exists(base):
        return []
    files = []
    for path in sorted(fs.find(base)):
        match = _FILE.search(path)
        if match and path.endswith(match.group()):
            number = {name: int(match[name]) for name in ("partition", "first", "last", "parts")}
            files.append(
                LogFile(
                    path=path,
                    day=match["day"],
                    range=OffsetRange(topic=match["topic"], **number),
                    part=int(match["part"]),
                )
            )
    return files


class opened:  # noqa: N801 - a context manager that reads like a function
    """A Parquet file of the log, with errors that name it."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path = fs, path

    def __enter__(self) -> pq.ParquetFile:
        try:
            self._stream = self._fs.open(self._path, "rb")
            return pq.ParquetFile(self._stream)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(error) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stream.close()
        if isinstance(error, OSError | pa.ArrowInvalid):
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> ClickFileError:
        return ClickFileError(
            f"{self._path}: this file of the click log cannot be read ({error}): restore it from a "
            "copy, or move all parts of its offset range away to go on without these clicks"
        )


def read_file(fs: Any, path: str) -> pa.Table:
    """All of a file of the log, `LOG_COLUMNS`.  Raises `ClickFileError`."""
    with opened(fs, path) as parquet:
        return parquet.read().cast(LOG_COLUMNS)


def _within(table: pa.Table, start_ms: int | None, end_ms: int | None) -> pa.Table:
    if start_ms is not None:
        table = table.filter(pc.greater_equal(table["event_time_ms"], start_ms))
    if end_ms is not None:
        table = table.filter(pc.less(table["event_time_ms"], end_ms))
    return table


def in_order(table: pa.Table) -> pa.Table:
    """By event time, topic, partition and offset; a click that two ranges hold, once."""
    topics = pc.dictionary_encode(table["topic"].combine_chunks().cast(pa.string()))
    rank = pc.rank(topics.dictionary, tiebreaker="dense").to_numpy()
    topic = rank[topics.indices.to_numpy()] if len(table) else np.empty(0, np.uint64)
    keys = [table[name].to_numpy() for name in ("offset", "partition", "event_time_ms")]
    order = np.lexsort((keys[0], keys[1], topic, keys[2]))
    columns = [key[order] for key in (*keys, topic)]
    again = np.zeros(len(order), bool)
    # The same click has the same event time, so copies have become neighbours.
    again[1:] = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return table.take(pa.array(order[~again]))


def _split_by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    if not len(rows):
        return
    days = rows["event_time_ms"].to_numpy() // DAY_MS
    for day in np.unique(days).tolist():
        name = datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date().isoformat()
        yield name, rows.filter(pa.array(days == day))


def _make_directory(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

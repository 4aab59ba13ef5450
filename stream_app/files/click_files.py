"""Click files in any known format: whole for training, click by click for a replay.

Formats (told by content, gzip allowed): the JSON of the click topic as lines; CSV, TSV and Parquet
with a column mapping; RetailRocket `events.csv`; Yoochoose `.dat`; Diginetica `train-item-views.csv`;
OTTO `.jsonl`; and benchmark sequences (Parquet, for training and evaluation only).
Everything that is wrong with a file is a `ClickFileError` naming file, line, column and what to write.
"""

import heapq
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_app.core.records import Click, ItemId
from stream_app.files.click_columns import (
    ALL_COLUMNS,
    CLICK_COLUMNS,
    BadCellError,
    as_ids,
    required,
)
from stream_app.files.click_formats import (
    FORMATS,
    TARGETS,
    ClickFormat,
    detect_format,
    file_error,
    is_sequences,
    known_format,
    open_parquet,
    parse_columns,
    reading,
)
from stream_app.files.click_readers import read_batches

__all__ = [
    "CLICK_COLUMNS",
    "FORMATS",
    "TARGETS",
    "ClickFormat",
    "count_clicks",
    "detect_format",
    "is_sequences",
    "iter_clicks",
    "parse_columns",
    "read_sequences",
    "read_table",
]

RUN_ROWS: Final = 1_000_000
"""Clicks sorted in memory at once; a longer file is sorted through temporary files."""

SEQUENCE_COLUMNS: Final = pa.schema(
    [
        pa.field("session_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


def read_table(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the name of the flag and of the thing
    columns: Mapping[str, str] | None = None,
) -> pa.Table:
    """A whole click file, by event time; clicks of the same ms stay in file order.

    format: one of `FORMATS`, told by content where None.  columns: {"item_id": "sku", ...}, by name
    where left out.  Columns: `CLICK_COLUMNS` (event_type is "view_item" where the file has none;
    event_id and user_id may be null).  Raises `ClickFileError`.
    """
    path = Path(path)
    batches = [
        batch.select(CLICK_COLUMNS.names)
        for batch in read_batches(path, known_format(path, format), columns)
    ]
    if not batches:
        raise file_error(path, "holds no clicks")
    return _by_time(pa.Table.from_batches(batches, schema=CLICK_COLUMNS))


def iter_clicks(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the name of the flag and of the thing
    columns: Mapping[str, str] | None = None,
    order: Literal["time", "file"] = "time",
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Iterator[Click]:
    """A click file as clicks, by event time or in file order; memory is bounded in both.

    A file of more than `RUN_ROWS` clicks is put in order through temporary files, so nothing is
    yielded before it was read (and checked) to its end; in file order clicks come at once.
    start_ms, end_ms: only clicks with start_ms <= event time < end_ms.  Raises `ClickFileError`.
    """
    path = Path(path)
    batches = read_batches(path, known_format(path, format), columns)
    cut = _within(_never_empty(path, batches), start_ms, end_ms)
    if order == "file":
        for batch in cut:
            yield from clicks_of(batch)
    else:
        yield from _sorted_clicks(cut)


def count_clicks(path: str | Path) -> int | None:
    """How many clicks a file holds, where that is cheap to know (Parquet); else None."""
    path = Path(path)
    if detect_format(path) != "parquet":
        return None
    with reading(path):
        return int(open_parquet(path).metadata.num_rows)


def read_sequences(path: str | Path) -> pa.Table:
    """Benchmark sessions: session_id and item_id (string), position (int64, from 0), split.

    split is "train" or "test".  Rows are in file order of the sessions, positions ascending within
    each.  Raises `ClickFileError`.
    """
    path = Path(path)
    if not is_sequences(path):
        raise file_error(path, "holds no sequences (Parquet: session_id, item_id, position, split)")
    with reading(path):
        table = open_parquet(path).read()
    if "split" not in table.schema.names:
        raise file_error(path, "has no column split (train or test)")
    arrays = []
    for field in SEQUENCE_COLUMNS:
        try:
            column = table.column(field.name)
            arrays.append(
                required(as_ids(column))
                if pa.types.is_string(field.type)
                else column.cast(field.type)
            )
        except (BadCellError, pa.ArrowInvalid, KeyError) as error:
            raise file_error(path, str(error), column=field.name) from error
    result = pa.Table.from_arrays(arrays, schema=SEQUENCE_COLUMNS)
    strange = set(pc.unique(result["split"]).to_pylist()) - {"train", "test"}
    if strange:
        raise file_error(path, f"holds {min(strange)!r}: write train or test", column="split")
    return _by_position(result)


def clicks_of(batch: pa.RecordBatch | pa.Table) -> Iterator[Click]:
    """Rows of `ALL_COLUMNS` as clicks."""
    names = ALL_COLUMNS.names
    for row in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
        session_id, item_id, time_ms, event_type, event_id, user_id, shown, consent, extra = row
        yield Click(
            session_id=session_id,
            item_id=ItemId(item_id),
            event_time_ms=time_ms,
            event_type=event_type,
            event_id=event_id,
            user_id=user_id,
            recommendation_id=shown,
            consent=consent,
            properties=msgspec.Raw((extra or "").encode()),
        )


def _never_empty(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        rows += len(batch)
        yield batch
    if rows == 0:
        raise file_error(path, "holds no clicks")


def _within(
    batches: Iterator[pa.RecordBatch], start_ms: int | None, end_ms: int | None
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        cut = batch
        if start_ms is not None:
            cut = cut.filter(pc.greater_equal(cut["event_time_ms"], start_ms))
        if end_ms is not None:
            cut = cut.filter(pc.less(cut["event_time_ms"], end_ms))
        if len(cut):
            yield cut


def _by_time(table: pa.Table) -> pa.Table:
    times = table["event_time_ms"].to_numpy()
    if len(times) > 1 and (np.diff(times) < 0).any():
        table = table.take(pa.array(np.argsort(times, kind="stable")))
    return table.combine_chunks()


def _sorted_clicks(batches: Iterator[pa.RecordBatch]) -> Iterator[Click]:
    """Sort in runs of `RUN_ROWS`; all but a single run go through disk and are merged from there."""
    with tempfile.TemporaryDirectory(prefix="nextclick-sort-") as scratch:
        spilled: list[Path] = []
        run: list[pa.RecordBatch] = []
        for batch in batches:
            run.append(batch)
            if sum(map(len, run)) >= RUN_ROWS:
                spilled.append(_spill(run, Path(scratch, f"{len(spilled)}.parquet")))
                run = []
        if not spilled:
            yield from clicks_of(_sorted_run(run))
            return
        if run:
            spilled.append(_spill(run, Path(scratch, f"{len(spilled)}.parquet")))
        # heapq.merge is stable, so clicks of the same ms keep the file's order here as well.
        yield from heapq.merge(*map(_read_run, spilled), key=lambda click: click.event_time_ms)


def _sorted_run(run: list[pa.RecordBatch]) -> pa.Table:
    return _by_time(pa.Table.from_batches(run, schema=ALL_COLUMNS))


def _spill(run: list[pa.RecordBatch], path: Path) -> Path:
    with reading(path):
        pq.write_table(_sorted_run(run), path, compression="lz4", row_group_size=1 << 14)
    return path


def _read_run(path: Path) -> Iterator[Click]:
    for batch in pq.ParquetFile(path).iter_batches(1 << 12):
        yield from clicks_of(batch)


def _by_position(table: pa.Table) -> pa.Table:
    """Sessions in order of their first row, positions ascending within."""
    sessions = pc.dictionary_encode(table["session_id"].combine_chunks()).indices.to_numpy()
    positions = table["position"].to_numpy()
    order = np.lexsort((positions, sessions))
    return table if (np.diff(order) == 1).all() else table.take(pa.array(order))

"""Every click format as a stream of record batches in file order; memory stays that of one batch."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from stream_app.core.clicks import decode_click
from stream_app.core.errors import BadRecordError
from stream_app.core.records import UNREADABLE, VIEW_ITEM, Click
from stream_app.files.click_columns import (
    ALL_COLUMNS,
    BadCellError,
    EventTimes,
    as_event_types,
    as_ids,
    in_range,
    iso_to_ms,
    required,
    whole_numbers,
)
from stream_app.files.click_formats import (
    ClickFormat,
    ColumnPlan,
    delimiter_of,
    file_error,
    first_line,
    open_bytes,
    open_parquet,
    plan_columns,
    reading,
    split_header,
)

T = TypeVar("T")

Place = Callable[[int], tuple[str, int]]
"""Index in the batch -> unit and number for the error message."""

BATCH_ROWS: Final = 1 << 16
LINE_BYTES_MAX: Final = 1 << 24
"""No click and no session is as long; a small gzip file can unpack to a line that fills the memory."""
_CSV_BLOCK_BYTES: Final = 1 << 22
_BROKEN_ROW: Final = re.compile(
    r"Row #(?P<row>\d+): Expected (?P<expected>\d+) columns, got (?P<found>\d+)"
)
_CLICK_LOG_NAMES: Final = {"topic", "partition", "offset", "session_id", "consent", "properties"}


def read_batches(
    path: Path, kind: ClickFormat, columns: Mapping[str, str] | None
) -> Iterator[pa.RecordBatch]:
    """Batches of `ALL_COLUMNS` in file order.  Raises `ClickFileError` with line and column."""
    if columns and kind not in ("csv", "tsv", "parquet"):
        raise file_error(path, f"is {kind}, whose columns are fixed: leave the column mapping out")
    match kind:
        case "jsonl":
            return _in_batches(_json_clicks(path))
        case "otto":
            return _otto(path)
        case "parquet":
            return _parquet(path, columns)
        case "csv" | "tsv" | "retailrocket":
            return _delimited(path, columns)
        case "yoochoose":
            return _yoochoose(path)
        case "diginetica":
            return _diginetica(path)
        case "sequences":
            raise file_error(
                path, "holds ordered sessions without a clock: only training and evaluation read it"
            )


# --- JSON lines ---------------------------------------------------------------------------------


def lines_of(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Line number from 1, the line without its end, and whether it had one; blank lines left out."""
    with reading(path), open_bytes(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LINE_BYTES_MAX + 1), b""), 1):
            if len(line) > LINE_BYTES_MAX:
                raise file_error(
                    path, f"the line is longer than {LINE_BYTES_MAX >> 20} MiB", line=number
                )
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - the mark is no content
            body = line.rstrip(b"\r\n")
            if body.strip():
                yield number, body, line.endswith(b"\n")


def _json_clicks(path: Path) -> Iterator[Click]:
    for number, line, ended in lines_of(path):
        try:
            click = decode_click(line)
        except BadRecordError as error:
            if not ended and error.kind in ("MalformedJson", "NotUtf8"):
                raise _cut_off(path, number) from error
            raise file_error(path, str(error), line=number) from error
        yield click


def _in_batches(clicks: Iterator[Click]) -> Iterator[pa.RecordBatch]:
    rows: list[Click] = []
    for click in clicks:
        rows.append(click)
        if len(rows) == BATCH_ROWS:
            yield batch_of(rows)
            rows = []
    if rows:
        yield batch_of(rows)


def batch_of(clicks: list[Click]) -> pa.RecordBatch:
    """Clicks as a batch of `ALL_COLUMNS`."""
    values = {name: [getattr(click, name) for click in clicks] for name in ALL_COLUMNS.names[:-1]}
    values["properties"] = [
        bytes(click.properties).decode(errors="replace") if click.properties else None
        for click in clicks
    ]
    return pa.RecordBatch.from_pydict(values, schema=ALL_COLUMNS)


_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _OttoEvent(msgspec.Struct):
    aid: int
    ts: _Int64
    type: str


class _OttoSession(msgspec.Struct):
    session: int
    events: list[_OttoEvent]


def _otto(path: Path) -> Iterator[pa.RecordBatch]:
    decoder = msgspec.json.Decoder(_OttoSession)
    rows: list[tuple[int, int, _OttoEvent]] = []
    for number, line, ended in lines_of(path):
        try:
            session = decoder.decode(line)
        except UNREADABLE as error:
            if not ended and not isinstance(error, msgspec.ValidationError):
                raise _cut_off(path, number) from error
            raise file_error(path, f"is no session of OTTO: {error}", line=number) from error
        rows.extend((number, session.session, event) for event in session.events)
        if len(rows) >= BATCH_ROWS:
            yield _otto_batch(path, rows)
            rows = []
    if rows:
        yield _otto_batch(path, rows)


def _otto_batch(path: Path, rows: list[tuple[int, int, _OttoEvent]]) -> pa.RecordBatch:
    """rows: line number, session, event."""
    times_ms = pa.array([event.ts for _, _, event in rows], pa.int64())

    def place(index: int) -> tuple[str, int]:
        return "line", rows[index][0]

    return _batch(
        session_id=pa.array([str(session) for _, session, _ in rows], pa.string()),
        item_id=pa.array([str(event.aid) for _, _, event in rows], pa.string()),
        event_time_ms=_located(path, "ts", place, partial(in_range, times_ms)),
        event_type=as_event_types(pa.array([event.type for _, _, event in rows], pa.string())),
    )


# --- tables -------------------------------------------------------------------------------------


def _parquet(path: Path, columns: Mapping[str, str] | None) -> Iterator[pa.RecordBatch]:
    with reading(path):
        file = open_parquet(path)
        names = file.schema_arrow.names
        plan = plan_columns(path, names, columns)
        is_click_log = set(names) >= _CLICK_LOG_NAMES
        wanted = plan.names() + (
            ["recommendation_id", "consent", "properties"] if is_click_log else []
        )
        times = EventTimes(plan.event_time)
        row = 0
        for raw in file.iter_batches(BATCH_ROWS, columns=wanted):
            # Without consent the click log keeps no session: such a row cannot be told apart again.
            batch = raw.filter(raw["consent"]) if is_click_log else raw
            yield _convert(path, batch, plan, times, _row_after(row))
            row += len(raw)
        if row == 0:
            raise file_error(path, "holds no clicks")


def _row_after(rows_before: int) -> Place:
    def place(index: int) -> tuple[str, int]:
        return "row", rows_before + index + 1

    return place


def _convert(
    path: Path, batch: pa.RecordBatch, plan: ColumnPlan, times: EventTimes, place: Place
) -> pa.RecordBatch:
    def cell(name: str | None, read: Callable[[Any], pa.Array]) -> pa.Array | None:
        if name is None:
            return None
        return _located(path, name, place, lambda: read(batch.column(name)))

    extra = {
        name: batch.column(name)
        for name in ("recommendation_id", "consent", "properties")
        if name in batch.schema.names and name not in plan.names()
    }
    return _batch(
        session_id=cell(plan.session_id, lambda column: required(as_ids(column))),
        item_id=cell(plan.item_id, lambda column: required(as_ids(column))),
        event_time_ms=cell(plan.event_time, times.read),
        event_type=cell(plan.event_type, as_event_types),
        event_id=cell(plan.event_id, as_ids),
        user_id=cell(plan.user_id, as_ids),
        **extra,
    )


def _batch(
    *,
    session_id: pa.Array | None,
    item_id: pa.Array | None,
    event_time_ms: pa.Array | None,
    event_type: pa.Array | None = None,
    **others: pa.Array | None,
) -> pa.RecordBatch:
    assert session_id is not None
    size = len(session_id)
    given = {
        "session_id": session_id,
        "item_id": item_id,
        "event_time_ms": event_time_ms,
        "event_type": event_type,
        **others,
    }
    defaults = {"event_type": VIEW_ITEM, "consent": True}
    arrays = []
    for field in ALL_COLUMNS:
        array = given.get(field.name)
        if array is None:
            array = pa.repeat(pa.scalar(defaults.get(field.name), field.type), size)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=ALL_COLUMNS)


def _delimited(path: Path, columns: Mapping[str, str] | None) -> Iterator[pa.RecordBatch]:
    header = first_line(path)
    names = split_header(header)
    plan = plan_columns(path, names, columns)
    times = EventTimes(plan.event_time)
    for batch, place in _csv_batches(path, names, delimiter_of(header), plan.names(), skip_rows=1):
        yield _convert(path, batch, plan, times, place)


def _diginetica(path: Path) -> Iterator[pa.RecordBatch]:
    """`eventdate` is the day, `timeframe` the ms since its start; a user "NA" is none."""
    header = first_line(path)
    names = split_header(header)
    by_plain_name = {re.sub(r"[ _-]", "", name).lower(): name for name in names}
    session, user, item, frame, day = (
        by_plain_name.get(name, "")
        for name in ("sessionid", "userid", "itemid", "timeframe", "eventdate")
    )
    wanted = [name for name in (session, user, item, frame, day) if name]
    for batch, place in _csv_batches(path, names, delimiter_of(header), wanted, skip_rows=1):

        def cell(
            name: str, read: Callable[[Any], pa.Array], batch: Any = batch, place: Place = place
        ) -> pa.Array:
            return _located(path, name, place, lambda: read(batch.column(name)))

        days_ms = cell(day, lambda column: iso_to_ms(required(as_ids(column))))
        frames_ms = cell(frame, whole_numbers)
        times_ms = pc.add(days_ms, frames_ms)
        users = cell(user, as_ids) if user else None
        yield _batch(
            session_id=cell(session, lambda column: required(as_ids(column))),
            item_id=cell(item, lambda column: required(as_ids(column))),
            event_time_ms=_located(path, frame, place, partial(in_range, times_ms)),
            user_id=users
            and pc.if_else(pc.equal(users, "NA"), pa.scalar(None, pa.string()), users),
        )


def _not_available(users: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(users, "NA"), pa.scalar(None, pa.string()), users)


def _yoochoose(path: Path) -> Iterator[pa.RecordBatch]:
    """No header: session, time, item, category; or, in the file of purchases, item, price, quantity."""
    fields = first_line(path).count(",") + 1
    rest = ["category"] if fields == 4 else ["price", "quantity"]
    names = ["session_id", "timestamp", "item_id", *rest]
    plan = ColumnPlan(session_id="session_id", item_id="item_id", event_time="timestamp")
    times = EventTimes("timestamp")
    for batch, place in _csv_batches(path, names, ",", plan.names(), skip_rows=0):
        clicks = _convert(path, batch, plan, times, place)
        if fields == 5:
            bought = pa.repeat(pa.scalar("purchase"), len(clicks))
            clicks = clicks.set_column(3, ALL_COLUMNS.field("event_type"), bought)
        yield clicks


def _csv_batches(
    path: Path, names: list[str], delimiter: str, wanted: list[str], *, skip_rows: int
) -> Iterator[tuple[pa.RecordBatch, Place]]:
    """The wanted columns as bytes, and where their rows stand in the file."""
    row = 0
    with reading(path), open_bytes(path) as stream:
        try:
            batches = arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,
                    block_size=_CSV_BLOCK_BYTES,
                    column_names=names,
                    skip_rows=skip_rows,
                ),
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary())
                ),
            )
            for batch in batches:
                if len(batch):
                    yield batch, _place_after(path, row + skip_rows)
                row += len(batch)
        except pa.ArrowInvalid as error:
            raise _csv_error(path, row, error) from error
    if row == 0:
        raise file_error(path, "holds a header but no clicks")


def _place_after(path: Path, rows_before: int) -> Place:
    def place(index: int) -> tuple[str, int]:
        return "line", _line_of_row(path, rows_before + index)[0]

    return place


def _line_of_row(path: Path, row: int) -> tuple[int, bool]:
    """Line number of the row (from 0, header included), and whether that line is cut off."""
    number, ended = row + 1, True
    for index, (line_number, _, has_end) in enumerate(lines_of(path)):
        number, ended = line_number, has_end
        if index == row:
            break
    return number, not ended


def _csv_error(path: Path, row: int, error: Exception) -> Exception:
    # Read from the text: a handler for broken rows cannot be called for one that is not UTF-8.
    broken = _BROKEN_ROW.search(str(error))
    if broken is None:
        if row == 0 and ("Empty CSV" in str(error) or "Could not skip initial" in str(error)):
            return file_error(path, "holds a header but no clicks")
        return file_error(path, f"is no table: {error}")
    line, cut_off = _line_of_row(path, int(broken["row"]) - 1)
    if cut_off:
        return _cut_off(path, line)
    what = f"has {broken['found']} fields where {broken['expected']} are expected"
    return file_error(path, what, line=line)


def _cut_off(path: Path, line: int) -> Exception:
    return file_error(
        path, "the file ends in the middle of this line: copy or write it again", line=line
    )


def _located(path: Path, column: str, place: Place, read: Callable[[], T]) -> T:
    try:
        return read()
    except BadCellError as error:
        unit, number = place(error.row)
        raise file_error(path, str(error), line=number, column=column, unit=unit) from error

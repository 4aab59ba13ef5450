"""Columns of a click file -> columns of clicks, checked, a batch at a time."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from stream_app.core.clicks import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, ID_BYTES_MAX
from stream_app.core.records import VIEW_ITEM

CLICK_COLUMNS: Final = pa.schema(
    [
        pa.field("session_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_time_ms", pa.int64(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("event_id", pa.string()),
        pa.field("user_id", pa.string()),
    ]
)
"""What training reads of a click."""

ALL_COLUMNS: Final = pa.schema(
    [
        *CLICK_COLUMNS,
        pa.field("recommendation_id", pa.string()),
        pa.field("consent", pa.bool_(), nullable=False),
        pa.field("properties", pa.string()),
    ]
)
"""And what a replay carries besides."""

_EVENT_TYPES: Final = {
    VIEW_ITEM: ("view", "views", "click", "clicks", "item_view", "product_view", ""),
    "add_to_cart": ("addtocart", "cart", "carts", "add"),
    "purchase": ("transaction", "transactions", "order", "orders", "buy", "buys"),
}
"""Other shops' words for ours, in lower case; any other word stays as it is."""

_EVENT_TYPE_OF: Final = {word: ours for ours, words in _EVENT_TYPES.items() for word in words}


class BadCellError(Exception):
    """A cell that does not fit.  row: index within the batch."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row


def as_ids(column: Any) -> pa.Array:
    """Strings from text, bytes or numbers; "" and null become null.  Raises `BadCellError`."""
    array = _as_text(_flat(column))
    too_long = pc.greater(pc.binary_length(array), ID_BYTES_MAX)
    if pc.any(too_long).as_py():
        raise BadCellError(_first(too_long), f"the id is longer than {ID_BYTES_MAX} bytes")
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)


def required(array: pa.Array) -> pa.Array:
    """Raises `BadCellError` at the first null."""
    if array.null_count:
        raise BadCellError(_first(pc.is_null(array)), "nothing is written here")
    return array


def as_event_types(column: Any) -> pa.Array:
    """Our words for the event types; a null is a view."""
    coded = pc.dictionary_encode(pc.fill_null(_as_text(_flat(column)), ""))
    words = [_EVENT_TYPE_OF.get(word.lower(), word) for word in coded.dictionary.to_pylist()]
    return pa.array(words, pa.string()).take(coded.indices)


@dataclass(slots=True)
class EventTimes:
    """Reads event times to ms since the epoch, UTC.

    Numbers are seconds, ms, us or ns: told once, by the size of the file's first, or by a column
    name that ends in `_ms`.  Text is ISO 8601; without a zone it is taken as UTC.
    """

    name: str
    per_ms: float | None = None
    """Units of the file's numbers in a millisecond, once known."""

    def read(self, column: Any) -> pa.Array:
        """int64, checked to lie in the years 2000 to 2099.  Raises `BadCellError`."""
        return in_range(self._read(_flat(column)))

    def _read(self, array: pa.Array) -> pa.Array:
        kind = array.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return _timestamps_to_ms(required(array))
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            array = required(as_ids(array))
            if not len(array):
                return pa.array([], pa.int64())
            numbers = _numbers(array)
            if numbers is None:
                if self.per_ms is not None or _NUMBER.fullmatch(array[0].as_py()):
                    raise _not_a_number(array, "time in ms or seconds, unlike the first")
                return iso_to_ms(array)
            array = numbers
        return self._scale(required(array))

    def _scale(self, array: pa.Array) -> pa.Array:
        if self.per_ms is None and len(array):
            by_name = self.name.lower().endswith("_ms")
            self.per_ms = 1.0 if by_name else _units_per_ms(abs(array[0].as_py()))
        if self.per_ms in (1.0, None) and pa.types.is_integer(array.type):
            return array.cast(pa.int64())
        scaled = pc.divide(array.cast(pa.float64(), safe=False), float(self.per_ms or 1.0))
        finite = pc.and_(pc.is_finite(scaled), pc.less(pc.abs(scaled), 1e18))
        return pc.round(pc.if_else(finite, scaled, -1.0)).cast(pa.int64())


def in_range(times_ms: pa.Array) -> pa.Array:
    outside = pc.or_(pc.less(times_ms, EVENT_TIME_MS_MIN), pc.greater(times_ms, EVENT_TIME_MS_MAX))
    if pc.any(outside).as_py():
        raise BadCellError(
            _first(outside),
            "the time is not between the years 2000 and 2100: write ISO 8601 "
            "(2026-11-24T11:12:13.456Z), or seconds or milliseconds since 1970",
        )
    return times_ms


def whole_numbers(column: Any) -> pa.Array:
    """int64 from numbers or their text.  Raises `BadCellError`."""
    array = required(_flat(column))
    if not pa.types.is_integer(array.type):
        text = _as_text(array)
        numbers = _numbers(text)
        if numbers is None:
            raise _not_a_number(text, "number")
        array = numbers
    return array.cast(pa.int64(), safe=False)


def iso_to_ms(array: pa.Array) -> pa.Array:
    """ms of ISO 8601 text (a trailing " UTC" is understood).  Raises `BadCellError`."""
    array = pc.replace_substring_regex(array, r" UTC$", "Z")
    zoned = bool(re.search(r"([Zz]|[+-]\d\d:?\d\d)$", array[0].as_py())) if len(array) else False
    try:
        return _timestamps_to_ms(array.cast(pa.timestamp("ns", "UTC" if zoned else None)))
    except pa.ArrowInvalid:
        # Mixed forms, or a bad one: read them one by one to say which.
        return pa.array([_iso_ms(row, word) for row, word in enumerate(array.to_pylist())])


_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def _numbers(text: pa.Array) -> pa.Array | None:
    for kind in (pa.int64(), pa.float64()):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None


def _not_a_number(text: pa.Array, wanted: str) -> BadCellError:
    words = text.to_pylist()
    row = next((i for i, word in enumerate(words) if not _NUMBER.fullmatch(word)), 0)
    return BadCellError(row, f"{words[row][:40]!r} is no {wanted}")


def _iso_ms(row: int, word: str) -> int:
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        raise BadCellError(
            row, f"{word[:40]!r} is no time: write ISO 8601, or milliseconds since 1970"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _timestamps_to_ms(array: pa.Array) -> pa.Array:
    zone = getattr(array.type, "tz", None)
    return array.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64())


def _units_per_ms(size: float) -> float:
    """Seconds of this century are near 1e9, ms 1e12, us 1e15, ns 1e18."""
    if size < 1e11:
        return 1e-3
    if size < 1e14:
        return 1.0
    return 1e3 if size < 1e17 else 1e6


def _as_text(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_floating(kind):
        # Whole numbers that a missing value turned into floats: 17.0 is the id 17.
        whole = pc.equal(pc.floor(array), array)
        if pc.all(pc.fill_null(whole, True)).as_py():
            array = array.cast(pa.int64(), safe=False)
        return array.cast(pa.string())
    if pa.types.is_dictionary(kind):
        return _as_text(array.dictionary_decode())
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        pass
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise BadCellError(0, f"{kind} cannot be read as text") from None
    bad = next(row for row, raw in enumerate(array.to_pylist()) if not _is_utf8(raw))
    raise BadCellError(bad, "the text is not UTF-8: save the file as UTF-8")


def _is_utf8(raw: bytes | None) -> bool:
    try:
        (raw or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _flat(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return column


def _first(mask: pa.Array) -> int:
    return int(pc.index(mask, True).as_py())

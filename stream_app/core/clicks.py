"""Bytes of the click topic -> a valid `Click`, or the reason why not.

One decoder per format; a setting chooses.  So far there is JSON.
"""

import math
import re
from datetime import UTC, datetime
from typing import Final, TypeGuard

import msgspec

from stream_app.core.errors import BadRecordError
from stream_app.core.records import ERASE, VIEW_ITEM, Click, ItemId

ID_BYTES_MAX: Final = 512
"""A session remembers the ids of its items, so an id must not be as large as a page."""

EVENT_TIME_MS_MIN: Final = 946_684_800_000
"""2000-01-01.  Smaller numbers are nearly always seconds where milliseconds were meant."""
EVENT_TIME_MS_MAX: Final = 4_102_444_800_000
"""2100-01-01.  No click is later, whatever the broker's clock says."""

_RFC3339: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})"
)


class _WireClick(msgspec.Struct):
    """The JSON as producers may send it: numbers for ids, either kind of time, unknown fields."""

    item_id: str | int | float | None = None
    """What was clicked.  Required, but not of an `erase` event."""
    event_time: str | int | float | None = None
    """When the visitor clicked: RFC 3339 with a zone, or milliseconds since 1970.  Required; from the year 2000,
    and at most `serving.event_time_ahead_hours_max` ahead of the time at which Kafka stored the message."""
    session_id: str | int | float | None = None
    """Whose click it is.  This or `visitor_id` is required."""
    visitor_id: str | int | float | None = None
    """Taken where there is no `session_id`: a long silence splits a visitor's clicks into sessions."""
    event_type: str | None = None
    """`view_item` where it is missing.  Types in `serving.event_types` are answered, others archived;
    `erase` removes the session everywhere."""
    event_id: str | int | float | None = None
    """Names the event, so that one which a producer sends twice counts once."""
    user_id: str | int | float | None = None
    """Goes into the click log, for analyses of your own."""
    recommendation_id: str | None = None
    """The answer that showed the clicked item, if the shop knows.  Goes into the click log."""
    consent: bool | None = None
    """false: no state is kept, what there was is removed, and popularity answers."""
    properties: msgspec.Raw = msgspec.Raw()
    """Any JSON; goes into the click log as it is."""
    schema_version: int | None = None
    """Of the producer's own schema; read by nobody so far."""


_decoder: Final = msgspec.json.Decoder(_WireClick)
_encoder: Final = msgspec.json.Encoder()


def decode_click(
    value: bytes | None, *, kafka_timestamp_ms: int | None = None, ahead_ms_max: float = 86_400_000
) -> Click:
    """Decode and validate one JSON click.

    kafka_timestamp_ms: when Kafka stored the message; an event time more than `ahead_ms_max` later
    is refused (None: not checked).  Raises `BadRecordError`; its `kind` is one of `EmptyValue`,
    `NotUtf8`, `MalformedJson`, `WrongType`, `MissingField`, `BadId`, `BadEventTime`.
    """
    if not value:
        raise BadRecordError("EmptyValue", "the message has no value: send a JSON object")
    try:
        wire = _decoder.decode(value)
    except msgspec.ValidationError as error:
        raise BadRecordError("WrongType", f"a field has the wrong type: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _undecodable(value, error) from error
    except RecursionError as error:
        raise BadRecordError("MalformedJson", "the value is nested too deeply") from error

    session_id = wire.session_id
    if not _is_plain_id(session_id):
        session_id = _id(session_id, "session_id") or _id(wire.visitor_id, "visitor_id")
    if session_id is None:
        raise BadRecordError("MissingField", "neither session_id nor visitor_id is given")
    event_type = wire.event_type or VIEW_ITEM
    if len(event_type) > ID_BYTES_MAX:
        raise BadRecordError("BadId", f"event_type is longer than {ID_BYTES_MAX} characters")
    item_id = wire.item_id
    if not _is_plain_id(item_id):
        item_id = _id(item_id, "item_id")
    if item_id is None:
        if event_type != ERASE:
            raise BadRecordError("MissingField", "item_id is not given")
        item_id = ""
    return Click(
        session_id=session_id,
        item_id=ItemId(item_id),
        event_time_ms=_event_time_ms(wire.event_time, kafka_timestamp_ms, ahead_ms_max),
        event_type=event_type,
        event_id=None if wire.event_id is None else _id(wire.event_id, "event_id"),
        user_id=None if wire.user_id is None else _id(wire.user_id, "user_id"),
        recommendation_id=wire.recommendation_id,
        consent=wire.consent is not False,
        properties=wire.properties,
    )


def encode_click(click: Click) -> bytes:
    """The JSON that `decode_click` reads back to an equal click."""
    fields: dict[str, object] = {
        "event_type": click.event_type,
        "event_time": click.event_time_ms,
        "session_id": click.session_id,
        "item_id": click.item_id or None,  # an erase event has none
    }
    for name in ("event_id", "user_id", "recommendation_id"):
        value = getattr(click, name)
        if value is not None:
            fields[name] = value
    if click.properties:
        fields["properties"] = click.properties
    if not click.consent:
        fields["consent"] = False
    return _encoder.encode(fields)


def _undecodable(value: bytes, error: Exception) -> BadRecordError:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as not_utf8:
        return BadRecordError(
            "NotUtf8", f"byte {not_utf8.start} of the value is not UTF-8: send JSON in UTF-8"
        )
    return BadRecordError("MalformedJson", f"the value is no JSON object: {error}")


def _is_plain_id(value: object) -> TypeGuard[str]:
    """A string too short to have too many bytes: nearly every id, so it is asked first."""
    return type(value) is str and 0 < len(value) <= ID_BYTES_MAX // 4


def _id(value: object, field: str) -> str | None:
    """Ids are strings and may look like anything; numbers are turned into strings."""
    if value is None:
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRecordError("BadId", f"{field} is no finite number")
        # Above 2**53 a float has lost digits, and writing them out would make some up.
        value = str(int(value) if value.is_integer() and abs(value) < 2**53 else value)
    elif not isinstance(value, str):
        value = str(value)
    if not value:
        raise BadRecordError("BadId", f"{field} is the empty string")
    if len(value) * 4 > ID_BYTES_MAX and len(_utf8(value, field)) > ID_BYTES_MAX:
        raise BadRecordError("BadId", f"{field} is longer than {ID_BYTES_MAX} bytes")
    return value


def _utf8(value: str, field: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError("BadId", f"{field} holds half a surrogate pair") from error


def _event_time_ms(
    value: str | float | None, kafka_timestamp_ms: int | None, ahead_ms_max: float
) -> int:
    if value is None:
        raise BadRecordError("MissingField", "event_time is not given")
    if type(value) is int:
        event_time_ms = value
    else:
        event_time_ms = _parse_rfc3339(value) if isinstance(value, str) else _whole_ms(value)
    if event_time_ms < EVENT_TIME_MS_MIN:
        hint = "; it looks like seconds" if event_time_ms > 0 else ""
        raise BadRecordError(
            "BadEventTime",
            f"event_time {str(value)[:40]} is before the year 2000{hint}: send milliseconds since 1970 "
            "or RFC 3339",
        )
    limit_ms = EVENT_TIME_MS_MAX
    if kafka_timestamp_ms is not None:
        limit_ms = min(limit_ms, int(kafka_timestamp_ms + ahead_ms_max))
    if event_time_ms > limit_ms:
        raise BadRecordError(
            "BadEventTime",
            f"event_time {str(value)[:40]} is more than {ahead_ms_max / 3_600_000:g} h ahead of the time Kafka "
            "stored it: check the producer's clock, and that it sends milliseconds",
        )
    return event_time_ms


def _whole_ms(value: float) -> int:
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRecordError("BadEventTime", "event_time is no finite number")
    return int(value)


def _parse_rfc3339(text: str) -> int:
    """`2026-11-24T11:12:13.456Z` -> ms; digits are a number in quotation marks."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    if _RFC3339.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text.upper())
            return round(moment.astimezone(UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            pass
    raise BadRecordError(
        "BadEventTime",
        f"event_time {text[:40]!r} is neither RFC 3339 (2026-11-24T11:12:13.456Z) nor "
        "milliseconds since 1970",
    )

"""Whatever arrives on the click topic is a valid click or a bad record with a reason; nothing else."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.clicks import (
    EVENT_TIME_MS_MAX,
    EVENT_TIME_MS_MIN,
    ID_BYTES_MAX,
    decode_click,
    encode_click,
)
from stream_app.core.errors import BadRecordError
from stream_app.core.records import Click, ItemId
from tests.strategies import START_MS, ids

KINDS = {
    "EmptyValue",
    "NotUtf8",
    "MalformedJson",
    "WrongType",
    "MissingField",
    "BadId",
    "BadEventTime",
}
GOOD: dict[str, Any] = {"session_id": "s", "item_id": "i", "event_time": START_MS}


def decode(**changed: Any) -> Click:
    """GOOD with some fields changed (`...`: left out), decoded."""
    fields = {name: value for name, value in {**GOOD, **changed}.items() if value is not ...}
    return decode_click(json.dumps(fields).encode(), kafka_timestamp_ms=START_MS)


def decode_text(name: str, text: str) -> Click:
    """GOOD with one field as the JSON text given, for what `json.dumps` cannot write."""
    fields = {key: json.dumps(value) for key, value in GOOD.items()} | {name: text}
    body = ",".join(f'"{key}":{value}' for key, value in fields.items())
    return decode_click(f"{{{body}}}".encode(), kafka_timestamp_ms=START_MS)


@given(
    st.builds(
        Click,
        session_id=ids,
        item_id=ids.map(ItemId),
        event_time_ms=st.integers(EVENT_TIME_MS_MIN, EVENT_TIME_MS_MAX),
        event_type=ids,
        event_id=st.none() | ids,
        user_id=st.none() | ids,
        recommendation_id=st.none() | ids,
        consent=st.booleans(),
        properties=st.sampled_from((b"", b"{}", b'{"price":9.99,"tags":["a",null]}', b"7")).map(
            msgspec.Raw
        ),
    )
)
def test_any_click_survives_encoding(click: Click) -> None:
    """Ids may look like anything: control characters, emoji, quotation marks."""
    assert decode_click(encode_click(click)) == click


def test_the_least_that_makes_a_click() -> None:
    click = decode()
    assert (click.session_id, click.item_id, click.event_time_ms) == ("s", "i", START_MS)
    assert click.event_type == "view_item"
    assert click.consent
    assert (click.event_id, click.user_id, click.recommendation_id) == (None, None, None)


def test_unknown_fields_are_ignored_and_properties_kept_as_they_were() -> None:
    click = decode(shelf=[1, {"a": None}], properties={"price": 1.5}, schema_version=3)
    assert json.loads(bytes(click.properties)) == {"price": 1.5}


def test_the_visitor_stands_in_for_a_missing_session() -> None:
    assert decode(session_id=..., visitor_id="v").session_id == "v"
    assert decode(session_id=None, visitor_id="v").session_id == "v"
    assert decode(visitor_id="v").session_id == "s"


@pytest.mark.parametrize(
    ("text", "item_id"),
    [
        ("0", "0"),
        ("-7", "-7"),
        ("214536502", "214536502"),
        ("9007199254740993", "9007199254740993"),  # 2**53 + 1: no float on the way
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("7.0", "7"),
        ("7.5", "7.5"),
        ("1e23", "1e+23"),
        ("-0.0", "0"),
    ],
)
def test_numbers_become_ids_without_losing_a_digit(text: str, item_id: str) -> None:
    assert decode_text("item_id", text).item_id == item_id


@pytest.mark.parametrize(
    "text", ["\x00", "\x1b[31m", "\u202e", "\x7f", " ", "\ud83d\ude00", "a\nb"]
)
def test_control_characters_in_ids_pass_unharmed(text: str) -> None:
    value = text.encode("utf-16", "surrogatepass").decode("utf-16")  # pairs joined
    assert decode(item_id=value, session_id=value, event_id=value).item_id == value


@pytest.mark.parametrize(
    "written",
    [
        1_396_700_000_123,
        "1396700000123",
        1_396_700_000_123.0,
        "2014-04-05T12:13:20.123Z",
        "2014-04-05t12:13:20.123z",
        "2014-04-05 12:13:20.123Z",
        "2014-04-05T14:13:20.123+02:00",
        "2014-04-05T12:13:20.123456789Z",
        "2014-04-05T06:43:20.123-05:30",
    ],
)
def test_either_kind_of_time_is_read_to_the_millisecond(written: str | float) -> None:
    assert decode(event_time=written).event_time_ms == 1_396_700_000_123


@given(st.integers(EVENT_TIME_MS_MIN, EVENT_TIME_MS_MAX - 1), st.integers(-14 * 60, 14 * 60))
def test_rfc_3339_is_exact_in_every_zone(event_time_ms: int, zone_minutes: int) -> None:
    """Against integer arithmetic on the civil calendar, not against `datetime`."""
    local_ms = event_time_ms + zone_minutes * 60_000
    days, ms = divmod(local_ms, 86_400_000)
    year, month, day = _civil(days)
    hours, minutes = divmod(abs(zone_minutes), 60)
    text = (
        f"{year:04}-{month:02}-{day:02}T{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:"
        f"{ms // 1000 % 60:02}.{ms % 1000:03}{'-' if zone_minutes < 0 else '+'}{hours:02}:{minutes:02}"
    )
    value = json.dumps({**GOOD, "event_time": text}).encode()
    assert decode_click(value).event_time_ms == event_time_ms


def _civil(days: int) -> tuple[int, int, int]:
    """Days since 1970 -> year, month, day."""
    year = 1970
    while days >= (length := 366 if year % 4 == 0 and (year % 100 or year % 400 == 0) else 365):
        days, year = days - length, year + 1
    lengths = [31, 29 if length == 366 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    month = 0
    while days >= lengths[month]:
        days, month = days - lengths[month], month + 1
    return year, month + 1, days + 1


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (None, "EmptyValue", "no value"),
        (b"", "EmptyValue", "no value"),
        (b"{", "MalformedJson", "no JSON object"),
        (b'{"session_id": "s"', "MalformedJson", "no JSON object"),
        (b"{'session_id': 's'}", "MalformedJson", "no JSON object"),
        (b"\xef\xbb\xbf{}", "MalformedJson", "no JSON object"),
        (b"view_item,s,i", "MalformedJson", "no JSON object"),
        (b"\xff\xfe{}", "NotUtf8", "byte 0 of the value is not UTF-8"),
        (b'{"session_id": "\xe9"}', "NotUtf8", "byte 16 of the value is not UTF-8"),
        (b'{"session_id": "\xed\xa0\x80"}', "NotUtf8", "not UTF-8"),
        ('{"session_id": "s"}'.encode("utf-16"), "NotUtf8", "not UTF-8"),
        (b'{"session_id": "\\ud800 and more"}', "MalformedJson", "surrogate"),
        (b'{"session_id": "\\ud800"}', "MalformedJson", "no JSON object"),
        (b"null", "WrongType", "Expected `object`"),
        (b"[]", "WrongType", "Expected `object`"),
        (b'"s"', "WrongType", "Expected `object`"),
        (b"17", "WrongType", "Expected `object`"),
        (b"{}", "MissingField", "neither session_id nor visitor_id"),
        (b"[" * 100_000, "WrongType", "Expected `object`"),
        (b'{"properties": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "MalformedJson", "nested"),
        (b'{"other": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "MalformedJson", "nested"),
    ],
)
def test_a_value_that_is_no_json_object_says_why(value: bytes, kind: str, says: str) -> None:
    with pytest.raises(BadRecordError, match=says) as caught:
        decode_click(value, kafka_timestamp_ms=START_MS)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("changed", "kind", "says"),
    [
        ({"session_id": ...}, "MissingField", "session_id"),
        ({"session_id": None}, "MissingField", "session_id"),
        ({"item_id": ...}, "MissingField", "item_id"),
        ({"item_id": None}, "MissingField", "item_id"),
        ({"event_time": ...}, "MissingField", "event_time"),
        ({"event_time": None}, "MissingField", "event_time"),
        ({"session_id": ""}, "BadId", "session_id is the empty string"),
        ({"item_id": ""}, "BadId", "item_id is the empty string"),
        ({"event_id": ""}, "BadId", "event_id is the empty string"),
        ({"session_id": True}, "WrongType", "session_id"),
        ({"session_id": ["s"]}, "WrongType", "session_id"),
        ({"item_id": {"id": "i"}}, "WrongType", "item_id"),
        ({"item_id": False}, "WrongType", "item_id"),
        ({"event_time": True}, "WrongType", "event_time"),
        ({"event_time": [1]}, "WrongType", "event_time"),
        ({"event_type": 1}, "WrongType", "event_type"),
        ({"consent": "false"}, "WrongType", "consent"),
        ({"consent": 0}, "WrongType", "consent"),
        ({"schema_version": "1"}, "WrongType", "schema_version"),
        ({"item_id": "i" * (ID_BYTES_MAX + 1)}, "BadId", "longer than 512 bytes"),
        ({"item_id": "é" * 257}, "BadId", "longer than 512 bytes"),
        ({"item_id": int("9" * 600)}, "BadId", "longer than 512 bytes"),
        ({"item_id": "i" * 900_000}, "BadId", "longer than 512 bytes"),
        ({"session_id": "s" * 900_000}, "BadId", "session_id is longer"),
        ({"event_id": "e" * 900_000}, "BadId", "event_id is longer"),
        ({"event_type": "e" * 900_000}, "BadId", "event_type is longer"),
        ({"event_time": "1" * 900_000}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": ""}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "yesterday"}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "NaN"}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "2014-04-05"}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "2014-04-05T12:13:20"}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "2014-02-30T12:13:20Z"}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "2014-04-05T24:00:00Z"}, "BadEventTime", "neither RFC 3339"),
        ({"event_time": "0001-01-01T00:00:00+23:59"}, "BadEventTime", "event_time"),
        ({"event_time": "9999-12-31T23:59:59-23:59"}, "BadEventTime", "event_time"),
        ({"event_time": "9999-01-01T00:00:00Z"}, "BadEventTime", "producer's clock"),
        ({"event_time": 253_370_764_800_000}, "BadEventTime", "producer's clock"),
        ({"event_time": -1}, "BadEventTime", "before the year 2000"),
        ({"event_time": -1.5e300}, "BadEventTime", "before the year 2000"),
        ({"event_time": 0}, "BadEventTime", "before the year 2000"),
        ({"event_time": 1_764_000_000}, "BadEventTime", "it looks like seconds"),
        ({"event_time": 1_764_000_000.25}, "BadEventTime", "it looks like seconds"),
        ({"event_time": "1764000000"}, "BadEventTime", "it looks like seconds"),
        ({"event_time": 1_764_000_000_000_000}, "BadEventTime", "sends milliseconds"),
        ({"event_time": 10**300}, "BadEventTime", "producer's clock"),
        ({"event_time": 1e300}, "BadEventTime", "producer's clock"),
        ({"event_time": "9" * 18}, "BadEventTime", "producer's clock"),
        ({"event_time": START_MS + 86_400_001}, "BadEventTime", "24 h ahead"),
    ],
)
def test_a_bad_field_is_named(changed: dict[str, Any], kind: str, says: str) -> None:
    with pytest.raises(BadRecordError, match=says) as caught:
        decode(**changed)
    assert caught.value.kind == kind
    assert len(str(caught.value)) < 300, "the message travels in a header"


@pytest.mark.parametrize("name", ["item_id", "session_id", "event_time"])
@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5_000, "9" * 900_000]
)
def test_numbers_that_are_none_are_refused(name: str, text: str) -> None:
    with pytest.raises(BadRecordError) as caught:
        decode_text(name, text)
    assert caught.value.kind in {"MalformedJson", "WrongType", "BadId", "BadEventTime"}


def test_the_longest_id_that_fits_is_taken() -> None:
    assert len(decode(item_id="é" * 256).item_id) == 256


def test_properties_of_900_kb_are_carried_and_not_looked_into() -> None:
    assert len(bytes(decode(properties={"page": "x" * 900_000}).properties)) > 900_000


def test_how_far_ahead_a_click_may_be_is_measured_from_kafkas_timestamp() -> None:
    assert decode(event_time=START_MS + 86_400_000).event_time_ms == START_MS + 86_400_000
    value = json.dumps({**GOOD, "event_time": START_MS + 86_400_001}).encode()
    assert decode_click(value).event_time_ms == START_MS + 86_400_001
    with pytest.raises(BadRecordError, match="1 h ahead"):
        decode_click(value, kafka_timestamp_ms=START_MS, ahead_ms_max=3_600_000)


def test_no_click_is_later_than_the_year_2100_whatever_kafka_says() -> None:
    value = json.dumps({**GOOD, "event_time": EVENT_TIME_MS_MAX + 1}).encode()
    for kafka_timestamp_ms in (None, EVENT_TIME_MS_MAX + 1):
        with pytest.raises(BadRecordError, match="producer's clock"):
            decode_click(value, kafka_timestamp_ms=kafka_timestamp_ms)


def test_an_erasure_needs_no_item() -> None:
    click = decode(event_type="erase", item_id=...)
    assert (click.event_type, click.item_id) == ("erase", "")


def test_consent_is_withdrawn_only_by_false() -> None:
    assert not decode(consent=False).consent
    assert decode(consent=None).consent


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children)
    ),
    max_leaves=5,
)
_fields = st.sampled_from(
    (
        "session_id",
        "visitor_id",
        "item_id",
        "event_time",
        "event_type",
        "event_id",
        "user_id",
        "recommendation_id",
        "consent",
        "properties",
        "schema_version",
    )
)
_nearly_clicks = st.dictionaries(_fields, _json, max_size=5).map(
    lambda d: json.dumps({**GOOD, **d})
)


def _outcome(value: bytes) -> Click | BadRecordError:
    try:
        return decode_click(value, kafka_timestamp_ms=START_MS)
    except BadRecordError as error:
        return error


def _is_click_or_bad_record(value: bytes) -> None:
    outcome = _outcome(value)
    if isinstance(outcome, BadRecordError):
        assert outcome.kind in KINDS
        assert str(outcome).encode(), "it travels in a header"
        return
    for name in (outcome.session_id, outcome.item_id, outcome.event_type, outcome.event_id or "x"):
        assert name or outcome.event_type == "erase"
        assert len(name.encode()) <= 4 * ID_BYTES_MAX
    assert EVENT_TIME_MS_MIN <= outcome.event_time_ms <= START_MS + 86_400_000
    assert _outcome(encode_click(outcome)) == outcome


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_click_or_a_bad_record(value: bytes) -> None:
    _is_click_or_bad_record(value)


@given(_nearly_clicks)
def test_arbitrary_fields_are_a_click_or_a_bad_record(text: str) -> None:
    _is_click_or_bad_record(text.encode())


@given(_nearly_clicks, st.data())
def test_a_garbled_click_is_a_click_or_a_bad_record(text: str, data: st.DataObject) -> None:
    garbled = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(garbled)))
    _is_click_or_bad_record(bytes(garbled[:cut]))

"""Session state <-> bytes.  A record that is not what we wrote is refused, never guessed at."""

import contextlib

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stream_app.core.codec import (
    applied_offset,
    check_record,
    decode_state,
    encode_state,
    idle_records,
    last_event_ms,
)
from stream_app.core.errors import ForeignRecordError, StateDecodeError
from stream_app.core.records import ItemId
from stream_app.core.session import SessionState
from tests.strategies import session_states

topic_ids = st.binary(min_size=16, max_size=16)

USUAL = SessionState(
    last_offset=123_456_789,
    start_ms=1_764_000_000_000,
    last_event_ms=1_764_000_600_000,
    click_count=4,
    window_start_ms=1_764_000_540_000,
    window_clicks=2,
    recent_item_ids=tuple(ItemId(f"21453{i:04d}") for i in range(4)),
    shown_hashes=bytes(range(80)),
    shown_model_version="20261124T111132Z-3f2a",
    model_version="20261124T111132Z-3f2a",
    model_state=bytes(200),
)
"""A session of 4 clicks, about the mean of a shop, under a model of 100 units in half precision."""


@given(session_states(), topic_ids)
@example(USUAL, bytes(16))
def test_any_state_comes_back_as_it_was(state: SessionState, topic_id: bytes) -> None:
    data = encode_state(state, topic_id)
    assert decode_state(data) == (state, topic_id)
    assert applied_offset(data) == state.last_offset
    assert last_event_ms(data) == state.last_event_ms
    assert check_record(data, topic_id) == state.last_offset


@given(session_states(), topic_ids, st.data())
def test_a_truncated_record_is_refused(
    state: SessionState, topic_id: bytes, data: st.DataObject
) -> None:
    whole = encode_state(state, topic_id)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(StateDecodeError):
        decode_state(part)


@given(session_states(), topic_ids, st.binary(min_size=1, max_size=40))
def test_a_record_with_something_behind_it_is_refused(
    state: SessionState, topic_id: bytes, rest: bytes
) -> None:
    with pytest.raises(StateDecodeError):
        decode_state(encode_state(state, topic_id) + rest)


@given(session_states(), topic_ids, st.data())
def test_a_garbled_record_is_refused_or_reads_as_a_state_that_writes_the_same_bytes(
    state: SessionState, topic_id: bytes, data: st.DataObject
) -> None:
    """Without a checksum not every flipped bit can be seen; but nothing else ever escapes."""
    garbled = bytearray(encode_state(state, topic_id))
    for _ in range(data.draw(st.integers(1, 4))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    try:
        found, found_topic_id = decode_state(bytes(garbled))
    except StateDecodeError:
        with pytest.raises(StateDecodeError):
            check_record(bytes(garbled), topic_id)
        return
    if found_topic_id == topic_id:
        assert check_record(bytes(garbled), topic_id) == found.last_offset
    else:
        with pytest.raises(ForeignRecordError):
            check_record(bytes(garbled), topic_id)
    assert decode_state(encode_state(found, found_topic_id)) == (found, found_topic_id)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_state_decode_error(data: bytes) -> None:
    for candidate in (data, b"\x01" + data):
        with contextlib.suppress(StateDecodeError):
            decode_state(candidate)
        with contextlib.suppress(StateDecodeError):
            applied_offset(candidate)
        with contextlib.suppress(StateDecodeError):
            last_event_ms(candidate)
        with contextlib.suppress(StateDecodeError, ForeignRecordError):
            check_record(candidate, bytes(16))
        idle_records([candidate], before_ms=0)


@given(session_states(), st.integers(0, 255))
def test_a_record_of_another_version_is_refused_by_name(state: SessionState, version: int) -> None:
    assume(version != 1)
    data = bytes((version,)) + encode_state(state, bytes(16))[1:]
    with pytest.raises(StateDecodeError, match=f"version {version}, this nextclick reads 1"):
        decode_state(data)


def test_the_version_that_showed_the_items_costs_nothing_where_it_is_the_models() -> None:
    other = msgspec.structs.replace(USUAL, shown_model_version="20261124T111132Z-3f2b")
    saved = len(encode_state(other, bytes(16))) - len(encode_state(USUAL, bytes(16)))
    assert saved == len("20261124T111132Z-3f2b")


def test_at_100_units_a_usual_session_stays_within_400_bytes() -> None:
    """280 of them are the model state and the 20 items shown; a further click adds its id and 1."""
    assert len(encode_state(USUAL, bytes(16))) <= 400


@pytest.mark.parametrize("size", [254, 255, 256, 65_535])
def test_item_ids_around_the_one_byte_length_come_back(size: int) -> None:
    state = msgspec.structs.replace(USUAL, recent_item_ids=(ItemId("x" * size), ItemId("b")))
    assert decode_state(encode_state(state, bytes(16)))[0] == state


@pytest.mark.parametrize("length", range(-3, 4))
def test_a_record_whose_lengths_do_not_add_up_is_refused(length: int) -> None:
    """Sizes that overlap: a state that is longer than all that is left of the record, say."""
    whole = encode_state(msgspec.structs.replace(USUAL, recent_item_ids=(ItemId("a"),)), bytes(16))
    at = 52  # the model state's size, last of the header
    size = int.from_bytes(whole[at : at + 2], "little")
    assert size == 200
    for other in (size + length, size + 2 + length, 65_535 + min(length, 0)):
        garbled = whole[:at] + other.to_bytes(2, "little") + whole[at + 2 :]
        if other == size:
            continue
        with pytest.raises(StateDecodeError):
            decode_state(garbled)
        with pytest.raises(StateDecodeError):
            check_record(garbled, bytes(16))


def test_idle_records_are_those_without_a_click_since_that_time() -> None:
    moments = [5, 7, 6, 9]
    records = [
        encode_state(
            msgspec.structs.replace(USUAL, start_ms=4, last_event_ms=moment, window_start_ms=4),
            bytes(16),
        )
        for moment in moments
    ]
    assert idle_records(records, before_ms=7) == [0, 2]
    assert idle_records([b"short", *records], before_ms=7) == [1, 3]

"""The statistics topic: records come back as they went, strangers' are refused, versions are whole."""

import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.errors import BadRecordError
from stream_app.core.item_records import check_record, encode_records, head_type, read_heads
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_records import (
    HistoryKey,
    StatisticsFold,
    VersionMarker,
    decode_marker,
    encode_history,
    encode_marker,
    item_key,
    version_key,
)

T0 = 1_396_000_000_000
RECIPE = StatisticsRecipe()


def marker_of(version: int) -> VersionMarker:
    return VersionMarker(
        version=version,
        topic="clicks",
        topic_id="00" * 16,
        offsets={"0": 12, "3": 0},
        watermark=T0,
        half_life_minutes=60.0,
        items_max=100,
        total_count=1.1,
        clicks=12,
        items=5,
        published_at=T0,
        recipe=RECIPE,
        began=1,
        totals=(1.1, 1.0, 1 / 3, 1e-9),
        follow_up_total=0.1,
        follow_up_watermark=T0 - 1,
        sessions={"0": (7, T0 - 5)},
    )


def record_of(item_id: str = "a", **changes: object) -> bytes:
    """A record that the aggregator made, with fields of its head replaced."""
    clicks = [SessionClick(0, n, "s", name, T0 + n, True) for n, name in enumerate("abc")]
    value = StatisticsCounts(RECIPE).fold(clicks, version=1)[item_id]
    assert value is not None
    head = np.frombuffer(value[: head_type(4, 2).itemsize], dtype=head_type(4, 2)).copy()
    for name, changed in changes.items():
        head[name] = changed
    return head.tobytes() + value[head.dtype.itemsize :]


def test_a_record_is_laid_out_as_its_description_says():
    value = record_of("b")
    assert len(value) == 92 + 12 * 2
    assert struct.unpack_from("<4B4I3q", value) == (
        *(2, 4, 2, 0),
        *(1, 1, 1, 1),
        *(T0 + 1, T0 + 1, T0 + 2),
    )
    assert struct.unpack_from("<5d", value, 44) == (1, 1, 1, 1, 1)
    back = 0.2 * 2 ** (-1 / 1_200_000)
    assert struct.unpack_from("<2f", value, 84)[0] == pytest.approx(1 + back)
    assert struct.unpack_from("<2I", value, 92) == (0, 2)
    assert struct.unpack_from("<2f", value, 100) == pytest.approx((back, 1))


def test_a_full_row_takes_about_a_kilobyte():
    clicks = [SessionClick(0, 0, "s0", "a", T0, True)]
    for n in range(120):
        clicks.append(SessionClick(0, 2 * n + 1, f"s{n}", "a", T0, True))
        clicks.append(SessionClick(0, 2 * n + 2, f"s{n}", f"i{n}", T0, True))
    value = StatisticsCounts(RECIPE).fold(clicks, version=1)["a"]
    assert value is not None
    assert len(value) == 1292


def test_heads_come_back_as_they_were_written():
    values = [record_of(item_id) for item_id in "abc"]
    read = read_heads(values, 4, 2)
    assert read.good.all()
    rows = [value[92:] for value in values]
    assert encode_records(read.heads, rows) == values


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 2**21},
        {"counts": math.nan},
        {"counts": 0.0},
        {"counts": -1.0},
        {"counts": math.inf},
        {"follow_ups": -1.0},
        {"follow_ups": math.nan},
        {"row_totals": math.nan},
        {"time_ms": 2**60},
        {"row_time_ms": -(2**60)},
    ],
)
def test_records_whose_numbers_make_no_sense_are_left_out_and_the_others_read(changes):
    good, bad = record_of("a"), record_of("b", **changes)
    read = read_heads([good, bad, good], 4, 2)
    assert read.good.tolist() == [True, False, True]
    assert len(read.heads) == 2


def test_records_of_another_shape_are_left_out():
    read = read_heads([record_of()], 3, 2)
    assert read.good.tolist() == [False]
    assert len(read.heads) == 0


@given(st.binary(max_size=200))
def test_bytes_of_a_stranger_are_refused_or_hold_whole_rows(value):
    try:
        check_record(value)
    except BadRecordError:
        return
    read_heads([value], value[1], value[2])


@given(st.integers(0, 115), st.binary(min_size=1, max_size=4))
def test_a_damaged_record_is_refused_or_read_without_an_error(at, damage):
    value = record_of("b")
    value = value[:at] + damage + value[at + len(damage) :]
    try:
        check_record(value)
    except BadRecordError:
        return
    read_heads([value], 4, 2)


def test_a_markers_record_comes_back():
    marker = marker_of(3)
    assert decode_marker(encode_marker(marker)) == marker
    with pytest.raises(BadRecordError):
        decode_marker(b"{}")


def test_a_marker_without_a_total_for_each_half_life_is_refused():
    fields = msgspec.to_builtins(marker_of(3))
    fields["totals"] = [1.0]
    with pytest.raises(BadRecordError):
        decode_marker(msgspec.json.encode(fields))


def test_a_marker_of_an_earlier_release_is_known_for_one():
    fields = msgspec.to_builtins(marker_of(3))
    for name in ("recipe", "began", "totals", "follow_up_total", "follow_up_watermark", "sessions"):
        del fields[name]
    marker = decode_marker(msgspec.json.encode(fields))
    assert marker.recipe is None
    assert marker.clicks == 12


def test_half_a_version_is_told_to_nobody_until_its_marker_is_there():
    fold = StatisticsFold()
    value = record_of()
    assert fold.take(item_key("a"), value) is None
    assert fold.take(version_key(1), encode_marker(marker_of(1))) == {"a": value}
    assert fold.take(item_key("a"), None) is None
    assert fold.take(version_key(2), encode_marker(marker_of(2))) == {"a": None}
    assert set(fold.markers) == {1, 2}
    fold.take(version_key(1), None)
    assert set(fold.markers) == {2}


def test_an_item_of_an_earlier_release_is_as_good_as_dropped():
    fold = StatisticsFold()
    fold.take(item_key("a"), b'{"version": 7, "count": 3.25, "time": 1396000000000}')
    assert fold.take(version_key(1), encode_marker(marker_of(1))) == {"a": None}


def test_old_markers_gathered_in_a_history_are_still_found():
    """Without what only the last one is needed for."""
    fold = StatisticsFold()
    for version in (1, 2, 3):
        fold.take(version_key(version), encode_marker(marker_of(version)))
    key, value = encode_history([marker_of(1), marker_of(2)])
    fold.take(key, value)
    for version in (1, 2):
        fold.take(version_key(version), None)
    gathered = [msgspec.structs.replace(marker_of(n), sessions={}) for n in (1, 2)]
    assert fold.versions() == [*gathered, marker_of(3)]
    assert list(fold.histories) == [HistoryKey(1, 2, T0)]
    assert fold.marker == marker_of(3)
    fold.take(key, None)
    assert fold.versions() == [marker_of(3)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"{}"),
        (b"other", b"{}"),
        (b"item/a", b"[]"),
        (b"item/a", b""),
        (b"version/1", b"{}"),
        (b"history/x", b""),
    ],
)
def test_a_record_of_somebody_else_is_refused_and_changes_nothing(key, value):
    fold = StatisticsFold()
    with pytest.raises(BadRecordError):
        fold.take(key, value)
    assert fold.take(version_key(1), encode_marker(marker_of(1))) == {}


def test_no_item_id_can_be_mistaken_for_a_marker():
    for item_id in ("version/1", "\x00version/1", "item/a", ""):
        assert not item_key(item_id).startswith(b"version/")
    assert item_key("1") != version_key(1)

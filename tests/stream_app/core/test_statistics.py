"""Decayed popularity: what it counts, its order, its bounds, and that it is the same every time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.errors import BadRecordError
from stream_app.core.records import ScoredItem
from stream_app.core.statistics import (
    NOTHING_POPULAR,
    CountedClick,
    DecayedCount,
    DecayedCounts,
    LocalPopularity,
    Ranking,
    countable,
)
from stream_app.core.statistics_records import (
    HistoryKey,
    StatisticsFold,
    VersionMarker,
    decode_item,
    decode_marker,
    encode_history,
    encode_item,
    encode_marker,
    item_key,
    version_key,
)

HOUR_MS = 3_600_000
T0 = 1_396_000_000_000

clicks = st.lists(
    st.builds(
        CountedClick,
        item_id=st.sampled_from("abcdefgh"),
        time_ms=st.integers(T0, T0 + 48 * HOUR_MS),
    ),
    max_size=60,
)
versions = st.lists(clicks, max_size=8)


def popularity_of(log: list[CountedClick], half_life_ms: float, at_ms: int) -> dict[str, float]:
    """The definition, straight: every click weighs 2 ** -(age / half-life)."""
    weights: dict[str, float] = {}
    for item_id, time_ms in log:
        weight = 2.0 ** (-(at_ms - time_ms) / half_life_ms)
        weights[item_id] = weights.get(item_id, 0.0) + weight
    return weights


@given(clicks)
def test_a_count_is_the_sum_of_its_clicks_decayed_whatever_their_order(log):
    """Late clicks included: they weigh what they would weigh had they come in time."""
    counts = DecayedCounts(HOUR_MS, 100)
    counts.fold(log)
    now = T0 + 48 * HOUR_MS
    expected = popularity_of(log, HOUR_MS, now)
    for item_id, count in counts.items.items():
        decayed = count.value * 2.0 ** (-(now - count.time_ms) / HOUR_MS)
        assert decayed == pytest.approx(expected[item_id], rel=1e-9)
    assert set(counts.items) == set(expected)


@given(versions)
def test_ranking_kept_up_to_date_equals_sorting_everything(log):
    counts, ranking = DecayedCounts(HOUR_MS, 100), Ranking(HOUR_MS, size=3)
    for number, version in enumerate(log):
        ranking.update(counts.fold(version), counts.items)
        fresh = Ranking(HOUR_MS, size=3)
        fresh.rebuild(counts.items)
        assert ranking.view(number, counts.total).top(3) == fresh.view(number, counts.total).top(3)


@given(versions)
def test_ranking_stays_right_while_items_are_dropped(log):
    counts, ranking = DecayedCounts(HOUR_MS, 4), Ranking(HOUR_MS, size=3)
    for version in log:
        ranking.update(counts.fold(version), counts.items)
        fresh = Ranking(HOUR_MS, size=3)
        fresh.rebuild(counts.items)
        assert ranking.view(1, counts.total).top(3) == fresh.view(1, counts.total).top(3)
        assert len(counts.items) <= 4


@given(versions, st.data())
def test_stopping_after_any_version_and_going_on_from_what_was_published_changes_no_bit(log, data):
    stop = data.draw(st.integers(0, len(log)))
    whole = DecayedCounts(HOUR_MS, 5)
    for version in log:
        whole.fold(version)

    before = DecayedCounts(HOUR_MS, 5)
    published: dict[str, bytes] = {}
    for number, version in enumerate(log[:stop]):
        for item_id, count in before.fold(version).items():
            if count is None:
                published.pop(item_id, None)
            else:
                published[item_id] = encode_item(number, count)
    after = DecayedCounts(
        HOUR_MS,
        5,
        items={item_id: decode_item(value) for item_id, value in published.items()},
        total=before.total,
        clicks=before.clicks,
    )
    for version in log[stop:]:
        after.fold(version)
    assert (after.items, after.total, after.clicks) == (whole.items, whole.total, whole.clicks)


def test_scores_are_shares_of_all_decayed_clicks_with_five_digits():
    popularity = LocalPopularity(HOUR_MS, 100)
    log = [CountedClick("a", T0), CountedClick("b", T0), CountedClick("a", T0)]
    view = popularity.fold(log, version=7)
    assert view.version == 7
    assert view.top(5) == [ScoredItem("a", 0.66667, 1), ScoredItem("b", 0.33333, 2)]


def test_a_click_weighs_half_after_one_half_life():
    popularity = LocalPopularity(HOUR_MS, 100)
    view = popularity.fold([CountedClick("old", T0), CountedClick("new", T0 + HOUR_MS)])
    assert [item.score for item in view.top(2)] == [0.66667, 0.33333]


def test_equally_popular_items_are_ranked_by_id():
    popularity = LocalPopularity(HOUR_MS, 100)
    view = popularity.fold([CountedClick(item_id, T0) for item_id in "dbca"])
    assert [item.item_id for item in view.top(3)] == ["a", "b", "c"]


def test_the_order_of_two_items_nobody_clicks_never_changes():
    early = DecayedCount(8.0, T0).key(HOUR_MS)
    late = DecayedCount(1.5, T0 + 2 * HOUR_MS).key(HOUR_MS)
    assert early > late  # 2.0 against 1.5 two hours later, and so for ever
    assert math.isclose(early - late, math.log2(8 / 4 / 1.5))


def test_the_least_popular_items_are_dropped_at_the_bound_and_reported():
    counts = DecayedCounts(HOUR_MS, 10)
    log = [CountedClick(f"i{n:02}", T0 + n) for n in range(11)]
    changes = counts.fold(log)
    assert {item_id for item_id, count in changes.items() if count is None} == {"i00", "i01"}
    assert len(counts.items) == 9
    assert counts.total.value == pytest.approx(11, rel=1e-4)  # the share is of all clicks


def test_a_view_does_not_change_when_counting_goes_on():
    popularity = LocalPopularity(HOUR_MS, 100)
    view = popularity.fold([CountedClick("a", T0)])
    popularity.fold([CountedClick("b", T0)] * 5)
    assert [item.item_id for item in view.top(5)] == ["a"]


def test_nothing_is_popular_before_the_first_click():
    assert NOTHING_POPULAR.top(20) == []
    assert NOTHING_POPULAR.version is None
    assert LocalPopularity(HOUR_MS, 100).fold([]).top(5) == []


def test_a_producer_whose_clock_runs_ahead_does_not_lift_its_items():
    value = b'{"session_id":"s","item_id":"i","event_time":%d}' % (T0 + 20 * HOUR_MS)
    click = countable(
        value,
        kafka_timestamp_ms=T0,
        event_types=frozenset({"view_item"}),
        ahead_ms_max=24 * HOUR_MS,
    )
    assert click == CountedClick("i", T0)


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        (b'"consent":false', True),
        (b'"event_type":"purchase"', False),
        (b'"event_type":"erase"', False),
        (b'"event_type":"view_item"', True),
    ],
)
def test_clicks_without_consent_count_and_other_event_types_do_not(fields, counted):
    value = b'{"session_id":"s","item_id":"i","event_time":%d,%s}' % (T0, fields)
    click = countable(
        value,
        kafka_timestamp_ms=T0,
        event_types=frozenset({"view_item"}),
        ahead_ms_max=0,
    )
    assert (click is not None) == counted


def test_an_unusable_click_is_a_bad_record():
    with pytest.raises(BadRecordError):
        countable(b"{", kafka_timestamp_ms=T0, event_types=frozenset(), ahead_ms_max=0)


@given(st.floats(min_value=5e-324, max_value=1e300), st.integers(0, 2**53), st.integers(0, 2**40))
def test_an_items_record_comes_back_bit_for_bit(count, time_ms, version):
    assert decode_item(encode_item(version, DecayedCount(count, time_ms))) == (count, time_ms)


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
    )


def test_a_markers_record_comes_back():
    marker = marker_of(3)
    assert decode_marker(encode_marker(marker)) == marker
    assert marker.total == DecayedCount(1.1, T0)
    with pytest.raises(BadRecordError):
        decode_marker(b"{}")


def test_half_a_version_changes_nothing_until_its_marker_is_there():
    fold = StatisticsFold()
    count = DecayedCount(1.0, T0)
    assert fold.take(item_key("a"), encode_item(1, count)) is None
    assert fold.items == {}
    assert fold.take(version_key(1), encode_marker(marker_of(1))) == {"a": count}
    assert fold.items == {"a": count}
    assert fold.take(item_key("a"), None) is None
    assert fold.items == {"a": count}
    assert fold.take(version_key(2), encode_marker(marker_of(2))) == {"a": None}
    assert fold.items == {}
    assert set(fold.markers) == {1, 2}
    fold.take(version_key(1), None)
    assert set(fold.markers) == {2}


def test_old_markers_gathered_in_a_history_are_still_found():
    fold = StatisticsFold()
    for version in (1, 2, 3):
        fold.take(version_key(version), encode_marker(marker_of(version)))
    key, value = encode_history([marker_of(1), marker_of(2)])
    fold.take(key, value)
    for version in (1, 2):
        fold.take(version_key(version), None)
    assert fold.versions() == [marker_of(1), marker_of(2), marker_of(3)]
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
        (b"version/1", b"{}"),
        (b"history/x", b""),
    ],
)
def test_a_record_of_somebody_else_is_refused_and_changes_nothing(key, value):
    fold = StatisticsFold()
    with pytest.raises(BadRecordError):
        fold.take(key, value)
    fold.take(version_key(1), encode_marker(marker_of(1)))
    assert fold.items == {}


def test_no_item_id_can_be_mistaken_for_a_marker():
    for item_id in ("version/1", "\x00version/1", "item/a", ""):
        assert not item_key(item_id).startswith(b"version/")
    assert item_key("1") != version_key(1)

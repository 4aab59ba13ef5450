"""Decayed popularity: what it counts, its order, its bounds, and that it is the same every time."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.errors import BadRecordError
from stream_app.core.records import ScoredItem
from stream_app.core.statistics import (
    CountedClick,
    DecayedCount,
    DecayedCounts,
    LocalPopularity,
    Ranking,
    SessionClick,
    countable,
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
    nothing = LocalPopularity(HOUR_MS, 100).fold([])
    assert nothing.top(5) == []
    assert nothing.version is None


def stored(fields: bytes = b"", *, value: bytes | None = None, time_ms: int = T0):
    made = b'{"session_id":"s","item_id":"i","event_time":%d%s}' % (time_ms, fields)
    return SimpleNamespace(
        partition=3, offset=9, timestamp=T0, value=made if value is None else value
    )


def counted(record: SimpleNamespace) -> SessionClick | None:
    return countable(record, event_types=frozenset({"view_item"}), ahead_ms_max=24 * HOUR_MS)


def test_a_producer_whose_clock_runs_ahead_does_not_lift_its_items():
    assert counted(stored(time_ms=T0 + 20 * HOUR_MS)) == SessionClick(3, 9, "s", "i", T0, True)


def test_a_message_without_a_timestamp_is_taken_at_its_word():
    record = stored()
    record.timestamp = -1
    assert counted(record) == SessionClick(3, 9, "s", "i", T0, True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"", SessionClick(3, 9, "s", "i", T0, True)),
        (b',"event_type":"view_item"', SessionClick(3, 9, "s", "i", T0, True)),
        (b',"event_type":"purchase"', None),
        # Counted, for an item's count says nothing of a visitor; but the visitor is not followed.
        (b',"consent":false', SessionClick(3, 9, "s", "i", T0, False)),
        # Nothing to count, and the session is to be forgotten.
        (b',"event_type":"erase"', SessionClick(3, 9, "s", None, T0, False)),
        (b',"event_type":"purchase","consent":false', SessionClick(3, 9, "s", None, T0, False)),
    ],
)
def test_what_is_counted_and_who_may_be_followed(fields, expected):
    assert counted(stored(fields)) == expected


def test_an_unusable_click_is_a_bad_record():
    with pytest.raises(BadRecordError):
        counted(stored(value=b"{"))

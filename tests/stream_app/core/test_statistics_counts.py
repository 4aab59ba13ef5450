"""The aggregator's counts: the recipe to the letter, bounds, and that they are the same bits every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core import pair_rows
from stream_app.core.item_records import check_record, head_type
from stream_app.core.pair_rows import _first, split_blobs
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_counts import Records, StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics, StatisticsTable, totals_of
from stream_app.core.statistics_view import StatisticsView
from tests.stream_app.core.statistics_reference import Reference

MINUTE = 60_000
T0 = 1_700_000_000_000
RECIPE = StatisticsRecipe()

one_click = st.tuples(
    st.integers(0, 1),
    st.sampled_from(["s1", "s2", "s3"]),
    st.sampled_from("abcdefgh"),
    st.integers(-20 * MINUTE, 12 * MINUTE),
    st.sampled_from(["", "", "", "", "no_consent", "erase"]),
)
logs = st.lists(st.lists(one_click, max_size=12), max_size=8)


def versions_of(log: list[list[tuple]]) -> list[list[SessionClick]]:
    """Clicks by version, each in (partition, offset) order; some late, some without consent."""
    offset, now, versions = 0, T0, []
    for batch in log:
        clicks = []
        for partition, session, item, step, kind in batch:
            clicks.append(
                SessionClick(
                    partition,
                    offset,
                    session,
                    None if kind == "erase" else item,
                    now + step,
                    kind == "",
                )
            )
            now += max(0, step)
            offset += 1
        versions.append(sorted(clicks))
    return versions


def taken(records: dict[str, bytes], changes: Records) -> None:
    for item_id, value in changes.items():
        if value is None:
            records.pop(item_id, None)
        else:
            records[item_id] = value


@given(logs)
def test_popularities_and_co_occurrence_are_what_the_recipe_says(log):
    """All clicks and pairs, exact powers, one sum: nothing is lost by folding version by version."""
    local, reference = LocalStatistics(RECIPE), Reference(RECIPE)
    view = local.fold(())
    for version in versions_of(log):
        view = local.fold(version)
        for click in version:
            reference.take(click)
    items = sorted({item_id for item_id, _ in reference.clicks})
    numbers = np.array([view.number(item_id) for item_id in items], dtype=np.int64)
    shares = np.exp(view.log_popularities(numbers))
    for h, half_life in enumerate((60.0, 2.5, 10.0, 60.0)):
        expected = reference.popularity(half_life)
        assert shares[:, h] == pytest.approx([expected[i] for i in items], rel=1e-7, abs=1e-12)
    follow_ups = reference.follow_up_popularity()
    assert shares[:, 4] == pytest.approx([follow_ups.get(i, 0.0) for i in items], rel=1e-7)
    for h in range(2):
        expected_counts = reference.counts(h)
        for source in items:
            row = view.row(source)
            total = sum(value for pair, value in expected_counts.items() if pair[0] == source)
            if row is None:
                assert total == 0
                continue
            assert row.totals[h] == pytest.approx(total, rel=1e-5)
            found = dict(zip(view.ids(row.neighbours.tolist()), row.counts[h], strict=True))
            for target in items:
                assert found.get(target, 0.0) == pytest.approx(
                    expected_counts.get((source, target), 0.0), rel=1e-5, abs=2e-3
                )


@given(logs, st.data())
def test_stopping_after_any_version_and_going_on_from_what_was_published_changes_no_bit(log, data):
    """The records, the marker's totals and the sessions' anchors are all there is to know."""
    recipe = StatisticsRecipe(items_max=5, neighbours_max=2, sessions_max=4)
    versions = versions_of(log)
    stop = data.draw(st.integers(0, len(versions)))
    whole = StatisticsCounts(recipe, partitions=2)
    published: dict[str, bytes] = {}
    for number, version in enumerate(versions[:stop], 1):
        taken(published, whole.fold(version, version=number))
    after = StatisticsCounts(recipe, partitions=2)
    assert after.restore(published, version=whole.version) == 0
    after.totals.values, after.totals.time_ms = list(whole.totals.values), whole.totals.time_ms
    after.follow_up_total.values = list(whole.follow_up_total.values)
    after.follow_up_total.time_ms = whole.follow_up_total.time_ms
    after.clicks = whole.clicks
    anchors = whole.sessions.anchors()
    for partition, anchor in anchors.items():
        after.sessions.resume(partition, anchor)
    for click in sorted(click for version in versions[:stop] for click in version):
        if click.partition in anchors and click.offset >= anchors[click.partition].offset:
            after.remember(click)
    assert after.records() == whole.records() == published
    for number, version in enumerate(versions[stop:], stop + 1):
        assert after.fold(version, version=number) == whole.fold(version, version=number)
    assert after.records() == whole.records()
    assert totals_of(after, 1) == totals_of(whole, 1)
    assert after.sessions.state() == whole.sessions.state()
    assert after.clicks == whole.clicks


@given(logs)
def test_every_record_is_whole_and_within_its_bounds(log):
    recipe = StatisticsRecipe(items_max=5, neighbours_max=2)
    counts = StatisticsCounts(recipe)
    size = head_type(4, 2).itemsize
    for number, version in enumerate(versions_of(log), 1):
        records = counts.fold(version, version=number)
        for value in records.values():
            if value is not None:
                check_record(value)
                assert len(value) <= size + 12 * 2
        assert len(counts) <= 5
        assert list(records.values()) == sorted(records.values(), key=lambda value: value is None)


def session_of(items: str, *, at_ms: int = T0, session: str = "s", offset: int = 0):
    return [
        SessionClick(0, offset + n, session, item, at_ms + n, True) for n, item in enumerate(items)
    ]


def test_only_the_best_neighbours_are_kept_and_of_equal_ones_the_earlier_known():
    local = LocalStatistics(StatisticsRecipe(neighbours_max=2, pair_backward=0.0))
    clicks = []
    for n, items in enumerate(["ad", "ac", "ab", "ab"]):
        clicks += session_of(items, session=str(n), offset=2 * n)
    view = local.fold(clicks)
    row = view.row("a")
    assert row is not None
    assert view.ids(row.neighbours.tolist()) == ["d", "b"]
    assert row.totals[1] == pytest.approx(4, rel=1e-4)  # of all pairs, also those that are not kept


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_the_first_of_each_row_are_those_of_a_full_sort(table, n_kept):
    kept = _first(np.array(table, dtype=np.float64), n_kept)
    for row, of_row in zip(table, kept, strict=True):
        ranked = sorted(range(4), key=lambda column: (-row[column], column))
        assert set(np.flatnonzero(of_row)) == set(ranked[:n_kept])


def test_a_row_wider_than_the_table_of_all_is_cut_the_same_way(monkeypatch):
    def rows(wide: int) -> dict[str, bytes | None]:
        monkeypatch.setattr(pair_rows, "WIDE_ROW", wide)
        counts = StatisticsCounts(StatisticsRecipe(neighbours_max=3))
        clicks = []
        for n, items in enumerate(["ab", "ac", "ad", "ae", "af", "ae", "gh"]):
            clicks += session_of(items, session=str(n), offset=2 * n)
        return counts.fold(clicks, version=1)

    assert rows(3) == rows(512)


def test_a_number_given_to_another_item_is_no_neighbour_any_more():
    """`d` gets the number of `b`, which `a` has in its row."""
    recipe = StatisticsRecipe(items_max=3)
    counts = StatisticsCounts(recipe)
    table = StatisticsTable(recipe)

    def fold(clicks: list[SessionClick], version: int) -> StatisticsView:
        return table.apply(counts.fold(clicks, version=version), totals_of(counts, version))

    before = fold(session_of("ab"), 1)
    number = before.number("b")
    hour = 60 * MINUTE
    fold(
        [
            SessionClick(0, 9 + n, f"t{n}", item, T0 + hour, True)
            for n, item in enumerate(["a", "a", "c", "e"])
        ],
        2,
    )
    after = fold([SessionClick(0, 20, "u", "d", T0 + hour, True)], 3)
    assert after.number("b") is None
    assert after.number("d") == number
    row = after.row("a")
    assert row is not None
    assert len(row.neighbours) == 0
    assert after.row("d") is None
    # The earlier version is still what it was.
    assert before.number("b") == number
    assert before.number("d") is None
    old = before.row("a")
    assert old is not None
    assert before.ids(old.neighbours.tolist()) == ["b"]


def test_clicks_without_consent_are_popular_and_nothing_else():
    local = LocalStatistics(RECIPE)
    view = local.fold(
        [
            SessionClick(0, 0, "s", "a", T0, True),
            SessionClick(0, 1, "s", "b", T0, False),
            SessionClick(0, 2, "s", "c", T0, True),
        ]
    )
    assert [item.item_id for item in view.top(5)] == ["a", "b", "c"]
    assert view.associated([["a"], ["b"], ["c"]], 5) == [None, None, None]
    assert len(view.follow_ups) == 0


def test_an_item_that_is_clicked_again_follows_itself_once():
    """A fifth to a third of a shop's clicks come back to an item; read backward it would be the same pair."""
    view = LocalStatistics(RECIPE).fold(session_of("aa"))
    row = view.row("a")
    assert view.ids(row.neighbours.tolist()) == ["a"]
    assert row.counts.tolist() == [[1.0], [1.0]]
    assert len(view.follow_ups) == 1


def test_rows_are_laid_out_one_after_the_other():
    counts = StatisticsCounts(RECIPE)
    counts.fold(session_of("abc"), version=1)
    row, neighbour, values = split_blobs(counts._rows, 2)
    assert row.tolist() == [0, 0, 1, 1, 2, 2]
    assert neighbour.tolist() == [1, 2, 0, 2, 0, 1]
    assert values.shape == (2, 6)
    assert values[:, 0] == pytest.approx([1, 1], rel=1e-5)
    assert values[:, 1] == pytest.approx([0.5, 0.5], rel=1e-5)
    assert values[:, 2] == pytest.approx([0.2, 0.2], rel=1e-5)


def test_times_before_1970_and_endless_silences_do_no_harm():
    local = LocalStatistics(RECIPE)
    local.fold(session_of("ab", at_ms=1_000))
    view = local.fold(session_of("cd", at_ms=4_000_000_000_000, session="later", offset=5))
    assert [item.item_id for item in view.top(4)] == ["d", "c", "b", "a"]
    row = view.row("a")
    assert row is not None
    assert row.share.tolist() == [0.0]


def test_weights_and_half_lives_must_go_together():
    with pytest.raises(ValueError, match="give one of each"):
        StatisticsRecipe(pair_weights=(1.0,))

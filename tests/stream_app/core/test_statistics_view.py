"""What a worker sees: lists, ties, whole versions that never change, and nothing of what went wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.records import ScoredItem
from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_counts import StatisticsCounts
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import (
    NOTHING_KNOWN,
    LocalStatistics,
    StatisticsTable,
    totals_of,
)
from stream_app.core.statistics_view import StatisticsView
from tests.stream_app.core.statistics_reference import Reference
from tests.stream_app.core.test_statistics_counts import RECIPE, T0, logs, session_of, versions_of
from tests.stream_app.core.test_statistics_records import record_of

HOUR_MS = 3_600_000
sessions = st.lists(st.lists(st.sampled_from("abcdefghz"), max_size=6), max_size=4)


def everything(view: StatisticsView) -> tuple:
    """All that can be asked of a view about eight items."""
    items = "abcdefgh"
    rows = []
    for item in items:
        row = view.row(item)
        rows.append(
            None
            if row is None
            else (
                view.ids(row.neighbours.tolist()),
                row.share.tolist(),
                row.counts.tolist(),
                row.totals,
                row.prior,
            )
        )
    return (
        list(view.top(8)),
        view.ids(view.follow_ups.tolist()),
        [view.number(item) for item in items],
        view.log_popularities(view.follow_ups).tolist(),
        rows,
        view.associated([list("ab"), list("cdefg"), ["z"]], 8),
    )


@given(logs, sessions, st.integers(1, 9))
def test_lists_are_the_best_of_all_items_by_the_recipes_score(log, asked, k):
    """Nobody who is no candidate could have been on the list."""
    local, reference = LocalStatistics(RECIPE), Reference(RECIPE)
    view = local.fold(())
    for version in versions_of(log):
        view = local.fold(version)
        for click in version:
            reference.take(click)
    of_pairs = {source for source, *_ in reference.pairs} | {pair[1] for pair in reference.pairs}
    for recent, found in zip(asked, view.associated(asked, k), strict=True):
        if not set(recent[-4:]) & of_pairs:
            assert found is None
            continue
        assert found is not None
        scores = reference.scores(recent)
        expected = sorted(scores.values(), reverse=True)[:k]
        assert [item.score for item in found] == pytest.approx(expected, rel=1e-4, abs=1e-9)
        for item in found:
            assert item.score == pytest.approx(scores[item.item_id], rel=1e-4, abs=1e-9)
        assert len({item.item_id for item in found}) == len(found)
        assert [item.rank for item in found] == list(range(1, len(found) + 1))


@given(logs, st.data())
def test_a_view_stays_what_it_was_whatever_comes_after(log, data):
    """Asked at once, or only when other versions have replaced it; dropped items included."""
    recipe = StatisticsRecipe(items_max=5, neighbours_max=2)
    early, late = LocalStatistics(recipe), LocalStatistics(recipe)
    views, expected = [], []
    for version in versions_of(log):
        expected.append(everything(early.fold(version)))
        view = late.fold(version)
        if data.draw(st.booleans()):
            view = late.fold(())  # nothing was clicked
        views.append(view)
    assert [everything(view) for view in views] == expected


@given(logs)
def test_all_versions_at_once_give_the_view_of_the_last_one(log):
    """What a reader that comes late makes of a compacted topic."""
    recipe = StatisticsRecipe(items_max=5)
    counts, table = StatisticsCounts(recipe), StatisticsTable(recipe)
    found: dict[str, bytes | None] = {}
    view = table.apply({}, totals_of(counts, 0))
    for number, version in enumerate(versions_of(log), 1):
        changes = counts.fold(version, version=number)
        found.update(changes)
        view = table.apply(changes, totals_of(counts, number))
    late = StatisticsTable(recipe).apply(found, totals_of(counts, len(log)))
    assert everything(late) == everything(view)
    compacted = {item_id: value for item_id, value in found.items() if value is not None}
    late = StatisticsTable(recipe).apply(compacted, totals_of(counts, len(log)))
    assert everything(late) == everything(view)


def test_equally_good_items_are_ranked_by_id():
    clicks = []
    for n, items in enumerate(["xd", "xb", "xc", "xa"]):
        clicks += session_of(items, session=str(n), offset=2 * n)
    view = LocalStatistics(RECIPE).fold(clicks)
    (found,) = view.associated([["x"]], 3)
    assert found is not None
    assert [item.item_id for item in found] == ["a", "b", "c"]
    assert len({item.score for item in found}) == 1
    assert [item.item_id for item in view.top(5)] == ["x", "a", "b", "c", "d"]


def test_short_lists_are_filled_with_the_most_popular_items_at_score_0():
    clicks = [*session_of("ab"), *session_of("c", session="t", offset=2)]
    clicks += session_of("c", session="u", offset=3)
    (found,) = LocalStatistics(RECIPE).fold(clicks).associated([["a"]], 5)
    assert found is not None
    assert [(item.item_id, item.score > 0) for item in found] == [
        ("b", True),
        ("c", False),
        ("a", False),
    ]


def test_a_session_of_items_that_nothing_follows_is_left_to_popularity():
    view = LocalStatistics(RECIPE).fold(session_of("ab"))
    assert view.associated([["z"], [], ["b"], ["z", "a"]], 2)[:2] == [None, None]
    assert None not in view.associated([["b"], ["z", "a"]], 2)


def test_only_the_last_items_count():
    view = LocalStatistics(RECIPE).fold(session_of("ab"))
    assert view.associated([list("azzzz")], 2) == [None]
    assert view.associated([list("azzz")], 2) != [None]


def test_records_from_before_counting_began_are_passed_over():
    counts = StatisticsCounts(RECIPE)
    counts.version = 6
    table = StatisticsTable(RECIPE, began=7)
    old = {"old": record_of("a", version=6)}
    new = counts.fold(session_of("ab"), version=7)
    view = table.apply(old | new, totals_of(counts, 7))
    assert view.number("old") is None
    assert [item.item_id for item in view.top(5)] == ["b", "a"]


def test_a_record_that_makes_no_sense_is_counted_and_costs_nothing_else():
    counts, table = StatisticsCounts(RECIPE), StatisticsTable(RECIPE)
    changes = counts.fold(session_of("ab"), version=1)
    changes["c"] = record_of("c", counts=float("nan"))
    view = table.apply(changes, totals_of(counts, 1))
    assert table.refused == 1
    assert [item.item_id for item in view.top(5)] == ["b", "a"]


def test_a_view_of_popularity_alone_answers_as_before():
    view = LocalStatistics(RECIPE).fold(
        [
            SessionClick(0, n, f"s{n}", item, T0 + time_ms, True)
            for n, (item, time_ms) in enumerate([("old", 0), ("new", HOUR_MS)])
        ],
        version=7,
    )
    assert view.version == 7
    assert view.top(5) == [ScoredItem("new", 0.66667, 1), ScoredItem("old", 0.33333, 2)]
    assert len(view) == 2


def test_before_the_first_click_nothing_is_known():
    assert NOTHING_KNOWN.version is None
    assert NOTHING_KNOWN.top(20) == []
    assert NOTHING_KNOWN.associated([["a"]], 5) == [None]

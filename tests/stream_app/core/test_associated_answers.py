"""Answers from the statistics: what follows a session's items where the model does not answer."""

import json

import pytest

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.pipeline import BatchOutcome, ServingRules, recommend_batch
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from stream_app.core.statistics_view import StatisticsView
from tests.doubles import FakeScorer
from tests.strategies import Record
from tests.stream_app.core.test_statistics_counts import T0, session_of


@pytest.fixture(scope="module")
def statistics() -> StatisticsView:
    """b and then c follow a; x is what most people click, alone."""
    clicks, offset = [], 0
    for n, items in enumerate(["abc", "abc", "acb", "ab", *["x"] * 9]):
        clicks += session_of(items, session=str(n), offset=offset)
        offset += len(items)
    return LocalStatistics(StatisticsRecipe()).fold(clicks, version=7)


def record(offset: int, session: str, item: str, **more: object) -> Record:
    value = {"session_id": session, "item_id": item, "event_time": T0 + offset, **more}
    return Record(offset, json.dumps(value).encode(), timestamp=T0 + offset)


def answered(
    statistics: StatisticsView,
    *clicks: Record,
    scorer: FakeScorer | None = None,
    filter_seen: bool = False,
    top_k: int = 2,
    newest_only: bool = False,
) -> BatchOutcome:
    rules = ServingRules(top_k=top_k, filter_seen=filter_seen)
    return recommend_batch(
        clicks, MemorySessions(), scorer, statistics, rules, now_ms=T0, newest_only=newest_only
    )


def lists_of(outcome: BatchOutcome) -> list[list[str]]:
    return [[item.item_id for item in answer.items] for answer in outcome.recommendations]


def test_without_a_model_what_follows_a_sessions_items_is_the_answer(statistics):
    outcome = answered(statistics, record(0, "s", "a"), record(1, "t", "unheard of"))
    assert lists_of(outcome) == [["b", "c"], ["x", "b"]]
    assert [answer.fallback for answer in outcome.recommendations] == ["no_model"] * 2
    assert {answer.statistics_version for answer in outcome.recommendations} == {7}
    first = outcome.recommendations[0].items
    assert first == statistics.associated([["a"]], 2)[0]


def test_each_click_of_a_batch_is_answered_from_the_session_as_it_was_then(statistics):
    outcome = answered(statistics, record(0, "s", "a"), record(1, "s", "c"), top_k=3)
    assert [answer.items for answer in outcome.recommendations] == statistics.associated(
        [["a"], ["a", "c"]], 3
    )


def test_a_session_of_items_that_the_model_does_not_know_is_answered_so_too(statistics):
    model = FakeScorer("v1", ["known", "also known"])
    outcome = answered(statistics, record(0, "s", "a"), record(1, "t", "known"), scorer=model)
    assert [answer.fallback for answer in outcome.recommendations] == ["unknown_item", None]
    assert lists_of(outcome)[0] == ["b", "c"]
    assert set(lists_of(outcome)[1]) == {"known", "also known"}


def test_without_consent_the_answer_is_what_is_popular(statistics):
    outcome = answered(statistics, record(0, "s", "a", consent=False))
    assert lists_of(outcome) == [["x", "b"]]
    assert outcome.recommendations[0].fallback == "no_consent"


def test_what_the_session_saw_is_left_out_and_others_move_up(statistics):
    clicks = [record(0, "s", "a"), record(1, "s", "b"), record(2, "t", "x")]
    outcome = answered(statistics, *clicks, filter_seen=True, top_k=3)
    lists = lists_of(outcome)
    assert lists[0] == ["b", "c", "x"]
    assert lists[1][0] == "c"
    assert not {"a", "b"} & set(lists[1])
    assert [item.rank for item in outcome.recommendations[1].items] == [1, 2]
    assert "x" not in lists[2]


def test_the_next_click_judges_what_was_shown_and_plain_popularity_beside_it(statistics):
    """b was shown at rank 1; popularity would have shown x."""
    outcome = answered(statistics, record(0, "s", "a"), record(1, "s", "b"), top_k=1)
    assert (outcome.judgements["none"].hits, outcome.judgements["none"].reciprocal_rank) == (1, 1.0)
    assert outcome.popularity_judgements["none"].hits == 0
    assert outcome.popularity_judgements["none"].predictions == 1


def test_a_superseded_click_is_not_asked_for(statistics):
    outcome = answered(statistics, record(0, "s", "a"), record(1, "s", "c"), newest_only=True)
    assert [answer.items for answer in outcome.recommendations] == statistics.associated(
        [["a", "c"]], 2
    )


def test_an_erased_session_later_in_the_batch_changes_no_answer_before_it(statistics):
    outcome = answered(statistics, record(0, "s", "a"), record(1, "s", "a", event_type="erase"))
    assert lists_of(outcome) == [["b", "c"]]


def test_items_that_fill_a_list_up_score_nothing_and_not_minus_nothing(statistics):
    """JSON would show the sign."""
    items = statistics.associated([["a"]], 4)[0]
    assert items[-1].score == 0.0
    assert str(items[-1].score) == "0.0"

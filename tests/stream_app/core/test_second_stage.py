"""The second stage in the pipeline: it orders the candidates, or steps aside."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
from numpy.typing import NDArray

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.candidates import feature_names
from stream_app.core.manifest import SecondStage
from stream_app.core.pipeline import BatchOutcome, ServingRules, recommend_batch
from stream_app.core.second_stage import SecondStages
from stream_app.core.sources.source import Asked
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import NOTHING_KNOWN, LocalStatistics
from stream_app.core.statistics_view import StatisticsView
from tests.doubles import FakeScorer
from tests.stream_app.core.test_associated_answers import lists_of, record
from tests.stream_app.core.test_statistics_counts import T0, session_of

NAMES = feature_names(StatisticsRecipe())


class OneFeature:
    """Ranks by a single feature."""

    def __init__(self, scorer: FakeScorer, feature: str, names: tuple[str, ...] = NAMES) -> None:
        self.stage = SecondStage(features=names, model_items=3)
        n = len(scorer.vocabulary)
        self.directions = np.zeros((n, 2), dtype=np.float32)
        self.placed = np.zeros(n, dtype=bool)
        self.neighbours = None
        self._column = NAMES.index(feature)
        self.rows = 0

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        self.rows += len(features)
        return features[:, self._column]


def statistics(version: int | None = 7) -> StatisticsView:
    clicks, offset = [], 0
    for n, items in enumerate(["abc", "abc", "acb", "ab", *["x"] * 9]):
        clicks += session_of(items, session=str(n), offset=offset)
        offset += len(items)
    return LocalStatistics(StatisticsRecipe()).fold(clicks, version=version)


def scorer(feature: str = "associated", names: tuple[str, ...] = NAMES) -> FakeScorer:
    made = FakeScorer("m1", ["a", "b", "c", "p", "q", "r"])
    made.ranker = OneFeature(made, feature, names)
    return made


def answered(
    model: FakeScorer, view: StatisticsView, *, top_k: int = 3, filter_seen: bool = False
) -> BatchOutcome:
    clicks = [record(0, "s", "a"), record(1, "t", "unheard of"), record(2, "s", "b")]
    rules = ServingRules(top_k=top_k, filter_seen=filter_seen)
    return recommend_batch(clicks, MemorySessions(), model, view, rules, now_ms=T0)


def test_it_orders_model_and_statistics_together() -> None:
    """By what follows: the model's order is of no account any more."""
    lists = lists_of(answered(scorer(), statistics()))
    assert lists[0][:2] == ["b", "c"]
    ours = answered(scorer("model_share"), statistics())
    plain = FakeScorer("m1", ["a", "b", "c", "p", "q", "r"])
    theirs = answered(plain, statistics())
    assert lists_of(ours)[0] == lists_of(theirs)[0], "by the model's share it is the model's list"


def test_a_session_that_the_model_does_not_know_is_ranked_as_well() -> None:
    outcome = answered(scorer("popularity_60m"), statistics())
    assert lists_of(outcome)[1][0] == "x"
    assert [answer.fallback for answer in outcome.recommendations] == [None, "unknown_item", None]


def test_seen_items_stay_out_of_a_full_list() -> None:
    outcome = answered(scorer(), statistics(), filter_seen=True)
    lists = lists_of(outcome)
    assert "a" not in lists[0]
    assert not {"a", "b"} & set(lists[2])
    assert [len(items) for items in lists] == [3, 3, 3]
    assert [item.rank for item in outcome.recommendations[0].items] == [1, 2, 3]


@pytest.mark.parametrize("case", ["other features", "no version", "nothing known"])
def test_it_steps_aside_where_a_source_is_missing(case: str) -> None:
    names = ("other", *NAMES[1:]) if case == "other features" else NAMES
    view = {"other features": statistics(), "no version": statistics(version=None)}.get(
        case, NOTHING_KNOWN
    )
    model = scorer(names=names)
    outcome = answered(model, view)
    plain = FakeScorer("m1", ["a", "b", "c", "p", "q", "r"])
    assert lists_of(outcome) == lists_of(answered(plain, view))
    assert outcome.ranked is None
    assert model.ranker.rows == 0


def ranked(model: FakeScorer, *model_items: list[str]) -> list[list[str]]:
    """Answers to a click on `a`, given the model's best items, best first."""
    index_of = model.vocabulary.index_of
    asked = [
        Asked(
            recent=["a"],
            clicks=1,
            model_items=np.array([index_of[item] for item in items]),
            model_scores=np.arange(len(items), 0, -1, dtype=np.float32),
        )
        for items in model_items
    ]
    stages = SecondStages(model.ranker, model.vocabulary, statistics())
    lists = stages.lists(asked, 6)
    answers = [lists.answer(row, None, 6) for row in range(len(asked))]
    return [[item.item_id for item in answer[0]] for answer in answers if answer is not None]


def test_a_new_item_stands_no_lower_than_the_model_has_it() -> None:
    model, mine, others = scorer(), ["p", "q", "r"], ["r", "b", "c"]
    usual = ranked(model, mine, others)
    assert usual[0][:2] == ["b", "c"], "nothing is known to lead to the model's items"
    model.ranker.placed[model.vocabulary.index_of["q"]] = True
    first, second = ranked(model, mine, others)
    # Its place is the second; of equal scores ids decide.
    assert first.index("q") in (1, 2)
    assert [item for item in first if item != "q"] == [item for item in usual[0] if item != "q"]
    assert second == usual[1], "who has no new item among his best is answered as before"
    model.ranker.placed[model.vocabulary.index_of["b"]] = True
    assert ranked(model, mine, others)[1][0] == "b", "the ranker's own opinion may be higher"


def test_an_answer_does_not_depend_on_its_batch() -> None:
    clicks = [record(n, f"s{n % 5}", item) for n, item in enumerate("abcxabbca")]
    rules = ServingRules(top_k=3)
    whole = recommend_batch(clicks, MemorySessions(), scorer(), statistics(), rules, now_ms=T0)
    sessions, one_by_one = MemorySessions(), []
    model, view = scorer(), statistics()
    for click in clicks:
        outcome = recommend_batch([click], sessions, model, view, rules, now_ms=T0)
        sessions.put_many(outcome.states)
        one_by_one += outcome.recommendations
    assert [dataclasses.astuple(i) if dataclasses.is_dataclass(i) else i for i in one_by_one] == [
        dataclasses.astuple(i) if dataclasses.is_dataclass(i) else i for i in whole.recommendations
    ]


def test_what_was_gathered_can_be_learned_from() -> None:
    outcome = answered(scorer(), statistics())
    assert outcome.ranked is not None
    assert sorted(outcome.ranked_rows) == [0, 1, 2]
    gathered = outcome.ranked.gathered(outcome.ranked_rows[0])
    assert {"a", "b", "c"} <= set(gathered.ids)
    assert gathered.features.shape == (len(gathered.ids), len(NAMES))


def test_a_view_that_was_answered_from_is_let_go_with_its_last_user() -> None:
    """A worker without clicks must not keep an old version: what changes after it is remembered for it."""
    model, view = scorer(), statistics()
    gone = weakref.ref(view._snapshot)
    answered(model, view)
    answered(model, view)
    gc.disable()
    try:
        del view
        assert gone() is None
    finally:
        gc.enable()

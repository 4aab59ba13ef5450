"""The prequential protocol against the same walk, click by click and naively."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.core.pipeline import ServingRules
from stream_app.core.records import Click, ItemId, ScoredItem
from stream_app.core.session import SessionLimits, SessionState, advance
from stream_app.core.statistics import CountedClick, LocalPopularity
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.evaluation import prequential as module
from stream_app.evaluation.prequential import (
    AnsweredAt,
    ClickStream,
    PrequentialRow,
    always,
    prequential,
    rank_in_list,
)
from stream_app.evaluation.stream_statistics import (
    CoOccurrence,
    LoggedClick,
    RecentPopularity,
    StatisticsAtVersion,
)
from tests.doubles import FakeScorer, FixedPopularity

START_MS = 1_700_000_000_000
HALF_LIFE_MS = 60_000.0
RULES = ServingRules(limits=SessionLimits(idle_gap_minutes=2))
Row = tuple[str, str, int]
"""Session, item, seconds since the start."""


def stream(
    rows: list[Row],
    *,
    start: int | None = None,
    end: int | None = None,
    rules: ServingRules = RULES,
) -> ClickStream:
    sessions, items, seconds = zip(*rows, strict=True)
    times = [START_MS + 1000 * second for second in seconds]
    table = pa.table(
        {
            "session_id": pa.array(sessions, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "event_time_ms": pa.array(times, pa.int64()),
        }
    )
    return ClickStream(
        table,
        rules,
        from_ms=None if start is None else START_MS + 1000 * start,
        to_ms=None if end is None else START_MS + 1000 * end,
    )


def of_popularity(
    log: ClickStream, *, seconds: float = 10, answered_at: AnsweredAt = "click"
) -> PrequentialRow:
    return prequential(
        log,
        RecentPopularity(HALF_LIFE_MS),
        always(None),
        RULES,
        name="popularity",
        version_seconds=seconds,
        answered_at=answered_at,
    )


rows = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.integers(0, 30).map("i{}".format), st.integers(0, 40)),
    min_size=1,
    max_size=60,
).map(
    lambda steps: [
        (s, i, sum(step for _, _, step in steps[: n + 1])) for n, (s, i, _) in enumerate(steps)
    ]
)


@given(
    rows,
    st.integers(0, 400),
    st.integers(400, 1500),
    st.sampled_from((1, 10, 300)),
    st.sampled_from(get_args(AnsweredAt)),
)
def test_it_is_the_walk_click_by_click(
    clicks: list[Row], start: int, end: int, seconds: int, answered_at: AnsweredAt
) -> None:
    """Sessions by the worker's fold; lists from all clicks of earlier windows of time, and none of this one."""
    log = stream(clicks, start=start, end=end)
    found = of_popularity(log, seconds=seconds, answered_at=answered_at)
    states: dict[str, SessionState] = {}
    answers: dict[str, list[ScoredItem]] = {}
    ranks = []
    for number, (session, item, second) in enumerate(clicks):
        if second >= end:
            break
        ms = START_MS + 1000 * second
        window = ms // (1000 * seconds)
        popularity = LocalPopularity(HALF_LIFE_MS, 1000)
        before = [
            CountedClick(i, START_MS + 1000 * s)
            for _, i, s in clicks
            if (START_MS + 1000 * s) // (1000 * seconds) < window
        ]
        click = Click(session_id=session, item_id=ItemId(item), event_time_ms=ms)
        state = advance(states.get(session), click, offset=number, limits=RULES.limits)
        assert not isinstance(state, str)
        states[session] = state
        newest = list(popularity.fold(before).top(21))
        if state.click_count > 1 and second >= start:
            judged = newest if answered_at == "next-click" else answers[session]
            ranks.append(rank_in_list(judged, item))
        answers[session] = newest
    hits = [rank for rank in ranks if rank <= 20]
    assert found.quality.targets == len(ranks)
    assert found.quality.recall_20 * len(ranks) == pytest.approx(len(hits))
    assert found.quality.mrr_20 * len(ranks) == pytest.approx(sum(1 / rank for rank in hits))


def test_a_click_is_predicted_before_it_is_learned() -> None:
    """An item is new, is clicked by another, and only a version later can it be found."""
    clicks = [
        ("u", "a", 0),
        ("u", "b", 0),
        ("v", "a", 12),
        ("v", "b", 13),
        ("w", "a", 14),
        ("w", "c", 25),
    ]
    row = of_popularity(stream(clicks))
    assert row.quality.targets == 3
    # u's b was never clicked; v's b is second of two once counted; w's c was never clicked.
    assert row.quality.recall_20 == pytest.approx(1 / 3)
    assert row.quality.mrr_20 == pytest.approx(1 / 2 / 3), "a and b are equally popular: a tie"
    assert row.quality.cold_targets == 2
    assert row.quality.warm_recall_20 == 1.0


def test_targets_are_told_apart_by_the_age_of_their_items() -> None:
    minute = 60
    clicks: list[Row] = [("s", "old", 0), ("s", "young", 400 * minute)]
    late = 410 * minute
    for n, (item, second) in enumerate(
        [("young", late), ("old", late), ("fresh", late), ("young", late + 60 * minute)]
    ):
        clicks += [(f"t{n}", "x", second - 1), (f"t{n}", item, second)]
    row = of_popularity(stream(sorted(clicks, key=lambda click: click[2]), start=late))
    targets = {q.age: q.targets for q in row.by_age}
    assert targets == {
        "under 15 min": 1,
        "15 to 60 min": 0,
        "1 to 6 h": 1,
        "older": 1,
        "never clicked before": 1,
    }
    assert sum(targets.values()) == row.quality.targets


def test_what_precedes_the_range_is_past_and_what_follows_is_not_looked_at() -> None:
    clicks = [("u", "a", 0), ("v", "b", 50), ("v", "a", 100), ("v", "c", 200)]
    row = of_popularity(stream(clicks, start=60, end=150))
    assert (row.quality.targets, row.quality.recall_20) == (1, 1.0)


def test_the_model_answers_as_it_does_one_click_at_a_time() -> None:
    rng = np.random.default_rng(0)
    clicks = [(f"s{rng.integers(5)}", f"item-{rng.integers(60)}", n) for n in range(200)]
    scorer = FakeScorer("v1", [f"item-{n}" for n in range(50)])
    log = stream(clicks)

    class Fixed:
        def learn(self, clicks: Sequence[LoggedClick], *, version: int) -> StatisticsAtVersion:
            return FixedPopularity(["item-1"], version)

    together = prequential(log, Fixed(), always(scorer), RULES, name="model", version_seconds=1000)
    singly = prequential(log, Fixed(), always(scorer), RULES, name="model", version_seconds=0.5)
    for figure in ("targets", "recall_20", "mrr_20", "coverage_20"):
        assert getattr(together.quality, figure) == getattr(singly.quality, figure)
    assert 0 < together.quality.recall_20 < 1
    assert together.quality.coverage_20 > 0.5


def test_a_model_answers_while_it_is_live() -> None:
    """From its moment on, and sessions under way are taken over."""
    clicks = [("s", "item-0", 0), ("s", "item-1", 10), ("s", "item-2", 20), ("s", "item-3", 30)]
    scorers = [FakeScorer(f"v{n}", ["item-0", "item-1", "item-2", "item-3"]) for n in range(2)]
    asked: list[int] = []

    def model_at(ms: int) -> FakeScorer:
        asked.append(ms - START_MS)
        return scorers[ms >= START_MS + 15_000]

    prequential(
        stream(clicks), RecentPopularity(HALF_LIFE_MS), model_at, RULES, name="", version_seconds=5
    )
    assert asked == [0, 10_000, 20_000, 30_000]
    assert [sum(scorer.rows_stepped) for scorer in scorers] == [2, 2 + 1 + 1]


def test_ties_count_against_a_list() -> None:
    items = [ScoredItem("a", 0.5, 1), ScoredItem("b", 0.2, 2), ScoredItem("c", 0.2, 3)]
    assert [rank_in_list(items, item) for item in "abcd"] == [1, 3, 3, 21]
    full = [ScoredItem(f"i{n}", 1.0 if n == 0 else 0.5, n + 1) for n in range(21)]
    assert rank_in_list(full, "i0") == 1
    assert rank_in_list(full, "i7") == 21, "the tie may go on beyond the list"


def test_an_empty_range_has_no_targets() -> None:
    row = of_popularity(stream([("u", "a", 0), ("u", "b", 1)], start=50))
    assert row.quality.targets == 0


def test_every_click_is_learned_once_in_order_and_versions_rise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAST_TOGETHER", 3)
    rng = np.random.default_rng(1)
    clicks = [(f"s{n // 50}-{rng.integers(4)}", f"i{rng.integers(9)}", 7 * n) for n in range(100)]
    learned: list[int] = []
    versions: list[int] = []

    class Recording:
        def learn(self, clicks: Sequence[LoggedClick], *, version: int) -> StatisticsAtVersion:
            learned.extend(click.offset for click in clicks)
            versions.append(version)
            return FixedPopularity(["i1"], version)

    log = stream(clicks, start=400)
    prequential(log, Recording(), always(None), RULES, name="recording", version_seconds=20)
    assert learned == list(range(100))
    assert versions == list(range(1, len(versions) + 1))
    assert int(np.flatnonzero(log.answered())[0]) > 3, "some of it was past"


def test_co_occurrence_finds_what_popularity_cannot() -> None:
    """Thirty pairs of items, each clicked as often as any other: only what follows what tells the next one."""
    clicks: list[Row] = []
    for n in range(240):
        pair = 7 * n % 30
        clicks += [(f"s{n}", f"first-{pair}", 20 * n), (f"s{n}", f"second-{pair}", 20 * n + 11)]
    log = stream(clicks, start=20 * 120)
    statistics = CoOccurrence(StatisticsRecipe())
    found = prequential(
        log, statistics, always(None), RULES, name="co-occurrence", version_seconds=10
    )
    assert found.quality.mrr_20 > 0.99
    assert of_popularity(log).quality.mrr_20 < 0.2

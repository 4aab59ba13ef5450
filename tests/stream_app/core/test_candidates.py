"""Candidates and their features, against each one worked out by itself from what the view says."""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import pytest

from stream_app.core.candidates import SOURCES, CandidateSource, feature_names
from stream_app.core.manifest import SERVED_SESSION_KNN, SecondStage
from stream_app.core.session_neighbours import PastSessions, SessionNeighbours
from stream_app.core.sources.source import (
    LEAST_SHARE,
    LOG_LEAST,
    Asked,
    Batch,
    Features,
    Known,
    Proposed,
)
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from stream_app.core.statistics_view import StatisticsView
from stream_app.core.vocabulary import ItemVocabulary
from tests.stream_app.core.test_statistics_counts import session_of

RECIPE = StatisticsRecipe()
NAMES = feature_names(RECIPE)
VOCABULARY = ItemVocabulary(["a", "b", "c", "d", "never clicked", "x"])
RNG = np.random.default_rng(0)
DIRECTIONS = RNG.normal(size=(6, 3))
DIRECTIONS = (DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def statistics() -> StatisticsView:
    clicks, offset = [], 0
    for n, items in enumerate(["abc", "bad", "acb", "bca", "dab", "new a", *["x"] * 5, "xa"]):
        words = items.split() if " " in items else list(items)
        clicks += session_of(words, session=str(n), offset=offset)
        offset += len(words)
    return LocalStatistics(RECIPE).fold(clicks, version=3)


PAST = ["abc", "bd", "dab", "xc", "bda"]
"""Past sessions."""


def neighbours() -> SessionNeighbours:
    items = np.array([VOCABULARY.index_of[item] for session in PAST for item in session])
    starts = np.cumsum([0, *map(len, PAST)])
    return SessionNeighbours(PastSessions(items, starts), len(VOCABULARY), SERVED_SESSION_KNN)


def source(statistics: StatisticsView, **stage: int) -> CandidateSource:
    asks = SecondStage(features=NAMES, **{"session_items": 4, **stage})
    return CandidateSource(asks, VOCABULARY, DIRECTIONS, statistics, neighbours())


def asked(recent: str, model: list[int], clicks: int | None = None) -> Asked:
    scores = np.array([2.0 - 0.5 * place for place in range(len(model))], dtype=np.float32)
    return Asked(
        recent.split(), clicks or len(recent.split()), np.array(model, dtype=np.int64), scores
    )


SESSIONS = [
    asked("a", [1, 2]),
    asked("x a b", [4, 0, 3]),
    asked("nobody knows this", []),
    asked("b a b new c", [5], clicks=9),
    asked("a b a b b a", [0, 1]),
    asked("never clicked", [2]),
]


def table_of(made: CandidateSource, sessions: list[Asked]) -> list[dict[str, dict[str, float]]]:
    """Per session: features by name, by item id."""
    found = made.candidates(sessions)
    result = []
    for first, last in zip(found.starts[:-1], found.starts[1:], strict=True):
        ids = made.ids(found.codes[first:last])
        rows = found.features[first:last].tolist()
        assert len(set(ids)) == len(ids), "each item once"
        result.append(
            {item: dict(zip(NAMES, row, strict=True)) for item, row in zip(ids, rows, strict=True)}
        )
    return result


def expected(statistics: StatisticsView, session: Asked, item: str) -> dict[str, float]:
    model = [VOCABULARY.ids[index] for index in session.model_items.tolist()]
    shares = np.log(np.exp(session.model_scores) / np.exp(session.model_scores).sum())
    least = float(shares[-1]) - 1.0 if model else LOG_LEAST
    number = statistics.number(item)
    pops = np.full(5, LOG_LEAST)
    if number is not None:
        pops = np.maximum(statistics.log_popularities(np.array([number]))[0], LOG_LEAST)
    rows = [statistics.row(one) for one in session.recent[-4:][::-1]]
    parts, prior, last = [], 0.0, None
    for k, row in enumerate(rows):
        weight = 0.5**k
        if row is None:
            parts.append(0.0)
            prior += weight
            continue
        at = {int(n): place for place, n in enumerate(row.neighbours)}
        parts.append(weight * row.share[at[number]] if number in at else 0.0)
        prior += weight * row.prior
        if k == 0:
            last = (
                [row.counts[h][at[number]] if number in at else 0.0 for h in range(2)],
                row.totals,
            )
    counts, totals = last or ([0.0, 0.0], (0.0, 0.0))
    own = list(dict.fromkeys(reversed(session.recent)))
    lag = own.index(item) if item in own else -1
    index, newest = VOCABULARY.index_of.get(item), VOCABULARY.index_of.get(session.recent[-1])
    cosine = 0.0
    if index is not None and newest is not None:
        cosine = float(DIRECTIONS[index] @ DIRECTIONS[newest])
    clicked = [VOCABULARY.index_of.get(one, -1) for one in session.recent]
    votes = neighbours().votes(clicked)
    scores = dict(zip((VOCABULARY.ids[i] for i in votes.items), votes.scores, strict=True))
    best, voted = max(scores.values(), default=0.0), scores.get(item)
    newest_first = session.recent[::-1]
    new = [one not in newest_first[at + 1 :] for at, one in enumerate(newest_first)]
    after = zip(session.recent, session.recent[1:], strict=False)
    return {
        "votes_share": math.log(voted / sum(scores.values()) + LEAST_SHARE) if voted else LOG_LEAST,
        "votes_below_best": math.log(voted / best + LEAST_SHARE) if voted else LOG_LEAST,
        "votes_rank": math.log1p(
            sum(one > voted for one in scores.values()) if voted else len(scores)
        ),
        "in_votes": float(item in scores),
        "voters": math.log1p(votes.neighbours),
        "item_sessions": math.log(sum(item in one for one in PAST) / len(PAST) + LEAST_SHARE)
        if item in VOCABULARY.index_of
        else LOG_LEAST,
        "clicked_nearness": 1 / (1 + lag) if lag >= 0 else 0.0,
        "clicked_times": math.log1p(session.recent.count(item)),
        "followed_last_here": float((session.recent[-1], item) in after),
        "session_log_clicks": math.log(session.clicks),
        "session_repeat_share": 1 - len(own) / len(session.recent),
        "session_new_in_a_row": math.log1p(new.index(False) if False in new else len(new)),
        "session_same_twice": float(newest_first[:1] == newest_first[1:2]),
        "session_back_and_forth": float(newest_first[:1] == newest_first[2:3]),
        "session_same_twice_before": float(
            len(newest_first) > 2 and newest_first[1] == newest_first[2]
        ),
        "model_share": float(shares[model.index(item)]) if item in model else least,
        "model_rank": math.log1p(model.index(item) if item in model else len(model)),
        "in_model": float(item in model),
        "associated": math.log(sum(parts) + prior * math.exp(pops[-1]) + LEAST_SHARE),
        "associated_earlier": math.log(sum(parts[1:]) + LEAST_SHARE),
        "pairs_of_item_before": math.log((parts[1] / 0.5 if parts[1:] else 0.0) + LEAST_SHARE),
        "pairs_lift_20m": math.log((counts[0] + 0.5) / (math.exp(pops[-1]) * totals[0] + 0.5)),
        "pairs_lift_43200m": math.log((counts[1] + 0.5) / (math.exp(pops[-1]) * totals[1] + 0.5)),
        "pairs_20m": math.log(counts[0] / (totals[0] + 1) + LEAST_SHARE),
        "pairs_43200m": math.log(counts[1] / (totals[1] + 1) + LEAST_SHARE),
        "pair_count": math.log1p(counts[1]),
        "last_item_clicks": math.log1p(totals[1]),
        "popularity_60m": pops[0],
        "popularity_2.5m": pops[1],
        "popularity_10m": pops[2],
        "popularity_follow_up_7.5m": pops[4],
        "item2vec_cosine": cosine,
        "in_vocabulary": float(index is not None),
        "clicked_0_ago": float(lag == 0),
        "clicked_1_ago": float(lag == 1),
        "clicked_2_ago": float(lag == 2),
        "clicked_before": float(lag > 2),
    }


def test_every_feature_is_what_its_name_says(statistics: StatisticsView) -> None:
    for session, found in zip(SESSIONS, table_of(source(statistics), SESSIONS), strict=True):
        assert found, "popular items are always there"
        for item, features in found.items():
            wanted = expected(statistics, session, item)
            not_alone = {"associated_below_best", "associated_rank", "popularity_rank"}
            assert set(features) - set(wanted) == not_alone, "each is looked at, these three below"
            for name, value in wanted.items():
                assert features[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (item, name)
        by_rank = sorted(found.values(), key=lambda features: features["associated_rank"])
        values = [features["associated"] for features in by_rank]
        assert values == sorted(values, reverse=True)
        assert by_rank[0]["associated_rank"] == by_rank[0]["associated_below_best"] == 0.0
        for features in by_rank:
            below = features["associated"] - values[0]
            assert features["associated_below_best"] == pytest.approx(below, abs=1e-5)
        popular = sorted(found.values(), key=lambda features: features["popularity_rank"])
        shares = [features["popularity_follow_up_7.5m"] for features in popular]
        assert shares == sorted(shares, reverse=True)
        assert by_rank[-1]["associated_rank"] <= math.log(len(found)) + 1e-6


def test_a_session_is_told_the_same_alone_and_in_a_batch(statistics: StatisticsView) -> None:
    together = table_of(source(statistics), SESSIONS)
    alone = [table_of(source(statistics), [session])[0] for session in SESSIONS]
    assert together == alone


def test_all_sources_are_there(statistics: StatisticsView) -> None:
    (found,) = table_of(source(statistics), [asked("x a b", [4, 0, 3])])
    assert {"never clicked", "a", "d"} <= set(found), "the model's"
    assert {"c", "x", "b"} <= set(found), "what follows, and its own"
    assert "new" in found, "what the model never heard of"
    (bare,) = table_of(
        source(statistics, associated_items=1, popular_items=0, session_items=0), [asked("a", [1])]
    )
    assert set(bare) == {"a", "b"}
    for items, found_there in (0, False), (6, True):
        (voted,) = table_of(
            source(statistics, associated_items=1, popular_items=0, session_items=items),
            [asked("a b", [])],
        )
        assert ("c" in voted) == found_there, "what went on in past sessions"
    near = int(np.argsort(-(DIRECTIONS @ DIRECTIONS[0]))[1])
    (wider,) = table_of(
        source(statistics, associated_items=1, popular_items=0, neighbour_items=2), [asked("a", [])]
    )
    assert VOCABULARY.ids[near] in wider


def test_sources_that_are_asked_for_nothing_give_nothing(statistics: StatisticsView) -> None:
    asks = dict.fromkeys(("associated_items", "popular_items", "session_items"), 0)
    for session, found in zip(
        SESSIONS, table_of(source(statistics, **asks), SESSIONS), strict=True
    ):
        model = {VOCABULARY.ids[index] for index in session.model_items.tolist()}
        known = {item for item in session.recent if item in VOCABULARY.index_of or item == "new"}
        assert set(found) == model | known


def test_no_session_at_all(statistics: StatisticsView) -> None:
    found = source(statistics).candidates([])
    assert found.features.shape == (0, len(NAMES))
    assert found.starts.tolist() == [0]


class EveryKnownItem:
    """A source that is not among the product's: the whole vocabulary, last item first, one of them twice."""

    def __init__(self, known: Known) -> None:
        self._codes = known.codes
        n = len(known.vocabulary)
        self._proposed = np.array([*range(n - 1, -1, -1), 0])

    @classmethod
    def of(cls, known: Known) -> Self:
        return cls(known)

    @staticmethod
    def feature_names(recipe: StatisticsRecipe) -> tuple[str, ...]:
        return "place", "candidates"

    def propose(self, asked: Sequence[Asked]) -> Proposed:
        return Proposed.joined([self._codes.of_indexes(self._proposed) for _ in asked])

    def tell(self, columns: Features, batch: Batch, places: np.ndarray) -> None:
        place, candidates = columns.T
        place[places] = np.tile(np.arange(len(self._proposed)), len(batch.asked))
        candidates[:] = np.diff(batch.starts)[batch.session]


@pytest.mark.parametrize("at", range(len(SOURCES) + 1))
def test_a_further_source_adds_items_and_features_and_leaves_the_others_as_they_are(
    statistics: StatisticsView, at: int
) -> None:
    """Wherever it stands: its columns are its own, and the rows it is given are those of its items."""
    sources = (*SOURCES[:at], EveryKnownItem, *SOURCES[at:])
    names = feature_names(RECIPE, sources)
    stage = SecondStage(features=names, session_items=4)
    wider = CandidateSource(stage, VOCABULARY, DIRECTIONS, statistics, neighbours(), sources)
    plain = table_of(source(statistics), SESSIONS)
    found = wider.candidates(SESSIONS)
    assert found.features.shape[1] == len(names) == len(NAMES) + 2
    for row, session in enumerate(plain):
        rows = slice(found.starts[row], found.starts[row + 1])
        ids = wider.ids(found.codes[rows])
        assert set(ids) == set(session) | set(VOCABULARY.ids)
        for item, values in zip(ids, found.features[rows].tolist(), strict=True):
            told = dict(zip(names, values, strict=True))
            assert told["candidates"] == len(ids)
            wanted = {"d": 2.0, "b": 4.0, "a": 6.0}
            if item in wanted:
                assert told["place"] == wanted[item]
            if item in session:
                # Ranks are among all candidates, and so change with their number.
                same = [name for name in NAMES if not name.endswith("_rank") or "model" in name]
                same.remove("associated_below_best")
                assert {name: told[name] for name in same} == {
                    name: session[item][name] for name in same
                }


def test_a_session_has_no_more_candidates_than_its_sources_were_asked_for() -> None:
    """The budget of a click: ties may add what the rows of its last items hold, and no more."""
    recipe = StatisticsRecipe(neighbours_max=10)
    clicks, offset = [], 0
    for n in range(300):
        clicks += session_of([f"hub {n % 4}", f"rare {n}"], session=str(n), offset=offset)
        offset += 2
    view = LocalStatistics(recipe).fold(clicks, version=1)
    stage = SecondStage(
        features=feature_names(recipe), associated_items=5, popular_items=7, neighbour_items=2
    )
    made = CandidateSource(stage, VOCABULARY, DIRECTIONS, view)
    recent = ["a", *(f"hub {n}" for n in range(4))]
    found = made.candidates([Asked(recent, 5, np.array([1, 2]), np.array([1.0, 0.5], "f4"))])
    ties = recipe.pair_positions * recipe.neighbours_max
    assert 5 < len(found.codes) <= 2 + ties + 7 + 2 * 2 + len(recent)

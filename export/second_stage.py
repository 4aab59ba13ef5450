"""The ranker of a bundle: learned from the log as it happened, judged on what came after.

Candidates and features are gathered by `core.pipeline.recommend_batch` itself, over statistics counted
in versions as the aggregator counts them: what the ranker learns from is what the worker will ask it.  The
clicks are ones that the first stage has not learned, or it would be trusted too much.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.ranker_graph import FARTHEST, RankerWeights, ranker_graph
from export.window import Window
from models.ranker import RankedLists, Ranker, RankerConfig, train_ranker
from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_ranker import unit_vectors
from stream_app.core.candidates import feature_names
from stream_app.core.manifest import SecondStage
from stream_app.core.metrics import RankingQuality, quality_of_ranks
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.ports import Scorer, StateRows
from stream_app.core.second_stage import Gathered
from stream_app.core.session_neighbours import PastSessions, SessionNeighbours
from stream_app.core.statistics_recipe import StatisticsRecipe
from stream_app.core.statistics_table import LocalStatistics
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.session_log import SessionLog
from stream_app.evaluation.sessions import SessionTable
from stream_app.evaluation.targets import MISS
from stream_app.evaluation.two_stages import PAST_CLICKS_MAX

LEARNED_SHARE: Final = 0.6
"""Of the lists, the oldest: the ranker learns them first and is judged on the rest."""
LISTS_MIN: Final = 150
"""Fewer lists than this, to learn or to judge, say nothing."""
BATCH_CLICKS: Final = 256
SESSION_ITEMS: Final = 60
"""Candidates that past sessions vote for."""
_EXAMPLES_MAX: Final = 40_000
"""Lists learned from at most, the newest: 100 candidates of 30 numbers each are 12 kB."""


class SecondStageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the second stage brings on clicks that neither stage has learned."""

    lists: int
    """Next clicks, of which the older ones were learned from."""
    candidates_share: float
    """Of the judged next clicks, those that were among the candidates: more cannot be hit."""
    statistics: RankingQuality
    """Co-occurrence alone: what answers where no model is live."""
    one_stage: RankingQuality
    two_stages: RankingQuality

    @property
    def served(self) -> RankingQuality:
        """Of the answers that the bundle will give."""
        return self.two_stages if self.is_better else self.one_stage

    @property
    def is_better(self) -> bool:
        one, two = self.one_stage, self.two_stages
        return two.recall_20 + two.mrr_20 > one.recall_20 + one.mrr_20


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """One row per next click, by time: its candidates, and which of them it was."""

    candidates: list[Gathered]
    wanted: NDArray[np.int64]
    """Place of the next click among its candidates; -1: not there."""
    first_stage_ranks: NDArray[np.int64]
    """The model's rank of it; `MISS` beyond its list."""
    statistics_ranks: NDArray[np.int64]
    """Co-occurrence's."""


class LiveFrom(NamedTuple):
    """A model, and the event time (ms) from which on it answers."""

    ms: int
    scorer: Scorer
    item2vec: NDArray[np.float32]
    """[n_items of the scorer, dim]."""


class GatheringScorer:
    """A model with a second stage that is still to be learned: it gathers candidates, in the model's order."""

    def __init__(
        self,
        scorer: Scorer,
        stage: SecondStage,
        item2vec: NDArray[np.float32],
        past: PastSessions,
    ) -> None:
        self._scorer = scorer
        self.stage = stage
        self.neighbours = SessionNeighbours(past, len(item2vec), stage.session_knn)
        self.directions = unit_vectors(item2vec)
        self.placed = np.zeros(len(item2vec), dtype=bool)
        """None: what is gathered is what the ranker is asked about, not where its answers go."""

    @property
    def ranker(self) -> "GatheringScorer":
        return self

    @property
    def model_version(self) -> str:
        return self._scorer.model_version

    @property
    def vocabulary(self) -> ItemVocabulary:
        return self._scorer.vocabulary

    @property
    def state_size_bytes(self) -> int:
        return self._scorer.state_size_bytes

    def step(self, states: StateRows, item_indexes: NDArray[np.int64]) -> StateRows:
        return self._scorer.step(states, item_indexes)

    def top_k(self, states: StateRows, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._scorer.top_k(states, k)

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return features[:, 0]


@dataclass(frozen=True, slots=True)
class SecondStageOutcome:
    """What goes into a bundle, and what it brings."""

    stage: SecondStage
    ranker: bytes
    """`ranker.onnx`."""
    report: SecondStageReport


def make_second_stage(
    window: Window,
    models: Iterable[LiveFrom],
    past: PastSessions,
    recipe: StatisticsRecipe,
    rules: ServingRules,
    *,
    from_ms: int,
    version_seconds: float,
    threads: int = 1,
) -> SecondStageOutcome | None:
    """Learn a ranker from the clicks since `from_ms`, which neither the models before them nor `past` may know.

    None where they are too few.
    """
    stage = SecondStage(
        features=feature_names(recipe), session_items=SESSION_ITEMS if past.n_sessions else 0
    )
    lists = gather_lists(
        window,
        models,
        past,
        stage,
        recipe,
        rules,
        from_ms=from_ms,
        version_seconds=version_seconds,
    )
    learned = learn_second_stage(lists, threads=threads)
    if learned is None:
        return None
    ranker, report = learned
    return SecondStageOutcome(stage, ranker_bytes(ranker), report)


def gather_lists(
    window: Window,
    models: Iterable[LiveFrom],
    past: PastSessions,
    stage: SecondStage,
    recipe: StatisticsRecipe,
    rules: ServingRules,
    *,
    from_ms: int,
    version_seconds: float,
    lists_max: int = _EXAMPLES_MAX,
) -> Lists:
    """Replay the window from `from_ms` on: candidates of every next click of the sessions that start then; of the
    newest of them where those are more than about `lists_max`.

    models: by time, the first from the beginning; asked for when the replay comes to them.  past: sessions of
    items that all of them have under the same numbers.  The statistics know the clicks before, too.
    """
    coming = iter(models)
    live, following = next(coming), next(coming, None)
    gathering = GatheringScorer(live.scorer, stage, live.item2vec, past)
    from_ms = _start_of_newest(window.sessions, from_ms, lists_max)
    log = SessionLog(window.sessions, window.vocabulary)
    begin = int(np.searchsorted(log.ms, from_ms))
    statistics = LocalStatistics(recipe)
    versions = itertools.count(1)
    view = statistics.fold(
        log.counted(max(0, begin - PAST_CLICKS_MAX), begin), version=next(versions)
    )
    sessions = MemorySessions()
    latest: dict[int, Gathered] = {}
    candidates: list[Gathered] = []
    wanted: list[int] = []
    ranks: list[int] = []
    counted: list[int] = []
    for first, last in _versions(log.ms, begin, version_seconds * 1000):
        while following is not None and following.ms <= log.ms[first]:
            live, following = following, next(coming, None)
            gathering = GatheringScorer(live.scorer, stage, live.item2vec, past)
        for start in range(first, last, BATCH_CLICKS):
            records = [
                record
                for at in range(start, min(start + BATCH_CLICKS, last))
                if log.starts_ms[log.sessions[at]] >= from_ms
                for record in (log.record(at),)
            ]
            outcome = recommend_batch(records, sessions, gathering, view, rules, now_ms=0)
            sessions.put_many(outcome.states)
            gathered = {
                outcome.recommendations[place].source.offset: outcome.ranked.gathered(row)
                for place, row in outcome.ranked_rows.items()
                if outcome.ranked is not None
            }
            for record in records:
                session = int(log.sessions[record.offset])
                before = latest.get(session)
                if before is not None:
                    item_id = log.item_id(record.offset)
                    place = before.ids.index(item_id) if item_id in before.ids else -1
                    candidates.append(before)
                    wanted.append(place)
                    ranks.append(_first_stage_rank(before, place))
                    counted.append(_rank_told(before, place, _ASSOCIATED_RANK))
                latest[session] = gathered.get(record.offset, _NO_CANDIDATES)
        view = statistics.fold(log.counted(first, last), version=next(versions))
    return Lists(
        candidates,
        np.array(wanted, dtype=np.int64),
        np.array(ranks, dtype=np.int64),
        np.array(counted, dtype=np.int64),
    )


_NAMES: Final = feature_names(StatisticsRecipe())
_MODEL_RANK, _IN_MODEL = _NAMES.index("model_rank"), _NAMES.index("in_model")
_ASSOCIATED_RANK: Final = _NAMES.index("associated_rank")
_NO_CANDIDATES: Final = Gathered([], np.zeros((0, len(_NAMES)), dtype=np.float32))


def _first_stage_rank(gathered: Gathered, place: int) -> int:
    """The model's own rank of a candidate, from 1."""
    if place < 0 or not gathered.features[place, _IN_MODEL]:
        return MISS
    return _rank_told(gathered, place, _MODEL_RANK)


def _rank_told(gathered: Gathered, place: int, column: int) -> int:
    """The rank, from 1, that a feature tells: log(1 + how many are before it)."""
    return MISS if place < 0 else 1 + round(float(np.expm1(gathered.features[place, column])))


def learn_second_stage(
    lists: Lists, *, seed: int = 42, threads: int = 1
) -> tuple[Ranker, SecondStageReport] | None:
    """The ranker of all lists, and what one of the older lists alone brings on the newer ones.

    None where there are too few.
    """
    n = len(lists.wanted)
    cut = int(n * LEARNED_SHARE)
    learned = np.arange(cut)[lists.wanted[:cut] >= 0]
    everything = np.flatnonzero(lists.wanted >= 0)
    if len(learned) < LISTS_MIN or n - cut < LISTS_MIN:
        return None
    config = RankerConfig(seed=seed)
    judged = train_ranker(_examples(lists, learned), config, farthest=FARTHEST, threads=threads)
    two = np.array([_rank(judged, lists, row) for row in range(cut, n)])
    report = SecondStageReport(
        lists=n,
        candidates_share=float((lists.wanted[cut:] >= 0).mean()),
        statistics=quality_of_ranks(lists.statistics_ranks[cut:]),
        one_stage=quality_of_ranks(lists.first_stage_ranks[cut:]),
        two_stages=quality_of_ranks(two),
    )
    final = train_ranker(_examples(lists, everything), config, farthest=FARTHEST, threads=threads)
    return final, report


def ranker_bytes(ranker: Ranker) -> bytes:
    """`ranker.onnx`."""
    weights = RankerWeights(
        ranker.mean, ranker.deviation, ranker.hidden, ranker.hidden_bias, ranker.out, ranker.skip
    )
    data: bytes = ranker_graph(weights).SerializeToString()
    return data


def _examples(lists: Lists, rows: NDArray[np.int64]) -> RankedLists:
    chosen = [lists.candidates[row] for row in rows]
    starts = np.concatenate(([0], np.cumsum([len(each.ids) for each in chosen])))
    return RankedLists(
        np.concatenate([each.features for each in chosen]),
        starts.astype(np.int64),
        starts[:-1] + lists.wanted[rows],
    )


def _rank(ranker: Ranker, lists: Lists, row: int) -> int:
    """Ties count against us; an item that is no candidate is a miss."""
    wanted, features = int(lists.wanted[row]), lists.candidates[row].features
    if wanted < 0:
        return MISS
    standard = np.clip((features - ranker.mean) / ranker.deviation, -FARTHEST, FARTHEST)
    hidden = np.maximum(standard @ ranker.hidden + ranker.hidden_bias, 0)
    scores = hidden @ ranker.out + standard @ ranker.skip
    return int((scores >= scores[wanted]).sum())


def _start_of_newest(sessions: SessionTable, from_ms: int, targets_max: int) -> int:
    """From when on the sessions have at most so many next clicks; `from_ms` or later."""
    started = np.flatnonzero(sessions.start_ms >= from_ms)
    targets = np.cumsum(np.maximum(sessions.lengths[started] - 1, 0)[::-1])
    n = int(np.searchsorted(targets, targets_max, side="right"))
    return from_ms if n >= len(started) else int(sessions.start_ms[started[-max(n, 1)]])


def _versions(ms: NDArray[np.int64], begin: int, length_ms: float) -> Iterator[tuple[int, int]]:
    """Clicks from `begin` on by windows of event time, first and one past the last; none is empty."""
    if begin >= len(ms):
        return
    number = np.floor_divide(ms[begin:], length_ms).astype(np.int64)
    starts = begin + np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    yield from zip(starts.tolist(), [*starts[1:].tolist(), len(ms)], strict=True)

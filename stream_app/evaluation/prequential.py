"""The prequential protocol: clicks in order of time, each predicted before anything learns from it.

Gama, Sebastiao & Rodrigues 2013, "On evaluating stream learning algorithms".  Answers come from
`core.pipeline.recommend_batch`, the worker's own code, sessions and all; statistics are learned in
versions, as the aggregator publishes them, so an answer knows nothing younger than its version.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.clicks import encode_click
from stream_app.core.metrics import CUT, RankingQuality, quality_of_ranks
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.ports import Scorer
from stream_app.core.records import Click, ItemId, ScoredItem
from stream_app.evaluation.judge import JudgedRanker, judged
from stream_app.evaluation.rankers import in_parts
from stream_app.evaluation.session_cut import session_numbers
from stream_app.evaluation.stream_statistics import (
    LoggedClick,
    StatisticsAtVersion,
    StreamStatistics,
)

BATCH_CLICKS: Final = 512
PAST_TOGETHER: Final = 50_000
MINUTE_MS: Final = 60_000
AGES: Final = (
    ("under 15 min", 15 * MINUTE_MS),
    ("15 to 60 min", 60 * MINUTE_MS),
    ("1 to 6 h", 360 * MINUTE_MS),
    ("older", np.iinfo(np.int64).max),
)
"""Since the first click on an item: upper bound of each class."""
NEVER: Final = "never clicked before"


AnsweredAt = Literal["click", "next-click"]
ModelAt = Callable[[int], Scorer | None]
"""The model that is live at an event time (ms); the statistics answer where it cannot.  None: they always do."""


def always(scorer: Scorer | None) -> ModelAt:
    """One model, or none, for the whole stream."""
    return lambda _: scorer


class AgeQuality(msgspec.Struct, frozen=True, kw_only=True):
    """Targets by how long ago their item was clicked for the first time."""

    age: str
    targets: int
    recall_20: float
    mrr_20: float


class PrequentialRow(msgspec.Struct, frozen=True, kw_only=True):
    quality: JudgedRanker
    by_age: list[AgeQuality]


class ClickStream:
    """A click log, and which of its clicks are to be predicted: a session's second to last, in a range of time."""

    def __init__(
        self,
        clicks: pa.Table,
        rules: ServingRules,
        *,
        from_ms: int | None = None,
        to_ms: int | None = None,
    ) -> None:
        """clicks: session_id, item_id (string), event_time_ms (int64), by time.  from_ms <= time < to_ms is
        reported; what precedes it is past, what follows is not looked at."""
        self.ms = np.asarray(clicks["event_time_ms"].combine_chunks()).astype(np.int64)
        end = int(np.searchsorted(self.ms, to_ms)) if to_ms is not None else len(self.ms)
        clicks, self.ms = clicks.slice(0, end), self.ms[:end]
        self.begin = int(np.searchsorted(self.ms, from_ms)) if from_ms is not None else 0
        """First click of the range."""
        session = clicks["session_id"].combine_chunks().dictionary_encode()
        item = clicks["item_id"].combine_chunks().dictionary_encode()
        self._session_ids, self._item_ids = session.dictionary, item.dictionary
        self._sessions = np.asarray(session.indices).astype(np.int64)
        self.items = np.asarray(item.indices).astype(np.int64)
        self.session_numbers = session_numbers(self._sessions, self.ms, None, rules.limits)
        self.before = _previous_of_session(self.session_numbers)
        """Position of each click's predecessor in its session; -1: it is the first."""
        self.targets = self.begin + np.flatnonzero(self.before[self.begin :] >= 0)
        self.first_of_item = _first_positions(self.items)

    @property
    def n_items(self) -> int:
        return len(self._item_ids)

    def records(self, positions: NDArray[np.int64], *, encoded: bool = True) -> list[LoggedClick]:
        """The clicks at these positions as messages; the offset is the position."""
        session_ids = self._session_ids.take(pa.array(self._sessions[positions])).to_pylist()
        item_ids = self._item_ids.take(pa.array(self.items[positions])).to_pylist()
        return [
            LoggedClick(
                position,
                ms,
                session_id,
                item_id,
                _json(session_id, item_id, ms) if encoded else None,
            )
            for position, ms, session_id, item_id in zip(
                positions.tolist(), self.ms[positions].tolist(), session_ids, item_ids, strict=True
            )
        ]

    def item_numbers(self, item_ids: list[str]) -> NDArray[np.int64]:
        """As in `items`; -1 for one that nobody clicked."""
        found = pc.index_in(pa.array(item_ids, pa.string()), value_set=self._item_ids)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)

    def answered(self) -> NDArray[np.bool_]:
        """Clicks whose session has a target: the others' answers are judged by nobody."""
        wanted = np.zeros(int(self.session_numbers.max(initial=-1)) + 1, dtype=bool)
        wanted[self.session_numbers[self.targets]] = True
        return (self.session_numbers >= 0) & wanted[self.session_numbers]

    def ages_ms(self) -> NDArray[np.int64]:
        """Of each target's item since its first click, int64 [n_targets]; -1: this is its first."""
        first = self.first_of_item[self.items[self.targets]]
        ages = self.ms[self.targets] - self.ms[first]
        return np.where(first < self.targets, ages, -1)


def prequential(
    stream: ClickStream,
    statistics: StreamStatistics,
    model_at: ModelAt,
    rules: ServingRules,
    *,
    name: str,
    version_seconds: float = 10.0,
    answered_at: AnsweredAt = "click",
) -> PrequentialRow:
    """Replay the stream; every click of the range from a session's second is judged by the last answer.

    version_seconds: event time between versions of the statistics.  model_at: who answers, see `always`.
    answered_at: `click`, a list is made when its session clicks, as on the stream; `next-click`, just before
    the click that judges it, as the literature reports: what was counted meanwhile is known to it.  Ties
    count against the answer.
    """
    began = time.perf_counter()
    # One item more than is judged, so that a tie across the cut is seen.
    rules = dataclasses.replace(rules, top_k=CUT + 1)
    sessions = MemorySessions()
    ranks = np.zeros(len(stream.ms), dtype=np.int64)
    listed: dict[str, int] = {}
    latest: dict[int, Sequence[ScoredItem]] = {}
    answered = stream.answered()
    length_ms = version_seconds * 1000
    first = _start_of_window(stream.ms, answered, length_ms)
    versions = itertools.count(1)
    view = statistics.learn([], version=next(versions))
    # Nobody is answered from any version of the past but the last.
    for past in in_parts(first, PAST_TOGETHER):
        view = statistics.learn(stream.records(past, encoded=False), version=next(versions))
    for window in _windows(stream.ms, first, length_ms):
        records = stream.records(window)
        scorer = model_at(int(stream.ms[window[0]]))
        wanted = [record for record in records if answered[record.offset]]
        for start in range(0, len(wanted), BATCH_CLICKS):
            batch = wanted[start : start + BATCH_CLICKS]
            asked = batch
            if answered_at == "next-click":
                before = stream.before[[record.offset for record in batch]]
                asked = stream.records(before[before >= 0])
            answers = _answers(asked, sessions, scorer, view, rules)
            for record in batch:
                session = int(stream.session_numbers[record.offset])
                previous = int(stream.before[record.offset])
                if answered_at == "next-click":
                    latest[session] = answers.get(previous, ())
                if record.offset >= stream.begin and previous >= 0:
                    ranks[record.offset] = rank_in_list(latest[session], record.item_id)
                    for item in latest[session][:CUT]:
                        listed[item.item_id] = listed.get(item.item_id, 0) + 1
                if answered_at == "click":
                    latest[session] = answers.get(record.offset, ())
        view = statistics.learn(records, version=next(versions))
    assert (ranks[stream.targets] > 0).all(), "a target was not judged"
    return _row(stream, ranks[stream.targets], listed, name, time.perf_counter() - began)


def _answers(
    batch: list[LoggedClick],
    sessions: MemorySessions,
    scorer: Scorer | None,
    view: StatisticsAtVersion,
    rules: ServingRules,
) -> dict[int, Sequence[ScoredItem]]:
    outcome = recommend_batch(batch, sessions, scorer, view, rules, now_ms=0)
    sessions.put_many(outcome.states)
    return {answer.source.offset: answer.items for answer in outcome.recommendations}


def rank_in_list(items: Sequence[ScoredItem], item_id: str) -> int:
    """Rank of an item, ties counted against it; `CUT + 1` where it is not listed, or may be tied with the rest."""
    own = next((item.score for item in items if item.item_id == item_id), None)
    if own is None or (len(items) > CUT and own <= items[-1].score):
        return CUT + 1
    return sum(item.score >= own for item in items)


def _json(session_id: str, item_id: str, ms: int) -> bytes:
    return encode_click(Click(session_id=session_id, item_id=ItemId(item_id), event_time_ms=ms))


def _start_of_window(ms: NDArray[np.int64], answered: NDArray[np.bool_], length_ms: float) -> int:
    """First click of the window of time in which the first answer is given."""
    if not answered.any():
        return len(ms)
    first_ms = int(ms[np.flatnonzero(answered)[0]])
    return int(np.searchsorted(ms, first_ms // length_ms * length_ms))


def _windows(ms: NDArray[np.int64], first: int, length_ms: float) -> Iterator[NDArray[np.int64]]:
    """Positions from `first` on by windows of event time; empty ones are left out."""
    if first >= len(ms):
        return
    number = np.floor_divide(ms[first:], length_ms).astype(np.int64)
    starts = first + np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    for start, end in zip(starts, [*starts[1:], len(ms)], strict=True):
        yield np.arange(start, end)


def _row(
    stream: ClickStream,
    ranks: NDArray[np.int64],
    listed: dict[str, int],
    name: str,
    seconds: float,
) -> PrequentialRow:
    ages = stream.ages_ms()
    quality = judged(
        name,
        ranks,
        warm=ages >= 0,
        sessions=stream.session_numbers[stream.targets],
        coverage=len(listed) / max(1, stream.n_items),
        popularity_bias=_popularity_bias(stream, listed),
        seconds=seconds,
    )
    return PrequentialRow(quality=quality, by_age=_by_age(ranks, ages))


def _by_age(ranks: NDArray[np.int64], ages: NDArray[np.int64]) -> list[AgeQuality]:
    classes: list[tuple[str, RankingQuality]] = []
    low = 0
    for age, high in AGES:
        classes.append((age, quality_of_ranks(ranks[(ages >= low) & (ages < high)])))
        low = high
    classes.append((NEVER, quality_of_ranks(ranks[ages < 0])))
    return [
        AgeQuality(age=age, targets=q.targets, recall_20=q.recall_20, mrr_20=q.mrr_20)
        for age, q in classes
    ]


def _popularity_bias(stream: ClickStream, listed: dict[str, int]) -> float:
    """As `JudgedRanker.popularity_bias`, by the clicks before the range."""
    support = np.bincount(stream.items[: stream.begin], minlength=stream.n_items)
    numbers = stream.item_numbers(list(listed))
    times = np.fromiter(listed.values(), dtype=np.int64, count=len(listed))
    mine = np.where(numbers >= 0, support[numbers], 0)
    return float((mine * times).sum() / max(1, times.sum()) / max(1, support.max(initial=0)))


def _previous_of_session(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(numbers, kind="stable")
    before = np.full(len(numbers), -1, dtype=np.int64)
    same = (numbers[order[1:]] == numbers[order[:-1]]) & (numbers[order[1:]] >= 0)
    before[order[1:][same]] = order[:-1][same]
    return before


def _first_positions(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of the first click on each item."""
    _, first = np.unique(items, return_index=True)
    return first.astype(np.int64, copy=False)

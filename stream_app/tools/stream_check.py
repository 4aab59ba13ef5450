"""Online equals offline: replay the click topic and compare with what the workers answered.

Every answer names the model and the statistics version it was given from.  Both can be had again (the
model from the registry; the statistics by counting the clicks up to the offsets that the version's
marker names), so every list can be computed anew, by the very function the worker runs.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import msgspec

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.statistics_reader import read_versions
from stream_app.core.errors import BadRecordError, BundleError
from stream_app.core.pipeline import Judgement, ServingRules, recommend_batch
from stream_app.core.ports import Popularity
from stream_app.core.records import UNREADABLE, Recommendation, ScoredItem
from stream_app.core.statistics import CountedClick, LocalPopularity, countable
from stream_app.core.statistics_records import VersionMarker
from stream_app.files.registry import Registry
from stream_app.settings import KafkaSettings, TopicSettings

BATCH_CLICKS: Final = 256

Click = tuple[int, int]
"""Partition and offset."""
AnsweredFrom = tuple[str | None, int | None]
"""Model version and statistics version."""


@dataclass(slots=True)
class StreamCheck:
    """How the answers on the topic compare with those computed anew."""

    clicks: int = 0
    answers: int = 0
    """Clicks with an answer on the topic; where there are several, the last one counts."""
    repeated_answers: int = 0
    """Answers beyond one per click: given again after a crash."""
    identical: int = 0
    """Same items in the same order with the same scores, model and fallback."""
    differences: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    judgements: dict[str, Judgement] = field(default_factory=dict)
    """Live quality by model version, as the workers counted it."""
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def identical_share(self) -> float:
        return self.identical / self.answers if self.answers else 1.0

    def differ(self, kind: str, click: Click) -> None:
        self.differences[kind] += 1
        if len(self.examples) < 10:
            self.examples.append(f"partition {click[0]}, offset {click[1]}: {kind}")


def check_stream(
    kafka: KafkaSettings,
    topics: TopicSettings,
    registry: Registry,
    rules: ServingRules,
) -> StreamCheck:
    """Replay the whole click topic against the answers.  Holds the topic's clicks in memory.

    Raises `ServiceAwayError` without a broker.
    """
    check = StreamCheck()
    clicks = _read_partitions(kafka, topics.clicks)
    answers = _last_answers(_read_partitions(kafka, topics.recommendations), check)
    wanted = {a.statistics_version for a in answers.values() if a.fallback is not None}
    history = StatisticsHistory(read_versions(kafka, topics.statistics), clicks, rules)
    statistics = history.views(version for version in wanted if version is not None)
    models = _Models(registry)
    check.clicks = sum(map(len, clicks.values()))
    check.answers = len(answers)
    for partition, records in clicks.items():
        _replay_partition(partition, records, answers, models, statistics, rules, check)
    return check


class StatisticsHistory:
    """The statistics as they were at any version whose marker is still on the topic."""

    def __init__(
        self,
        markers: Sequence[VersionMarker],
        clicks: Mapping[int, list[Any]],
        rules: ServingRules,
    ) -> None:
        """markers: ascending.  clicks: by partition, in offset order."""
        self._markers, self._clicks, self._rules = markers, clicks, rules

    def views(self, versions: Iterable[int]) -> dict[int, Popularity]:
        """Popularity at those of the versions that can be counted again: all clicks since the first
        version must still be on the topic."""
        wanted = set(versions)
        views: dict[int, Popularity] = {}
        counted = dict.fromkeys(self._clicks, 0)
        local: LocalPopularity | None = None
        for marker in self._markers:
            if local is None:
                local = LocalPopularity(marker.half_life_ms, marker.items_max)
            view = local.fold(self._clicks_of_version(marker, counted), version=marker.version)
            if marker.version in wanted and local.counts.clicks == marker.clicks:
                views[marker.version] = view
        return views

    def _clicks_of_version(
        self, marker: VersionMarker, counted: dict[int, int]
    ) -> Iterator[CountedClick]:
        """counted: position in each partition's list up to which clicks are counted; moved on."""
        for partition in sorted(counted):
            records, begin = self._clicks[partition], counted[partition]
            offset = marker.offsets.get(str(partition), 0)
            end = max(begin, bisect_left(records, offset, key=lambda record: record.offset))
            counted[partition] = end
            for record in records[begin:end]:
                try:
                    click = countable(
                        record.value,
                        kafka_timestamp_ms=record.timestamp,
                        event_types=self._rules.event_types,
                        ahead_ms_max=self._rules.ahead_ms_max,
                    )
                except BadRecordError:
                    continue
                if click is not None:
                    yield click


class _Models:
    """Scorers by version, loaded once; None where the version is not in the registry any more."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loaded: dict[str, OnnxScorer | None] = {}

    def get(self, version: str | None) -> OnnxScorer | None:
        if version is None:
            return None
        if version not in self._loaded:
            try:
                self._loaded[version] = OnnxScorer.of(self._registry.open(version))
            except BundleError:
                self._loaded[version] = None
        return self._loaded[version]


class _AsAnswered:
    """Stands in for popularity that cannot be counted again, so that the next click judges what was
    really shown."""

    def __init__(self, answer: Recommendation) -> None:
        self.version = answer.statistics_version
        self._items = answer.items

    def top(self, k: int) -> list[ScoredItem]:
        return self._items[:k]


def _replay_partition(
    partition: int,
    records: list[Any],
    answers: Mapping[Click, Recommendation],
    models: _Models,
    statistics: Mapping[int, Popularity],
    rules: ServingRules,
    check: StreamCheck,
) -> None:
    sessions = MemorySessions()
    for (model_version, number), run in _runs(partition, records, answers, statistics):
        first = answers.get((partition, run[0].offset))
        popularity = statistics.get(number) if number is not None else None
        scorer = models.get(model_version)
        outcome = recommend_batch(
            run,
            sessions,
            scorer,
            popularity or (_AsAnswered(first) if first else _NOTHING),
            rules,
            now_ms=0,
        )
        sessions.put_many(outcome.states)
        check.outcomes.update(outcome.outcomes)
        for version, judgement in outcome.judgements.items():
            total = check.judgements.setdefault(version, Judgement())
            total.predictions += judgement.predictions
            total.hits += judgement.hits
            total.reciprocal_rank += judgement.reciprocal_rank
        offline = {(partition, a.source.offset): a for a in outcome.recommendations}
        for record in run:
            click = (partition, record.offset)
            _compare(click, answers.get(click), offline.get(click), popularity is not None, check)


def _runs(
    partition: int,
    records: list[Any],
    answers: Mapping[Click, Recommendation],
    statistics: Mapping[int, Popularity],
) -> Iterator[tuple[AnsweredFrom, list[Any]]]:
    """Stretches of clicks answered from the same model and statistics, `BATCH_CLICKS` at most.

    A click without an answer goes with the one before it, and may be the first of a stretch.  Where
    the statistics cannot be counted again, each click is a stretch of its own.
    """
    named: AnsweredFrom = (None, None)
    single = 0
    labelled = []
    for position, record in enumerate(records):
        answer = answers.get((partition, record.offset))
        if answer is not None:
            named = (answer.model_version, answer.statistics_version)
            single = position if named[1] not in statistics and answer.fallback else -1
        labelled.append(((named, single), record))
    for (answered_from, _), group in groupby(labelled, key=lambda pair: pair[0]):
        stretch = [record for _, record in group]
        for first in range(0, len(stretch), BATCH_CLICKS):
            yield answered_from, stretch[first : first + BATCH_CLICKS]


def _compare(
    click: Click,
    online: Recommendation | None,
    offline: Recommendation | None,
    counted_again: bool,
    check: StreamCheck,
) -> None:
    if online is None:
        if offline is not None:
            check.differ("not answered", click)
        return
    if offline is None:
        check.differ("answered, though the replay ignores it", click)
    elif online.model_version != offline.model_version:
        check.differ("its model is not in the registry any more", click)
    elif online.fallback != offline.fallback:
        check.differ("fallback", click)
    elif online.fallback is not None and not counted_again:
        check.differ("popularity of a worker's own, not from a version", click)
    elif [i.item_id for i in online.items] != [i.item_id for i in offline.items]:
        check.differ("items", click)
    elif online.items != offline.items:
        check.differ("scores", click)
    else:
        check.identical += 1


def _last_answers(
    records: Mapping[int, list[Any]], check: StreamCheck
) -> dict[Click, Recommendation]:
    answers: dict[Click, Recommendation] = {}
    decode = msgspec.json.Decoder(Recommendation).decode
    for partition in records.values():
        for record in partition:
            try:
                answer = decode(record.value)
            except (TypeError, *UNREADABLE):  # no value, or somebody else's
                check.differences["no answer of ours"] += 1
                continue
            click = (answer.source.partition, answer.source.offset)
            check.repeated_answers += click in answers
            answers[click] = answer
    return answers


def _read_partitions(kafka: KafkaSettings, topic: str) -> dict[int, list[Any]]:
    """All records of a topic by partition, in offset order."""
    partitions: dict[int, list[Any]] = {}
    with CompactedTopic(kafka, topic) as reader:
        for records in reader.read_to_end():
            for record in records:
                partitions.setdefault(record.partition, []).append(record)
    return partitions


class _Nothing:
    version = None

    def top(self, k: int) -> list[ScoredItem]:  # noqa: ARG002 - the protocol's parameter
        return []


_NOTHING: Final = _Nothing()

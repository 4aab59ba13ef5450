"""Online equals offline: replay the click topic and compare with what the workers answered.

Every answer names the model and the statistics version it was given from.  Both can be had again (the
model from the registry; the statistics by counting the clicks up to the offsets that the version's
marker names), so every list can be computed anew, by the very function the worker runs.

The versions are counted once, in order, and each partition is replayed as far as the versions reach: what
was known at one version is kept only as long as an answer given from it is still to come.
"""

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
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
from stream_app.core.records import UNREADABLE, Recommendation, ScoredItem
from stream_app.core.statistics import SessionClick, countable
from stream_app.core.statistics_records import VersionMarker
from stream_app.core.statistics_table import NOTHING_KNOWN, LocalStatistics
from stream_app.core.statistics_view import StatisticsView
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
    check.clicks = sum(map(len, clicks.values()))
    check.answers = len(answers)
    replay = _Replay(clicks, answers, _Models(registry), rules, check)
    replay.advance(-1)
    for view in StatisticsHistory(read_versions(kafka, topics.statistics), clicks, rules).views():
        if replay.is_done:
            break
        assert view.version is not None
        replay.views[view.version] = view
        replay.advance(view.version)
    replay.advance(math.inf)
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

    def views(self) -> Iterator[StatisticsView]:
        """The statistics at one version after the other, those that can be counted again: all clicks since
        their counting began must still be on the topic."""
        local: LocalStatistics | None = None
        began = -1
        for marker in self._markers:
            if marker.recipe is None:
                continue
            if local is None or (marker.recipe, marker.began) != (local.counts.recipe, began):
                local = LocalStatistics(marker.recipe, partitions=len(marker.offsets))
                counted = dict.fromkeys(self._clicks, 0)
                began = marker.began
            view = local.fold(self._clicks_of_version(marker, counted), version=marker.version)
            if local.counts.clicks == marker.clicks:
                yield view

    def _clicks_of_version(
        self, marker: VersionMarker, counted: dict[int, int]
    ) -> Iterator[SessionClick]:
        """counted: position in each partition's list up to which clicks are counted; moved on."""
        for partition in sorted(counted):
            records, begin = self._clicks[partition], counted[partition]
            offset = marker.offsets.get(str(partition), 0)
            end = max(begin, bisect_left(records, offset, key=lambda record: record.offset))
            counted[partition] = end
            for record in records[begin:end]:
                try:
                    click = countable(
                        record,
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
    """Stands in for statistics that cannot be counted again, so that the next click judges what was
    really shown."""

    def __init__(self, answer: Recommendation) -> None:
        self.version = answer.statistics_version
        self._items = answer.items

    def top(self, k: int) -> list[ScoredItem]:
        return self._items[:k]

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:  # noqa: ARG002
        return [None] * len(sessions)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Clicks of a partition in a row, answered from the same model and statistics."""

    model_version: str | None
    statistics_version: int | None
    records: list[Any]
    needs_statistics: bool
    """Whether an answer among them was given from the statistics."""


class _Replay:
    """All partitions, each as far as the versions counted so far reach."""

    def __init__(
        self,
        clicks: Mapping[int, list[Any]],
        answers: Mapping[Click, Recommendation],
        models: _Models,
        rules: ServingRules,
        check: StreamCheck,
    ) -> None:
        self._answers, self._models, self._rules, self._check = answers, models, rules, check
        self._waiting = {
            partition: deque(_stretches(partition, records, answers, models))
            for partition, records in clicks.items()
        }
        self._sessions = {partition: MemorySessions() for partition in clicks}
        self._uses = Counter(
            stretch.statistics_version
            for stretches in self._waiting.values()
            for stretch in stretches
            if stretch.needs_statistics
        )
        self.views: dict[int, StatisticsView] = {}
        """Versions that may still be asked for."""

    @property
    def is_done(self) -> bool:
        return not any(self._waiting.values())

    def advance(self, counted: float) -> None:
        """counted: all versions up to this one were counted, or cannot be."""
        for partition, stretches in self._waiting.items():
            while stretches:
                stretch = stretches[0]
                number = stretch.statistics_version
                if stretch.needs_statistics and number is not None and number > counted:
                    break
                stretches.popleft()
                self._replay(partition, stretch)
                if stretch.needs_statistics:
                    self._uses[number] -= 1
        for number in [number for number in self.views if not self._uses[number]]:
            del self.views[number]

    def _replay(self, partition: int, stretch: _Stretch) -> None:
        number, records = stretch.statistics_version, stretch.records
        view = self.views.get(number) if number is not None else None
        # Statistics that cannot be counted again are taken as answered, so each click is asked on its own.
        size = 1 if view is None and stretch.needs_statistics else BATCH_CLICKS
        for first in range(0, len(records), size):
            self._ask(partition, records[first : first + size], stretch.model_version, view)

    def _ask(
        self,
        partition: int,
        records: list[Any],
        model_version: str | None,
        view: StatisticsView | None,
    ) -> None:
        check, sessions = self._check, self._sessions[partition]
        first = self._answers.get((partition, records[0].offset))
        outcome = recommend_batch(
            records,
            sessions,
            self._models.get(model_version),
            view or (_AsAnswered(first) if first else NOTHING_KNOWN),
            self._rules,
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
        for record in records:
            click = (partition, record.offset)
            online = self._answers.get(click)
            known = (
                view is not None or online is None or not _needs_statistics(online, self._models)
            )
            _compare(click, online, offline.get(click), known, check)


def _stretches(
    partition: int,
    records: list[Any],
    answers: Mapping[Click, Recommendation],
    models: _Models,
) -> Iterator[_Stretch]:
    """A click without an answer goes with the one before it, and may be the first of a stretch."""
    named: AnsweredFrom = (None, None)
    labelled = []
    for record in records:
        answer = answers.get((partition, record.offset))
        if answer is not None:
            named = (answer.model_version, answer.statistics_version)
        labelled.append((named, record))
    for (model_version, number), group in groupby(labelled, key=lambda pair: pair[0]):
        stretch = [record for _, record in group]
        given = (answers.get((partition, record.offset)) for record in stretch)
        yield _Stretch(
            model_version,
            number,
            stretch,
            any(answer is not None and _needs_statistics(answer, models) for answer in given),
        )


def _needs_statistics(answer: Recommendation, models: _Models) -> bool:
    """Whether the list is the statistics', or was ordered by them."""
    if answer.fallback is not None:
        return True
    scorer = models.get(answer.model_version)
    return (
        scorer is not None and scorer.ranker is not None and answer.statistics_version is not None
    )


def _compare(
    click: Click,
    online: Recommendation | None,
    offline: Recommendation | None,
    counted_again: bool,
    check: StreamCheck,
) -> None:
    """counted_again: what the list was made from is known, statistics and all."""
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
    elif not counted_again:
        check.differ("statistics of a worker's own, or no longer to be counted again", click)
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

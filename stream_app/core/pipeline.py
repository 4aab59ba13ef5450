"""A batch of clicks in; recommendations, dead letters and new session states out.

This is the whole product on one screen.  It has no clock and no I/O, so the worker on the stream
and `nextclick evaluate` on a file run the very same code and give the very same answers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream_app.core.clicks import decode_click
from stream_app.core.errors import BadRecordError
from stream_app.core.lists import NOTHING_BEST, AssociatedLists, ModelLists, PopularLists
from stream_app.core.model_tracks import Track, states_along
from stream_app.core.ports import Scorer, SessionStore, Statistics
from stream_app.core.ranking import rank_in_shown
from stream_app.core.records import (
    ERASE,
    NO_MODEL,
    VIEW_ITEM,
    Click,
    ClickSource,
    DeadLetter,
    ItemId,
    Recommendation,
    ScoredItem,
    recommendation_id,
)
from stream_app.core.second_stage import RankedLists, SecondStages
from stream_app.core.session import SessionLimits, SessionState, advance, removed_session
from stream_app.core.sources.source import Asked

SessionKey = tuple[int, str]
"""Partition and session id."""


class ClickRecord(Protocol):
    """A Kafka message as the consumer hands it over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


DecodedClick = tuple[ClickRecord, Click]


@dataclass(frozen=True, slots=True)
class ServingRules:
    """What decides an answer besides the model: equal rules give equal answers."""

    limits: SessionLimits = field(default_factory=SessionLimits)
    top_k: int = 20
    filter_seen: bool = False
    event_types: frozenset[str] = frozenset({VIEW_ITEM})
    ahead_ms_max: float = 86_400_000


@dataclass(slots=True)
class Judgement:
    """Next clicks that judged an earlier answer, summed per model version (popularity: `none`)."""

    predictions: int = 0
    hits: int = 0
    reciprocal_rank: float = 0.0

    def add(self, rank: int) -> None:
        self.predictions += 1
        if rank:
            self.hits += 1
            self.reciprocal_rank += 1 / rank


@dataclass(frozen=True, slots=True)
class ListedItems:
    """The lists of a batch as the model gave them, before anything that was seen is left out."""

    model_version: str
    n_items: int
    """Size of the model's catalogue."""
    item_indexes: NDArray[np.int64]
    """[n_lists, top_k]."""


@dataclass(slots=True)
class BatchOutcome:
    recommendations: list[Recommendation] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    states: dict[SessionKey, SessionState] = field(default_factory=dict)
    """What to write, redelivered sessions (their changelog record may be lost) and removed ones included."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Clicks by outcome: recommended, dead_lettered, ignored_<reason>.  Sums to the batch's length."""
    decoded: list[DecodedClick] = field(default_factory=list)
    """The valid clicks that the rules let through, in the batch's order."""
    judgements: dict[str, Judgement] = field(default_factory=dict)
    popularity_judgements: dict[str, Judgement] = field(default_factory=dict)
    """What popularity, as it is now, would have scored on the very same clicks, by the same versions."""
    listed: ListedItems | None = None
    """None where no answer is the model's."""
    ranked: RankedLists | None = None
    """What the second stage chose from: what the next one is trained on."""
    ranked_rows: dict[int, int] = field(default_factory=dict)
    """Row of `ranked` by position in `recommendations`."""
    rebuilt_sessions: int = 0
    """Sessions whose model state was rebuilt because another model had made it."""


@dataclass(slots=True)
class _Answer:
    """A click to be answered, and what we know of it before the model has run."""

    record: ClickRecord
    click: Click
    key: SessionKey
    state: SessionState | None
    """After bookkeeping; its model part is still the one before this batch.  None: no consent."""
    starts_session: bool
    track: Track | None = None
    steps_done: int = 0
    model_row: int = -1
    """Row among the answers given by the model; -1: the statistics answer."""
    associated_row: int = -1
    """Row among the sessions that co-occurrence was asked about; -1: popularity answers."""
    ranked_row: int = -1
    """Row among the sessions that the second stage was asked about; -1: one stage answers."""
    fallback: str | None = None
    superseded: bool = False


def recommend_batch(
    records: Sequence[ClickRecord],
    store: SessionStore,
    scorer: Scorer | None,
    statistics: Statistics,
    rules: ServingRules,
    *,
    now_ms: int,
    newest_only: bool = False,
) -> BatchOutcome:
    """Answer a batch of clicks, any sessions mixed, each partition in offset order.

    Nothing is written: `BatchOutcome.states` is what the caller must write.  newest_only: answer only
    the last click of a session in the batch (the others are counted as `ignored_superseded`; their
    states are exact all the same).  now_ms: stamps the answers, and influences nothing else.
    """
    outcome = BatchOutcome()
    clicks = outcome.decoded = _decode(records, rules, outcome)
    answers = _fold(clicks, store, scorer, rules, outcome)
    if newest_only:
        _supersede(answers)
    stages = SecondStages.of(scorer, statistics)
    model_states, model_lists = _ask_model(answers, scorer, stages, rules, outcome)
    ranked = outcome.ranked = _rank_again(answers, stages, model_lists, rules)
    _finish(answers, model_states, model_lists, ranked, scorer, statistics, rules, outcome, now_ms)
    return outcome


def _decode(
    records: Sequence[ClickRecord], rules: ServingRules, outcome: BatchOutcome
) -> list[DecodedClick]:
    clicks = []
    for record in records:
        try:
            click = decode_click(
                record.value,
                kafka_timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
                ahead_ms_max=rules.ahead_ms_max,
            )
        except BadRecordError as error:
            outcome.dead_letters.append(_dead_letter(record, error))
            outcome.outcomes["dead_lettered"] += 1
            continue
        # A withdrawn consent counts on whatever event it arrives.
        if click.event_type in rules.event_types or click.event_type == ERASE or not click.consent:
            clicks.append((record, click))
        else:
            outcome.outcomes["ignored_event_type"] += 1
    return clicks


def _fold(
    clicks: list[DecodedClick],
    store: SessionStore,
    scorer: Scorer | None,
    rules: ServingRules,
    outcome: BatchOutcome,
) -> list[_Answer]:
    """Fold the clicks into their sessions, in order, and note which of them are to be answered."""
    keys = list(dict.fromkeys((record.partition, click.session_id) for record, click in clicks))
    current = dict(zip(keys, store.get_many(keys), strict=True))
    tracks: dict[SessionKey, Track] = {}
    answers = []
    for record, click in clicks:
        key = (record.partition, click.session_id)
        before = current[key]
        applied = before is not None and record.offset <= before.last_offset
        if (click.event_type == ERASE or not click.consent) and not applied:
            # Written even where nothing is stored: after a crash the changelog may still lack it.
            current[key] = outcome.states[key] = removed_session(record.offset)
            if click.event_type == ERASE:
                outcome.outcomes["ignored_erased"] += 1
            elif click.event_type not in rules.event_types:
                outcome.outcomes["ignored_event_type"] += 1
            else:
                answers.append(_Answer(record, click, key, None, False, fallback="no_consent"))
            continue
        after = advance(before, click, offset=record.offset, limits=rules.limits)
        if isinstance(after, str):
            outcome.outcomes[f"ignored_{after}"] += 1
            if after == "redelivered":
                assert before is not None
                outcome.states.setdefault(key, before)
            continue
        current[key] = outcome.states[key] = after
        answer = _Answer(record, click, key, after, after.click_count == 1)
        if scorer is None:
            answer.fallback = "no_model"
        else:
            _follow(answer, tracks, scorer, outcome)
        answers.append(answer)
    return answers


def _follow(
    answer: _Answer, tracks: dict[SessionKey, Track], scorer: Scorer, outcome: BatchOutcome
) -> None:
    """Append the click to its session's track, opening one where the session is new to the batch.

    A state belongs to the model that made it: where that is another one, the session is rebuilt from
    its recent item ids under the model that is live now.
    """
    state = answer.state
    assert state is not None
    track = tracks.get(answer.key)
    if track is None or answer.starts_session:
        if answer.starts_session:
            track = Track(b"", [])
        elif state.model_version == scorer.model_version:
            track = Track(state.model_state, [])
        else:
            track = Track(b"", scorer.vocabulary.indexes_of(state.recent_item_ids[:-1]))
            outcome.rebuilt_sessions += 1
        tracks[answer.key] = track
    item_index = scorer.vocabulary.index_of.get(answer.click.item_id)
    if item_index is not None:
        track.item_indexes.append(item_index)
    answer.track, answer.steps_done = track, len(track.item_indexes)
    if not track.knows_something:
        answer.fallback = "unknown_item"


def _supersede(answers: list[_Answer]) -> None:
    newest = {answer.key: position for position, answer in enumerate(answers)}
    for position, answer in enumerate(answers):
        answer.superseded = newest[answer.key] != position


def _ask_model(
    answers: list[_Answer],
    scorer: Scorer | None,
    stages: SecondStages | None,
    rules: ServingRules,
    outcome: BatchOutcome,
) -> tuple[dict[int, bytes], ModelLists | None]:
    """Model state after each answer's click (by `id` of the answer), and the lists of model answers."""
    if scorer is None:
        return {}, None
    by_model = [a for a in answers if a.fallback is None]
    if not by_model:
        return {}, None
    asked_states = []
    for answer in by_model:
        assert answer.track is not None, "who has no fallback was followed"
        asked_states.append((answer.track, answer.steps_done))
    rows = states_along(asked_states, scorer)
    states = {id(answer): rows[row].tobytes() for row, answer in enumerate(by_model)}

    asked = [row for row, answer in enumerate(by_model) if not answer.superseded]
    if not asked:
        return states, None
    for model_row, row in enumerate(asked):
        by_model[row].model_row = model_row
    k = rules.top_k + (rules.limits.history_len_max if rules.filter_seen else 0)
    if stages is not None:
        k = max(k, stages.ranker.stage.model_items)
    scores, items = scorer.top_k(rows[asked] if len(asked) < len(rows) else rows, k)
    lists = ModelLists(scores, items, scorer.vocabulary, rules.top_k)
    outcome.listed = ListedItems(
        scorer.model_version, len(scorer.vocabulary), items[:, : rules.top_k]
    )
    return states, lists


def _rank_again(
    answers: list[_Answer],
    stages: SecondStages | None,
    model_lists: ModelLists | None,
    rules: ServingRules,
) -> RankedLists | None:
    """The second stage for every session that has one: whatever the first one knows of it."""
    if stages is None:
        return None
    asked: list[Asked] = []
    k = rules.top_k + (rules.limits.history_len_max if rules.filter_seen else 0)
    n = max(stages.ranker.stage.model_items, k)
    for answer in answers:
        if answer.state is None or answer.superseded:
            continue
        answer.ranked_row = len(asked)
        items, scores = NOTHING_BEST
        if model_lists is not None and answer.model_row >= 0:
            items, scores = model_lists.best(answer.model_row, n)
        asked.append(Asked(answer.state.recent_item_ids, answer.state.click_count, items, scores))
    return stages.lists(asked, k)


def _ask_statistics(
    answers: list[_Answer], statistics: Statistics, rules: ServingRules
) -> AssociatedLists:
    """What follows the items of the sessions that the model does not answer."""
    sessions: list[Sequence[ItemId]] = []
    for answer in answers:
        if answer.ranked_row >= 0 or answer.superseded or answer.state is None:
            continue
        if answer.model_row < 0:
            answer.associated_row = len(sessions)
            sessions.append(answer.state.recent_item_ids)
    seen_max = rules.limits.history_len_max if rules.filter_seen else 0
    return AssociatedLists(statistics, sessions, rules.top_k, seen_max=seen_max)


def _finish(
    answers: list[_Answer],
    model_states: dict[int, bytes],
    model_lists: ModelLists | None,
    ranked: RankedLists | None,
    scorer: Scorer | None,
    statistics: Statistics,
    rules: ServingRules,
    outcome: BatchOutcome,
    now_ms: int,
) -> None:
    """Judge the previous answers, build the new ones, and complete the states, click by click."""
    generated_at = _rfc3339(now_ms)
    version = scorer.model_version if scorer is not None else None
    popular = PopularLists(statistics, rules.top_k, seen_max=rules.limits.history_len_max)
    associated = _ask_statistics(answers, statistics, rules)
    shown: dict[SessionKey, tuple[bytes, str]] = {}
    finished: dict[SessionKey, SessionState] = {}
    for answer in answers:
        state, key = answer.state, answer.key
        if state is not None:
            shown_hashes, shown_version = (
                (b"", "")
                if answer.starts_session
                else shown.get(key, (state.shown_hashes, state.shown_model_version))
            )
            if shown_version:
                judgement = outcome.judgements.setdefault(shown_version, Judgement())
                judgement.add(rank_in_shown(shown_hashes, answer.click.item_id))
                beside = outcome.popularity_judgements.setdefault(shown_version, Judgement())
                before = state.recent_item_ids[:-1] if rules.filter_seen else None
                beside.add(popular.rank(answer.click.item_id, before))
            shown[key] = (b"", "")
        if answer.superseded:
            outcome.outcomes["ignored_superseded"] += 1
        else:
            seen = state.recent_item_ids if rules.filter_seen and state is not None else None
            shown_list = None
            if ranked is not None and answer.ranked_row >= 0:
                outcome.ranked_rows[len(outcome.recommendations)] = answer.ranked_row
                shown_list = ranked.answer(answer.ranked_row, seen, rules.top_k)
            elif model_lists is not None and answer.model_row >= 0:
                shown_list = model_lists.answer(answer.model_row, seen)
            elif answer.associated_row >= 0:
                shown_list = associated.answer(answer.associated_row, seen)
            items, hashes = shown_list or popular.answer(seen)
            outcome.recommendations.append(
                _recommendation(answer, items, version, statistics.version, generated_at, now_ms)
            )
            outcome.outcomes["recommended"] += 1
            shown[key] = (hashes, version or NO_MODEL)
        if state is not None:
            shown_hashes, shown_version = shown[key]
            finished[key] = msgspec.structs.replace(
                state,
                shown_hashes=shown_hashes,
                shown_model_version=shown_version,
                model_version=version or "",
                model_state=model_states.get(id(answer), b""),
            )
    for key, state in finished.items():
        # An erasure or a withdrawn consent later in the batch has the last word.
        if not outcome.states[key].is_removed:
            outcome.states[key] = state


def _recommendation(
    answer: _Answer,
    items: list[ScoredItem],
    model_version: str | None,
    statistics_version: int | None,
    generated_at: str,
    now_ms: int,
) -> Recommendation:
    record, click = answer.record, answer.click
    return Recommendation(
        recommendation_id=recommendation_id(record.topic, record.partition, record.offset),
        session_id=click.session_id,
        event_id=click.event_id,
        source=ClickSource(record.topic, record.partition, record.offset),
        model_version=model_version,
        statistics_version=statistics_version,
        generated_at=generated_at,
        latency_ms=max(0, now_ms - record.timestamp),
        items=items,
        fallback=answer.fallback,
    )


def _dead_letter(record: ClickRecord, error: BadRecordError) -> DeadLetter:
    return DeadLetter(
        source=ClickSource(record.topic, record.partition, record.offset),
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        error=error.kind,
        message=str(error),
    )


def _rfc3339(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

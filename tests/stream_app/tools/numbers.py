"""Doubles for the live numbers: a log, a model and popularity, and the real pipeline over them."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.pipeline import Judgement, ServingRules, recommend_batch
from stream_app.core.records import DeadLetter, Recommendation, ScoredItem
from stream_app.core.session import SessionLimits
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.tools.live_numbers import LiveNumbers, StreamTopics

TOPICS = StreamTopics("clicks", "answers", "dead")
RULES = ServingRules(
    limits=SessionLimits(clicks_per_minute_max=4, event_ids_max=2, idle_gap_minutes=1), top_k=3
)
ITEMS = list("abcdefg")
START_MS = 1_700_000_000_000


@dataclass
class Record:
    topic: str
    partition: int
    offset: int
    value: bytes | None
    timestamp: int = START_MS
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Cycle:
    """After an item come the next three of the alphabet."""

    def __init__(self, version: str) -> None:
        self.model_version = version
        self.vocabulary = ItemVocabulary(ITEMS)
        self.state_size_bytes = 1
        self.ranker = None

    def step(self, states: Any, item_indexes: Any) -> Any:
        return item_indexes.astype(np.uint8)[:, None]

    def top_k(self, states: Any, k: int) -> Any:
        items = (states.astype(np.int64) + np.arange(1, k + 1)) % len(ITEMS)
        return np.tile(np.linspace(1, 0.5, k, dtype=np.float32), (len(states), 1)), items


class Fixed:
    version = 1

    def top(self, k: int) -> list[ScoredItem]:
        return [ScoredItem(item, 0.1, rank) for rank, item in enumerate(ITEMS[:k], 1)]

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:
        return [None] * len(sessions)


def click(session: str, item: str, second: int, **more: Any) -> bytes:
    fields = {"session_id": session, "item_id": item, "event_time": START_MS + second * 1000}
    return json.dumps({**fields, **more}).encode()


def answered(answer: Recommendation, offset: int) -> Record:
    value = msgspec.json.encode(answer)
    return Record(TOPICS.recommendations, answer.source.partition, offset, value)


def refused(letter: DeadLetter, offset: int) -> Record:
    headers = tuple(letter.all_headers())
    return Record(TOPICS.dead_letters, 0, offset, letter.value, headers=headers)


def run_worker(
    log: list[Record], batches: list[int]
) -> tuple[Any, Any, list[Record], Counter[str]]:
    """The real pipeline over the log: answers, dead letters and what it counted itself."""
    sessions = MemorySessions()
    judgements: dict[str, Judgement] = {}
    outcomes: Counter[str] = Counter()
    answers: list[Record] = []
    letters: list[Record] = []
    at = 0
    for number, size in enumerate([*batches, len(log)]):
        scorer = [None, Cycle("m1"), Cycle("m2")][min(number // 2, 2)]
        outcome = recommend_batch(
            log[at : at + size], sessions, scorer, Fixed(), RULES, now_ms=START_MS
        )
        at += size
        sessions.put_many(outcome.states)
        outcomes.update(outcome.outcomes)
        answers += [answered(a, len(answers) + i) for i, a in enumerate(outcome.recommendations)]
        letters += [refused(x, len(letters) + i) for i, x in enumerate(outcome.dead_letters)]
        for version, judgement in outcome.judgements.items():
            total = judgements.setdefault(version, Judgement())
            total.predictions += judgement.predictions
            total.hits += judgement.hits
            total.reciprocal_rank += judgement.reciprocal_rank
    return judgements, answers, letters, outcomes


def numbers() -> LiveNumbers:
    return LiveNumbers(TOPICS, RULES, half_life_ms=3_600_000)


def answered_by_popularity(log: list[Record]) -> list[Record]:
    """Answers to the log before any model."""
    return run_worker(log, [])[1]

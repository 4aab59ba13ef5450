"""The numbers counted beside the worker are the worker's own, in whatever order records are fetched."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

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

    def step(self, states: Any, item_indexes: Any) -> Any:
        return item_indexes.astype(np.uint8)[:, None]

    def top_k(self, states: Any, k: int) -> Any:
        items = (states.astype(np.int64) + np.arange(1, k + 1)) % len(ITEMS)
        return np.tile(np.linspace(1, 0.5, k, dtype=np.float32), (len(states), 1)), items


class Fixed:
    version = 1

    def top(self, k: int) -> list[ScoredItem]:
        return [ScoredItem(item, 0.1, rank) for rank, item in enumerate(ITEMS[:k], 1)]


def click(session: str, item: str, second: int, **more: Any) -> bytes:
    fields = {"session_id": session, "item_id": item, "event_time": START_MS + second * 1000}
    return json.dumps({**fields, **more}).encode()


clicks = st.one_of(
    st.builds(
        click,
        st.sampled_from("xyz"),
        st.sampled_from([*ITEMS, "new"]),
        st.integers(0, 200),
        event_type=st.sampled_from(["view_item"] * 6 + ["purchase", "erase"]),
        event_id=st.one_of(st.none(), st.sampled_from("12345678")),
        consent=st.sampled_from([True] * 8 + [False]),
    ),
    st.just(b"{"),
)


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


@given(
    st.lists(st.tuples(st.integers(0, 1), clicks), max_size=60),
    st.lists(st.integers(1, 20), min_size=4, max_size=4),
    st.randoms(),
)
def test_judges_and_counts_what_the_pipeline_judges_and_counts(
    log: list[tuple[int, bytes]], batches: list[int], random: Any
) -> None:
    offsets = [0, 0]
    records = []
    for partition, value in log:
        records.append(Record(TOPICS.clicks, partition, offsets[partition], value))
        offsets[partition] += 1
    judgements, answers, letters, outcomes = run_worker(records, batches)

    live = numbers()
    # Each partition of each topic is a queue; which one is fetched next is anybody's guess.
    queues = [[r for r in records if r.partition == p] for p in (0, 1)]
    queues += [[r for r in answers if r.partition == p] for p in (0, 1)]
    queues.append(list(letters))
    while any(queues):
        queue = random.choice([q for q in queues if q])
        size = random.randint(1, len(queue))
        live.take(queue[:size], now=1.0)
        del queue[:size]
    live.finish()

    counted = {version: quality.live for version, quality in live.versions.items()}
    assert {v: j for v, j in counted.items() if j.predictions} == judgements
    assert live.produced == len(log)
    assert live.recommended == outcomes["recommended"]
    assert live.dead_lettered == outcomes["dead_lettered"] == live.outcomes["dead_lettered"]
    ignored = {k: n for k, n in outcomes.items() if k.startswith("ignored_")}
    assert {f"ignored_{reason}": n for reason, n in live.ignored.items()} == ignored
    assert live.unaccounted == 0


def test_a_click_answered_twice_counts_once_and_its_later_answer_is_the_one_judged() -> None:
    first = [Record("clicks", 0, 0, click("x", "a", 0)), Record("clicks", 0, 1, click("x", "c", 1))]
    _, by_popularity, _, _ = run_worker(first[:1], [])
    _, by_model, _, _ = run_worker(first, [0, 0, 0, 0])
    live = numbers()
    live.take([first[0], *by_popularity], now=1.0)
    live.take([first[1], *by_model], now=2.0)
    assert live.recommended == 2
    assert live.repeated_answers == 1
    assert live.versions["none"].live.predictions == 0
    assert live.versions["m2"].live == Judgement(1, 1, 1 / 2)  # after a come b, c, d


def test_a_lost_answer_shows_as_unaccounted() -> None:
    log = [Record("clicks", 0, i, click("x", "a", i)) for i in range(3)]
    _, answers, _, _ = run_worker(log, [])
    live = numbers()
    live.take([*log, answers[0], answers[2]], now=1.0)
    live.finish()
    assert live.unaccounted == 1


def test_popularity_beside_a_model_is_judged_on_the_same_clicks() -> None:
    log = [Record("clicks", 0, i, click(f"s{i}", "a", i)) for i in range(150)]
    log += [Record("clicks", 0, 150, click("s149", "a", 151))]
    _, answers, _, _ = run_worker(log, [0, 0, 0, 0])
    live = numbers()
    live.take([*log, *answers], now=1.0)
    quality = live.versions["m2"]
    assert quality.live == Judgement(1, 0, 0.0)
    assert quality.popularity == Judgement(1, 1, 1.0)


def test_the_click_rate_is_of_whole_seconds() -> None:
    live = numbers()
    for second in range(5):
        records = [Record("clicks", 0, second * 40 + i, b"{") for i in range(40)]
        live.take(records, now=second + 0.5)
    live.take([], now=5.1)
    assert live.clicks_per_second(now=5.1) == 40.0


def test_names_come_from_the_clicks_and_anything_else_in_properties_is_passed_over() -> None:
    log = [
        Record("clicks", 0, 0, click("x", "a", 0, properties={"title": "Tent 'Fjord' red"})),
        Record("clicks", 0, 1, click("x", "b", 1, properties={"title": 7})),
        Record("clicks", 0, 2, click("x", "c", 2, properties=[1, 2])),
    ]
    _, answers, _, _ = run_worker(log, [])
    live = numbers()
    live.take([*log, *answers], now=1.0)
    names = [live.title_of(item) for item in "abc"]
    assert names == ["Tent 'Fjord' red", "b", "c"]

"""What must be true after a run: read back from the topics, and recomputed from the log offline."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.core.codec import applied_offset, decode_state
from stream_app.core.pipeline import ServingRules, recommend_batch
from stream_app.core.ports import Scorer
from stream_app.core.records import Recommendation, ScoredItem
from stream_app.core.session import SessionState


class NoPopularity:
    """Statistics of which nothing was read yet."""

    version = None

    def top(self, k: int) -> list[ScoredItem]:
        return []

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:
        return [None] * len(sessions)


def read_topic(bootstrap_servers: str, topic: str) -> list[Any]:
    """Every record of a topic, each partition in offset order."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=None)
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records: dict[int, list[Any]] = {tp.partition: [] for tp in partitions}
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            for tp, fetched in consumer.poll(timeout_ms=200).items():
                records[tp.partition] += fetched
        return [record for partition in sorted(records) for record in records[partition]]
    finally:
        consumer.close()


def answers_by_click(
    bootstrap_servers: str, topic: str
) -> dict[tuple[int, int], list[Recommendation]]:
    """Every answer on the topic, by (partition, offset) of its click, in the order they were given."""
    answers: dict[tuple[int, int], list[Recommendation]] = {}
    for record in read_topic(bootstrap_servers, topic):
        answer = msgspec.json.decode(record.value, type=Recommendation)
        assert record.key.decode() == answer.session_id
        assert record.partition == answer.source.partition
        answers.setdefault((answer.source.partition, answer.source.offset), []).append(answer)
    return answers


def stored_states(bootstrap_servers: str, topic: str) -> dict[tuple[int, str], SessionState]:
    """The newest record of each session in the changelog, by applied offset."""
    newest: dict[tuple[int, str], bytes] = {}
    for record in read_topic(bootstrap_servers, topic):
        key = (record.partition, record.key.decode())
        if record.value is None:
            newest.pop(key, None)
        elif key not in newest or applied_offset(record.value) >= applied_offset(newest[key]):
            newest[key] = record.value
    return {key: decode_state(value)[0] for key, value in newest.items()}


def replayed(
    clicks: Iterable[Any], scorer: Scorer | None, rules: ServingRules
) -> tuple[dict[tuple[int, str], SessionState], dict[tuple[int, int], Recommendation]]:
    """Final states and answers of the log, one click at a time."""
    sessions = MemorySessions()
    answers = {}
    for record in clicks:
        outcome = recommend_batch(
            [record], sessions, scorer, NoPopularity(), rules, now_ms=record.timestamp
        )
        sessions.put_many(outcome.states)
        for answer in outcome.recommendations:
            answers[answer.source.partition, answer.source.offset] = answer
    return sessions.states, answers

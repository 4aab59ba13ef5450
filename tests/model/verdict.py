"""What a run left behind, against an offline replay of its clicks."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from stream_app.adapters.memory_sessions import MemorySessions
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.codec import encode_state
from stream_app.core.pipeline import recommend_batch
from stream_app.core.records import ItemId, Recommendation
from stream_app.settings import Settings, serving_rules
from tests.model.simulated_disk import MemoryDisk
from tests.model.simulated_kafka import Broker, StoredClick, plain
from tests.model.simulated_worker import MODEL, TOPIC_ID, SimulatedWorker


def judge(
    broker: Broker,
    settings: Settings,
    workers: dict[str, SimulatedWorker],
    happened: Counter[str],
) -> Iterable[str]:
    """Everything in which the run differs from an offline replay of its clicks."""
    topics = settings.topics
    states, expected = replayed(broker.clicks, settings)
    given: dict[tuple[int, int], list[Recommendation]] = {}
    for partition in range(len(broker.clicks)):
        for _, value, _ in broker.topics.get((topics.recommendations, partition), ()):
            answer = msgspec.json.decode(value or b"", type=Recommendation)
            given.setdefault((partition, answer.source.offset), []).append(answer)
    for click in expected.keys() - given.keys():
        yield f"click {click} was never answered"
    for click, answers in given.items():
        happened["answered again"] += len(answers) - 1
        if click not in expected:
            yield f"click {click} was answered, and should not have been"
            continue
        for answer in answers:
            if content(answer) != content(expected[click]):
                yield f"click {click} was answered with other content: {content(answer)}"
    for partition in range(len(broker.clicks)):
        wanted = {s: record for (p, s), record in states.items() if p == partition}
        log = [plain(m) for m in broker.topics.get((topics.sessions, partition), ())]
        last = {session_id: i for i, (session_id, _, _) in enumerate(log)}
        compacted = [record for i, record in enumerate(log) if last[record[0]] == i]
        owner = workers[broker.group.owners[partition].name]
        for where, found in (
            ("the changelog", restored(log, len(broker.clicks[partition]))),
            ("the compacted changelog", restored(compacted, len(broker.clicks[partition]))),
            ("the owner's disk", stored(owner.sessions, partition)),
        ):
            for session_id in wanted.keys() | found.keys():
                if wanted.get(session_id) != found.get(session_id):
                    kind = "lost" if session_id not in found else "wrong"
                    kind = "back" if session_id not in wanted else kind
                    yield f"{session_id} is {kind} in {where}"


def replayed(
    partitions: list[list[StoredClick]], settings: Settings
) -> tuple[dict[tuple[int, str], bytes], dict[tuple[int, int], Recommendation]]:
    """Records and answers of the clicks, folded one at a time."""
    sessions, answers = MemorySessions(), {}
    rules = serving_rules(settings)
    for clicks in partitions:
        for click in clicks:
            outcome = recommend_batch(
                [click],
                sessions,
                MODEL.answers.scorer,
                MODEL.answers.statistics,
                rules,
                now_ms=click.timestamp,
            )
            sessions.put_many(outcome.states)
            for answer in outcome.recommendations:
                answers[answer.source.partition, answer.source.offset] = answer
    return {key: encode_state(state, TOPIC_ID) for key, state in sessions.states.items()}, answers


def content(answer: Recommendation) -> tuple[Any, ...]:
    """What must be the same whenever a click is answered."""
    items = [(ItemId(item.item_id), item.score, item.rank) for item in answer.items]
    return (answer.session_id, answer.event_id, answer.model_version, answer.fallback, items)


def restored(log: list[Any], end_offset: int) -> dict[str, bytes]:
    """What a worker without a disk makes of the changelog."""
    MemoryDisk.contents.pop("restored", None)
    sessions = RocksSessions(Path("restored"), topic_id=TOPIC_ID)
    sessions.restore_chunk(0, log, last_offset=len(log) - 1, end_offset=end_offset)
    return stored(sessions, 0)


def stored(sessions: RocksSessions, partition: int) -> dict[str, bytes]:
    found = {}
    for session_id, state in sessions.scan(partition):
        found[session_id] = encode_state(state, TOPIC_ID)
    return found

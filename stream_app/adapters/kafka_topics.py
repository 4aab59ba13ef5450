"""The topics on the broker: what they must look like, creating them, finding what is wrong with them."""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, for_code
from kafka.protocol.metadata import MetadataRequest

from stream_app.adapters.kafka_clients import (
    KafkaConnection,
    broker_errors,
    python_client_options,
)
from stream_app.core.errors import ConfigurationError, ServiceAwayError

MEBIBYTE: Final = 1024**2
MESSAGE_BYTES_DEFAULT: Final = 1_048_588
"""Kafka's own limit where a topic sets none."""
NEW_TOPICS_SECONDS: Final = 10.0
"""So long new topics may take to be known to all brokers; it takes some milliseconds."""
DEAD_LETTER_ROOM_BYTES: Final = 64 * 1024
"""A dead letter is the largest click and our headers."""

_ALREADY_EXISTS: Final = 36
_UNKNOWN_TOPIC: Final = 3
_BROKERS_CLOCK: Final = {"message.timestamp.type": "LogAppendTime"}
"""The topics we write carry the broker's time.  A broker refuses a record whose time is an hour ahead of
its own, which would end a worker whose clock is wrong, and deletes one of long ago."""
_COMPACTED: Final = {
    **_BROKERS_CLOCK,
    "cleanup.policy": "compact",
    # The newest segment is never compacted, and a reader starts from all of it.
    "segment.bytes": str(32 * MEBIBYTE),
    "min.cleanable.dirty.ratio": "0.2",
}

_SESSIONS: Final = {
    **_COMPACTED,
    # A stale worker's late record must be found and mended before compaction keeps it: the owner looks
    # every 10 s, and a supervisor may take a minute to bring an owner back.
    "min.compaction.lag.ms": str(300_000),
}
_STATISTICS: Final = {
    **_COMPACTED,
    # Written every few seconds for ever and read whole by each worker that starts: clean it often.
    "segment.bytes": str(8 * MEBIBYTE),
    "segment.ms": str(3_600_000),
    "delete.retention.ms": str(6 * 3_600_000),
}


class TopicNames(Protocol):
    """`settings.topics` is one."""

    @property
    def clicks(self) -> str: ...
    @property
    def recommendations(self) -> str: ...
    @property
    def dead_letters(self) -> str: ...
    @property
    def releases(self) -> str: ...
    @property
    def sessions(self) -> str: ...
    @property
    def statistics(self) -> str: ...
    @property
    def items(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def replication(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as we would create it."""

    name: str
    partitions: int
    replication: int
    configs: Mapping[str, str] = field(default_factory=dict)

    def command(self, bootstrap_servers: str) -> str:
        """The line that creates it with Kafka's own tool."""
        parts = [
            f"kafka-topics.sh --bootstrap-server {bootstrap_servers} --create --topic {self.name}",
            f"--partitions {self.partitions} --replication-factor {self.replication}",
            *(f"--config {name}={value}" for name, value in self.configs.items()),
        ]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic as it is."""

    name: str
    topic_id: bytes
    """16 bytes; another one under the same name means that it was deleted and made anew."""
    partitions: int
    configs: Mapping[str, str]
    """Those that differ from the broker's defaults."""

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.configs.get("cleanup.policy", "delete")

    @property
    def message_bytes_max(self) -> int:
        return int(self.configs.get("max.message.bytes", MESSAGE_BYTES_DEFAULT))


@dataclass(frozen=True, slots=True)
class Incarnation:
    """What may not change under a topic's name while it is in use."""

    topic_id: bytes
    """16 bytes; another one under the same name means that it was deleted and made anew."""
    partitions: int


@dataclass(frozen=True, slots=True)
class TopicProblem:
    """What is wrong, in words that say what to do; `missing` is what to create, if that is it."""

    message: str
    missing: TopicPlan | None = None


def plan_topics(topics: TopicNames, existing: Mapping[str, TopicFacts]) -> list[TopicPlan]:
    """All topics.  Where the click topic exists, its partition count decides over the setting."""
    clicks = existing.get(topics.clicks)
    partitions = clicks.partitions if clicks else topics.partitions
    click_bytes = clicks.message_bytes_max if clicks else MESSAGE_BYTES_DEFAULT
    dead_letter_bytes = max(2 * MEBIBYTE, click_bytes + DEAD_LETTER_ROOM_BYTES)
    plans = [
        TopicPlan(topics.clicks, partitions, topics.replication),
        TopicPlan(topics.recommendations, partitions, topics.replication, _BROKERS_CLOCK),
        TopicPlan(
            topics.dead_letters,
            partitions,
            topics.replication,
            {**_BROKERS_CLOCK, "max.message.bytes": str(dead_letter_bytes)},
        ),
        TopicPlan(topics.releases, 1, topics.replication, _COMPACTED),
        TopicPlan(topics.sessions, partitions, topics.replication, _SESSIONS),
        TopicPlan(topics.statistics, 1, topics.replication, _STATISTICS),
        TopicPlan(topics.items, 1, topics.replication, _COMPACTED),
    ]
    if topics.replication >= 3:
        safe = {"min.insync.replicas": "2"}
        plans = [replace(plan, configs={**plan.configs, **safe}) for plan in plans]
    return plans


def find_problems(topics: TopicNames, existing: Mapping[str, TopicFacts]) -> list[TopicProblem]:
    """Everything that would go wrong with the topics as they are; empty if nothing would."""
    plans = {plan.name: plan for plan in plan_topics(topics, existing)}
    problems = [
        TopicProblem(f"topic {name} is missing", plan)
        for name, plan in plans.items()
        if name not in existing
    ]
    if len(plans) < len(names_of(topics)):
        problems.append(TopicProblem("two of the topic names are equal: give each its own"))
    problems += [TopicProblem(text) for text in _wrong_partitions(topics, existing)]
    problems += [TopicProblem(text) for text in _wrong_configs(topics, existing)]
    return problems


def _wrong_partitions(topics: TopicNames, existing: Mapping[str, TopicFacts]) -> Iterator[str]:
    clicks = existing.get(topics.clicks)
    for name in (topics.recommendations, topics.sessions):
        other = existing.get(name)
        if clicks and other and clicks.partitions != other.partitions:
            yield (
                f"{clicks.name} has {clicks.partitions} partitions, {name} {other.partitions}: they "
                f"must be equal, since an answer and a state go to the partition of the click; delete "
                f"{name} and run `nextclick topics create`, or name a new one in the settings"
            )
    for name in (topics.releases, topics.statistics):
        other = existing.get(name)
        if other and other.partitions != 1:
            yield (
                f"{name} has {other.partitions} partitions and must have 1, because its order counts: "
                "delete it and run `nextclick topics create`, or name a new one in the settings"
            )


def _wrong_configs(topics: TopicNames, existing: Mapping[str, TopicFacts]) -> Iterator[str]:
    for name in (topics.releases, topics.sessions, topics.statistics, topics.items):
        facts = existing.get(name)
        if facts and not facts.is_compacted:
            yield (
                f"{name} is not compacted, so Kafka would delete what is still needed: kafka-configs.sh "
                f"--alter --entity-type topics --entity-name {name} --add-config cleanup.policy=compact"
            )
    for name in (topics.clicks, topics.recommendations, topics.dead_letters):
        facts = existing.get(name)
        if facts and facts.is_compacted:
            yield (
                f"{name} is compacted, so Kafka would drop all but the newest of each session: "
                "kafka-configs.sh --alter --entity-type topics "
                f"--entity-name {name} --add-config cleanup.policy=delete"
            )
    clicks, dead_letters = existing.get(topics.clicks), existing.get(topics.dead_letters)
    if clicks and dead_letters:
        needed = clicks.message_bytes_max + DEAD_LETTER_ROOM_BYTES
        if dead_letters.message_bytes_max < needed:
            yield (
                f"{dead_letters.name} takes messages of {dead_letters.message_bytes_max} bytes, but the "
                f"largest click and its headers need {needed}: kafka-configs.sh --alter --entity-type "
                f"topics --entity-name {dead_letters.name} --add-config max.message.bytes={needed}"
            )


def names_of(topics: TopicNames) -> list[str]:
    return [
        topics.clicks,
        topics.recommendations,
        topics.dead_letters,
        topics.releases,
        topics.sessions,
        topics.statistics,
        topics.items,
    ]


@contextmanager
def admin_client(kafka: KafkaConnection) -> Iterator[KafkaAdminClient]:
    """An admin client, closed afterwards; connection errors in the block are `ServiceAwayError`."""
    with broker_errors(kafka):
        admin = KafkaAdminClient(**python_client_options(kafka))
        try:
            yield admin
        finally:
            admin.close()


def incarnations(admin: KafkaAdminClient, names: Iterable[str]) -> dict[str, Incarnation]:
    """Ids and partition counts of those topics that exist, by name; one request, never creates any."""
    found: dict[str, Incarnation] = {}
    for entry in admin.describe_topics(list(dict.fromkeys(names))):
        if entry["error_code"] == 0:
            topic_id = uuid.UUID(str(entry["topic_id"])).bytes
            found[entry["name"]] = Incarnation(topic_id, len(entry["partitions"]))
        elif entry["error_code"] != _UNKNOWN_TOPIC:
            raise for_code(entry["error_code"])(entry["name"])
    return found


def describe(admin: KafkaAdminClient, names: Iterable[str]) -> dict[str, TopicFacts]:
    """Facts of those topics that exist, by name."""
    found = incarnations(admin, names)
    if not found:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, _CONFIGS_READ) for name in found]
    configs = admin.describe_configs(resources, config_filter="all").get("topic", {})
    return {
        name: TopicFacts(
            name=name,
            topic_id=incarnation.topic_id,
            partitions=incarnation.partitions,
            configs={key: facts["value"] for key, facts in configs.get(name, {}).items()},
        )
        for name, incarnation in found.items()
    }


_CONFIGS_READ: Final = ["cleanup.policy", "max.message.bytes", "min.insync.replicas"]


def topic_facts(kafka: KafkaConnection, *names: str) -> dict[str, TopicFacts]:
    """Id, partition count and configuration of those of `names` that exist."""
    with admin_client(kafka) as admin:
        return describe(admin, names)


def topic_id(kafka: KafkaConnection, topic: str) -> bytes:
    """16 bytes that name the topic's incarnation.  Raises `ConfigurationError` if it is missing."""
    return _facts_of(kafka, topic).topic_id


def partition_count(kafka: KafkaConnection, topic: str) -> int:
    """Raises `ConfigurationError` if the topic is missing."""
    return _facts_of(kafka, topic).partitions


def _facts_of(kafka: KafkaConnection, topic: str) -> TopicFacts:
    facts = topic_facts(kafka, topic).get(topic)
    if facts is None:
        raise ConfigurationError(f"topic {topic} is missing: run `nextclick topics create`")
    return facts


def check_topics(kafka: KafkaConnection, topics: TopicNames) -> list[TopicProblem]:
    """What is wrong on the broker right now."""
    return find_problems(topics, topic_facts(kafka, *names_of(topics)))


def create_topics(kafka: KafkaConnection, topics: TopicNames) -> list[TopicPlan]:
    """Create the missing ones and wait until they can be used; returns what was created.

    One that another process creates meanwhile is as good.  Raises `ConfigurationError` if the broker
    refuses (too few brokers for the replication, no permission), with the commands to run instead.
    """
    with admin_client(kafka) as admin:
        existing = describe(admin, names_of(topics))
        missing = [plan for plan in plan_topics(topics, existing) if plan.name not in existing]
        if not missing:
            return []
        answer = admin.create_topics(
            {
                plan.name: {
                    "num_partitions": plan.partitions,
                    "replication_factor": plan.replication,
                    "configs": dict(plan.configs),
                }
                for plan in missing
            },
            raise_errors=False,
        )
        refused = {
            entry["name"]: entry["error_message"] or for_code(entry["error_code"]).__name__
            for entry in answer["topics"]
            if entry["error_code"] not in (0, _ALREADY_EXISTS)
        }
        if refused:
            raise ConfigurationError(_refusal(kafka, missing, refused))
        _wait_until_known_everywhere(admin, [plan.name for plan in missing])
        return missing


def _wait_until_known_everywhere(admin: KafkaAdminClient, names: list[str]) -> None:
    """Until every broker knows the new topics, with a leader for each partition.

    A client asks any broker; one that has not heard of a topic yet says that there is none, and a worker
    would end with "topic is missing" moments after it was made.
    """
    deadline = time.monotonic() + NEW_TOPICS_SECONDS
    behind = {int(broker["broker_id"]) for broker in admin.describe_cluster()["brokers"]}
    while behind:
        behind = {node for node in behind if not _has_heard_of(admin, node, names)}
        if behind and time.monotonic() > deadline:
            raise ServiceAwayError(
                f"brokers {sorted(behind)} do not know the new topics after {NEW_TOPICS_SECONDS:.0f} s: "
                "see whether they are well, and start again"
            )
        if behind:
            time.sleep(0.05)


def _has_heard_of(admin: KafkaAdminClient, node: int, names: list[str]) -> bool:
    """Whether that broker says that each topic has a leader for every partition."""
    request = MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in names],
        allow_auto_topic_creation=False,
    )
    try:
        # kafka-python asks a broker of its own choice wherever it is not told; only this call can be told.
        answer = admin._manager.run(partial(admin._manager.send, request, node_id=node))  # noqa: SLF001
    except KafkaError:
        return False
    return all(
        topic.error_code == 0
        and all(p.error_code == 0 and p.leader_id >= 0 for p in topic.partitions)
        for topic in answer.topics
    )


def ensure_topics(kafka: KafkaConnection, topics: TopicNames) -> dict[str, TopicFacts]:
    """Create what is missing, refuse what is wrong; the facts of all by name.

    For processes that start.  Raises `ConfigurationError` naming everything that is wrong at once.
    """
    create_topics(kafka, topics)
    facts = topic_facts(kafka, *names_of(topics))
    problems = find_problems(topics, facts)
    if problems:
        raise ConfigurationError("\n".join(problem.message for problem in problems))
    return facts


def _refusal(kafka: KafkaConnection, missing: list[TopicPlan], refused: Mapping[str, str]) -> str:
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in refused.items())
    commands = "\n".join(
        f"  {plan.command(kafka.bootstrap_servers)}" for plan in missing if plan.name in refused
    )
    return (
        f"the broker refused to create topics:\n{reasons}\n"
        "set topics.replication to at most the number of brokers, or have someone with the permission "
        f"run:\n{commands}"
    )

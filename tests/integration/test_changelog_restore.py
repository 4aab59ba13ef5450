"""Restoring sessions from a changelog on a real broker, whatever its beginning and its end are made of."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import PolicyViolationError

from stream_app.adapters.changelog_topic import ChangelogTopic
from stream_app.adapters.click_feed import ClickFeed
from stream_app.adapters.kafka_clients import aio_client_options, python_client_options
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.codec import encode_state
from stream_app.core.records import Click, ItemId
from stream_app.core.session import SessionLimits, SessionState, advance
from stream_app.services.ports import ClickStream
from stream_app.services.session_log import Restored, SessionLog
from tests.chaos.evidence import read_topic
from tests.integration.processes import wait_until

TOPIC_ID = b"t" * 16


def state(session: int, offset: int) -> SessionState:
    click = Click(
        session_id=f"s{session}",
        item_id=ItemId(f"item-{offset}"),
        event_time_ms=1_700_000_000_000 + offset,
    )
    advanced = advance(None, click, offset=offset, limits=SessionLimits())
    assert isinstance(advanced, SessionState)
    return advanced


class Log:
    """Writes session records of partition 0, as workers and as others do."""

    def __init__(self, kafka: Any, topic: str) -> None:
        self._kafka, self.topic = kafka, topic
        self._servers = kafka.bootstrap_servers
        self.next_offset = 0
        self.states: dict[str, SessionState] = {}

    def write(self, producer: Producer, sessions: range, *, counts: bool = True) -> None:
        for session in sessions:
            written = state(session, self.next_offset)
            self.next_offset += 1
            producer.produce(
                self.topic, key=f"s{session}", value=encode_state(written, TOPIC_ID), partition=0
            )
            if counts:
                self.states[f"s{session}"] = written
        producer.flush(30)

    def append(self, sessions: range) -> None:
        self.write(Producer({"bootstrap.servers": self._servers}), sessions)

    def open_transaction(self) -> Producer:
        producer = Producer(
            {
                "bootstrap.servers": self._servers,
                "transactional.id": f"{self.topic}-{time.monotonic_ns()}",
            }
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        return producer

    def transaction(self, sessions: range, *, commit: bool) -> None:
        producer = self.open_transaction()
        self.write(producer, sessions, counts=commit)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)

    def remove(self, session: int) -> None:
        producer = Producer({"bootstrap.servers": self._servers})
        producer.produce(self.topic, key=f"s{session}", value=None, partition=0)
        producer.flush(30)
        self.states.pop(f"s{session}", None)

    def delete_before(self, offset: int) -> None:
        with self._admin() as admin:  # Kafka deletes records of no topic that is compacted only
            policy = {"cleanup.policy": "compact,delete", "retention.ms": "-1"}
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.topic, policy)])

            def deleted() -> bool:
                """The broker takes the new policy over a moment after it has confirmed it."""
                try:
                    admin.delete_records({TopicPartition(self.topic, 0): offset})
                except PolicyViolationError:
                    return False
                return True

            wait_until("the beginning is deleted", deleted)

    def compact(self, *, until: Callable[[], bool]) -> None:
        """Let the cleaner run as soon as it may, and wait until it did what is waited for."""
        configs = {
            "segment.ms": "50",
            "min.cleanable.dirty.ratio": "0.001",
            "min.compaction.lag.ms": "0",
            "delete.retention.ms": "0",
            "max.compaction.lag.ms": "100",
        }
        cleaner = {"log.cleaner.backoff.ms": "200"}  # of 15 s, which tests need not wait
        with self._admin() as admin:
            broker = str(admin.describe_cluster()["controller_id"])
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.topic, configs)])
            admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, broker, cleaner)])
        wait_until("the log was compacted", until, 90)

    def records(self) -> list[Any]:
        return [r for r in read_topic(self._servers, self.topic) if r.partition == 0]

    def _admin(self) -> Any:
        return closing_admin(self._kafka)


class closing_admin:  # noqa: N801 - reads as the context manager it is
    def __init__(self, kafka: Any) -> None:
        self._admin = KafkaAdminClient(**python_client_options(kafka.settings))

    def __enter__(self) -> KafkaAdminClient:
        return self._admin

    def __exit__(self, *_: object) -> None:
        self._admin.close()


@pytest.fixture
def log(kafka: Any, topics: Any) -> Log:
    return Log(kafka, topics.sessions)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], RocksSessions]]:
    stores: list[RocksSessions] = []

    def open_one() -> RocksSessions:
        stores.append(RocksSessions(tmp_path / f"db-{len(stores)}", topic_id=TOPIC_ID))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


class LongClickTopic:
    """All of the click stream that a restore asks for: no record speaks of a click beyond its end."""

    def __init__(self) -> None:
        self.feed = ClickFeed()

    async def click_ends(self, partitions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 1_000_000)


def restore(kafka: Any, log: Log, store: RocksSessions) -> Restored:
    changelog = ChangelogTopic(log.topic, aio_client_options(kafka.settings))
    stream = cast("ClickStream", LongClickTopic())

    async def run() -> Restored:
        session_log = SessionLog(stream, changelog, store, topic=log.topic)
        restoring = session_log.restore({0}, still_ours=lambda: True)
        return await asyncio.wait_for(restoring, 30)

    return asyncio.run(run())


def stored(store: RocksSessions) -> dict[str, SessionState]:
    return dict(store.scan(0))


@pytest.mark.parametrize("committed", [True, False])
def test_a_changelog_that_ends_in_a_transactions_marker_is_restored_to_its_end(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions], committed: bool
) -> None:
    """The last offset is no record.  What was never committed was never said."""
    log.append(range(50))
    log.transaction(range(20, 30), commit=committed)
    store = open_store()
    restored = restore(kafka, log, store)
    assert restored.complete
    assert stored(store) == log.states
    assert store.persisted_offset(0) == 60  # 60 records and the marker


def test_a_changelog_that_is_nothing_but_a_marker_is_restored(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    log.transaction(range(5), commit=False)
    store = open_store()
    assert restore(kafka, log, store).sessions == 0
    assert stored(store) == {}
    assert store.persisted_offset(0) == 5


def test_records_after_a_marker_are_restored_by_a_store_that_stood_before_it(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    log.append(range(10))
    store = open_store()
    restore(kafka, log, store)
    log.transaction(range(5), commit=True)
    log.append(range(3, 8))
    assert restore(kafka, log, store).sessions == 8  # of ten records, two are of the same session
    assert stored(store) == log.states


def test_a_transaction_that_stays_open_is_not_waited_for(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    """Our own records lie behind its beginning, and must not wait for a stranger."""
    log.append(range(10))
    stranger = log.open_transaction()
    log.write(stranger, range(50, 55))
    log.append(range(3, 8))
    store = open_store()
    restore(kafka, log, store)
    assert stored(store) == log.states
    stranger.abort_transaction(30)


def test_a_changelog_whose_last_records_were_compacted_away_is_restored(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    """Sessions that were removed leave nothing, not even their tombstones, at the end of the log.

    Kafka compacts all but the newest segment; here that one holds an aborted transaction only.
    """
    log.append(range(20))
    for _ in range(3):
        log.append(range(20, 40))
    for session in range(20, 40):
        log.remove(session)

    def is_compacted() -> bool:
        log.transaction(
            range(50, 51), commit=False
        )  # a segment ends when something comes behind it
        return log.records()[-1].offset < 20

    log.compact(until=is_compacted)
    store = open_store()
    restore(kafka, log, store)
    assert stored(store) == log.states
    assert store.persisted_offset(0) > 20 + 3 * 20 + 20


def test_a_changelog_whose_beginning_was_deleted_gives_what_is_left(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    log.append(range(40))
    log.append(range(10, 20))
    log.delete_before(15)
    left = {f"s{n}": log.states[f"s{n}"] for n in (*range(10, 20), *range(20, 40))}
    store = open_store()
    restore(kafka, log, store)
    assert stored(store) == left


def test_a_store_that_was_further_than_what_was_deleted_keeps_all_it_has(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    log.append(range(40))
    store = open_store()
    restore(kafka, log, store)
    log.delete_before(40)
    log.append(range(5))
    assert restore(kafka, log, store).sessions == 5
    assert stored(store) == log.states


def test_a_changelog_deleted_to_its_very_end_is_restored_at_once(
    kafka: Any, log: Log, open_store: Callable[[], RocksSessions]
) -> None:
    log.append(range(40))
    store = open_store()
    restore(kafka, log, store)
    log.delete_before(40)
    assert restore(kafka, log, store).complete
    assert stored(store) == log.states
    fresh = open_store()
    assert restore(kafka, log, fresh).sessions == 0
    assert fresh.persisted_offset(0) == 39

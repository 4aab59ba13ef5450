"""The live pointer on a real broker."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import pytest
from kafka import KafkaProducer

from stream_app.adapters.kafka_clients import python_client_options
from stream_app.adapters.releases import (
    ReleaseFollower,
    ReleasePointer,
    announce,
    first_release,
    promote,
    read_latest,
    rollback,
)
from stream_app.core.errors import ConfigurationError, ServiceAwayError
from stream_app.settings import KafkaSettings

if TYPE_CHECKING:
    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka


def test_the_pointer_is_where_it_was_last_moved_to(kafka: TestKafka, topics: TopicSettings) -> None:
    assert read_latest(kafka.settings, topics.releases) is None
    promote(kafka.settings, topics.releases, "v1", reason="first")
    promote(kafka.settings, topics.releases, "v2", reason="better")
    latest = read_latest(kafka.settings, topics.releases)
    assert latest is not None
    assert (latest.model_version, latest.previous, latest.reason) == ("v2", "v1", "better")


def test_rollbacks_walk_back_one_version_at_a_time(kafka: TestKafka, topics: TopicSettings) -> None:
    for version in ("v1", "v2", "v3"):
        promote(kafka.settings, topics.releases, version, reason="")
    back = [
        rollback(kafka.settings, topics.releases, reason="worse").model_version for _ in range(2)
    ]
    assert back == ["v2", "v1"]
    with pytest.raises(ConfigurationError, match="nothing to roll back to"):
        rollback(kafka.settings, topics.releases, reason="worse")


def test_a_follower_sees_the_pointer_and_then_each_move_within_seconds(
    kafka: TestKafka, topics: TopicSettings
) -> None:
    promote(kafka.settings, topics.releases, "v1", reason="")
    with ReleaseFollower(kafka.settings, topics.releases) as follower:
        start = follower.read_to_end()
        assert start is not None
        assert start.model_version == "v1"
        mover = threading.Thread(
            target=promote,
            args=(kafka.settings, topics.releases, "v2"),
            kwargs={"reason": "while followed"},
        )
        mover.start()
        seen = None
        deadline = time.monotonic() + 20
        while seen is None and time.monotonic() < deadline:
            seen = follower.poll(0.5)
        mover.join()
        assert seen is not None
        assert seen.model_version == "v2"
        assert follower.poll(0.1) is None


def test_a_pointer_that_is_kept_sees_what_others_did_since(
    kafka: TestKafka, topics: TopicSettings
) -> None:
    with ReleasePointer(kafka.settings, topics.releases) as pointer:
        assert pointer.read() is None
        pointer.promote("v1", reason="")
        promote(kafka.settings, topics.releases, "v2", reason="somebody else's")
        seen = pointer.read()
        assert seen is not None
        assert (seen.model_version, seen.history) == ("v2", ("v1",))
        assert pointer.read() == seen
        rollback(kafka.settings, topics.releases, reason="")
        moved = pointer.promote("v3", reason="")
        assert (moved.previous, moved.history) == ("v1", ("v1",))
        assert read_latest(kafka.settings, topics.releases) == moved
        pointer.close()
        assert pointer.read() == moved


def test_a_record_nobody_can_read_leaves_the_pointer_where_it_is(
    kafka: TestKafka, topics: TopicSettings
) -> None:
    announce(kafka.settings, topics.releases, first_release("v1", ""))
    producer = KafkaProducer(**python_client_options(kafka.settings))
    producer.send(topics.releases, key=b"live", value=b"v2, please")
    producer.send(topics.releases, key=b"something-else", value=b'{"model_version":"v3"}')
    producer.flush()
    producer.close()
    with ReleaseFollower(kafka.settings, topics.releases) as follower:
        latest = follower.read_to_end()
        assert follower.skipped == 1
    assert latest is not None
    assert latest.model_version == "v1"


def test_a_missing_topic_says_what_to_run(kafka: TestKafka) -> None:
    with pytest.raises(ConfigurationError, match="nextclick topics create"):
        read_latest(kafka.settings, "no-such-topic-for-releases")


@pytest.mark.filterwarnings(
    # kafka-python forgets the sockets of a failed first connection; our process ends there anyway.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_broker_that_is_not_there_is_a_service_away() -> None:
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ServiceAwayError, match=r"127\.0\.0\.1:1"):
        promote(nobody, "releases", "v1", reason="")
    gc.collect()

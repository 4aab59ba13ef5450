"""nextclick on three brokers: what one broker alone cannot show."""

from collections.abc import Iterator
from typing import Any

import pytest

from stream_app.adapters import kafka_topics
from stream_app.settings import TopicSettings
from tests.chaos.cluster import Cluster
from tests.integration.processes import wait_until


@pytest.fixture(scope="module")
def cluster(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The session's broker has fetched Kafka, or these tests are skipped with it."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def topics_named(prefix: str) -> TopicSettings:
    names = ("clicks", "recommendations", "dead_letters", "releases", "sessions", "statistics")
    return TopicSettings(
        **{name: f"{prefix}.{name}" for name in names}, partitions=4, replication=3
    )


def test_new_topics_are_known_to_whichever_broker_is_asked_next(cluster: Cluster) -> None:
    """Else a worker that made them is told by the next broker that they are missing, and ends."""
    with kafka_topics.admin_client(cluster.settings) as admin:
        cluster_nodes = admin.describe_cluster()["brokers"]
        for number in range(4):
            topics = topics_named(f"new-{number}")
            kafka_topics.create_topics(cluster.settings, topics)
            names = kafka_topics.names_of(topics)
            for broker in cluster_nodes:
                assert kafka_topics._has_heard_of(admin, broker["broker_id"], names)


def test_a_topic_has_three_copies_and_another_leader_after_a_kill(cluster: Cluster) -> None:
    topics = topics_named("copied")
    kafka_topics.create_topics(cluster.settings, topics)
    cluster.wait_in_sync(topics.sessions, 4)
    first = cluster.leader(topics.sessions, 0)
    cluster.kill(first)
    try:
        wait_until("another leader", lambda: cluster.leader(topics.sessions, 0) not in (first, -1))
        assert first not in cluster.in_sync(topics.sessions, 0)
        assert cluster.controller() != first
        assert cluster.coordinator("some-group") != first
    finally:
        cluster.start(first)
    cluster.wait_in_sync(topics.sessions, 4)

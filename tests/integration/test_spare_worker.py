"""More workers than partitions, as replicas of a StatefulSet may be: the spare is ready, and steps in."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from stream_app.settings import Settings, TopicSettings
from tests.integration.oracle import answers_by_click
from tests.integration.processes import NextclickProcess, get, wait_until


@pytest.fixture
def topics(make_topics: Callable[..., TopicSettings]) -> TopicSettings:
    return make_topics(partitions=1)


def test_a_spare_worker_is_ready_and_takes_over_under_its_own_name(
    settings: Settings, worker: Callable[..., NextclickProcess], tmp_path: Path
) -> None:
    """A rollout waits for each pod to become ready, and so does a drained node: a spare that never does
    would stop both.  Static members keep their share, so it stays a spare after a restart."""
    ports = _free_port(), _free_port()

    def start(number: int) -> NextclickProcess:
        return worker(
            *("--metrics-port", str(ports[number])),
            *("--set", f"kafka.group_instance_id=nextclick-worker-{number}"),
            *("--set", "kafka.session_timeout_seconds=6"),
            data_dir=tmp_path / str(number),
        )

    with start(0) as first:
        wait_until("the first worker is ready", lambda: get(ports[0], "/readyz")[0] == 200)
        with start(1) as spare:
            wait_until("the spare is ready", lambda: get(ports[1], "/readyz")[0] == 200)
            assert "spare" in get(ports[1], "/readyz")[1]
            assert spare.terminate() == 0
        with start(1):
            wait_until("it is ready again", lambda: get(ports[1], "/readyz")[0] == 200)
            assert "spare" in get(ports[1], "/readyz")[1]
            assert _instance_ids(settings) == {"nextclick-worker-0", "nextclick-worker-1"}
            assert first.terminate() == 0
            _click(settings)
            wait_until("the spare answers", lambda: _answers(settings) == 1, 60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _instance_ids(settings: Settings) -> set[str]:
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    (group,) = admin.describe_consumer_groups([settings.kafka.group_id]).values()
    return {member.group_instance_id for member in group.result().members}


def _click(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    click = {"session_id": "a", "item_id": "i", "event_time": 1_700_000_000_000}
    producer.produce(settings.topics.clicks, key=b"a", value=json.dumps(click).encode())
    assert producer.flush(30) == 0


def _answers(settings: Settings) -> int:
    return len(answers_by_click(settings.kafka.bootstrap_servers, settings.topics.recommendations))

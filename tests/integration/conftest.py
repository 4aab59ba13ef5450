"""One real broker for the whole test session, and topics of its own for each test."""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream_app.adapters import kafka_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.core.errors import ServiceAwayError
from stream_app.settings import KafkaSettings, Settings, TopicSettings
from tests.integration.processes import NextclickProcess
from tests.topics import made_up_topics


@dataclass(frozen=True)
class TestKafka:
    """Where the broker of this test session listens."""

    __test__ = False

    bootstrap_servers: str

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=self.bootstrap_servers)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestKafka]:
    """A broker started by the code that `nextclick broker` uses.

    TEST_KAFKA=host:port takes another one; without a network on the very first run there is
    none, and these tests are skipped with that reason.
    """
    given = os.environ.get("TEST_KAFKA")
    if given:
        yield TestKafka(given)
        return
    broker = LocalKafka(tmp_path_factory.mktemp("kafka"), say=print)
    try:
        broker.start()
    except ServiceAwayError as error:
        if "could not be fetched" in str(error) and not os.environ.get("CI"):
            pytest.skip(f"needs a real Kafka: {error}")
        raise
    try:
        yield TestKafka(broker.bootstrap_servers)
    finally:
        broker.stop()


@pytest.fixture
def make_topics(kafka: TestKafka) -> Iterator["TopicFactory"]:
    """Creates sets of topics with names nobody else uses; deleted after the test."""
    factory = TopicFactory(kafka)
    yield factory
    factory.delete_all()


@pytest.fixture
def topics(make_topics: "TopicFactory") -> TopicSettings:
    """All topics, 4 partitions each of clicks, recommendations and sessions."""
    return make_topics()


class TopicFactory:
    def __init__(self, kafka: TestKafka) -> None:
        self._kafka = kafka
        self._made: list[TopicSettings] = []

    def name(self, *, partitions: int = 4) -> TopicSettings:
        """Names only; deleted after the test if something created them."""
        settings = made_up_topics("test", partitions=partitions)
        self._made.append(settings)
        return settings

    def __call__(self, *, partitions: int = 4) -> TopicSettings:
        settings = self.name(partitions=partitions)
        kafka_topics.create_topics(self._kafka.settings, settings)
        return settings

    def delete_all(self) -> None:
        names = [name for made in self._made for name in kafka_topics.names_of(made)]
        if not names:
            return
        with kafka_topics.admin_client(self._kafka.settings) as admin:
            existing = list(kafka_topics.describe(admin, names))
            if existing:
                admin.delete_topics(existing)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty directory for one process's state."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def settings(kafka: TestKafka, topics: TopicSettings, tmp_path: Path) -> Settings:
    """For a worker and what it needs, all of it this test's own."""
    return Settings(
        kafka=kafka.settings.model_copy(update={"group_id": topics.clicks + ".workers"}),
        topics=topics,
        registry=str(tmp_path / "registry"),
        data_dir=tmp_path / "worker",
    )


@pytest.fixture
def port() -> int:
    """A free one, for the metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def worker(
    settings: Settings, port: int, tmp_path: Path
) -> Iterator[Callable[..., NextclickProcess]]:
    """Starts workers; whatever still runs at the end is killed."""
    started: list[NextclickProcess] = []

    def start(*more: str, data_dir: Path | None = None) -> NextclickProcess:
        mine = settings.model_copy(update={"data_dir": data_dir or settings.data_dir})
        process = NextclickProcess("worker", mine, tmp_path, "--metrics-port", str(port), *more)
        started.append(process)
        return process

    yield start
    for process in started:
        process.__exit__()

"""Where it is measured: a broker, topics of their own, processes on cores of their own, made-up clicks."""

import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from prometheus_client import CollectorRegistry

from stream_app.adapters import kafka_topics
from stream_app.adapters.instruments import StatisticsInstruments
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.releases import promote
from stream_app.files.registry import Registry
from stream_app.services.aggregator import Aggregator
from stream_app.settings import KafkaSettings, Settings, TopicSettings
from tests.benchmarks.scoring import clustered_weights
from tests.bundles import make_bundle
from tests.integration.processes import NextclickProcess, get, wait_until

UNITS, TOP_K = 100, 20
PARTITIONS: Final = 4
SESSIONS_AT_ONCE: Final = 5_000
CLICKS_PER_SESSION: Final = 5
WARM_UP_CLICKS: Final = 2_000
START_MS: Final = 1_700_000_000_000
SESSION_TIMEOUT_SECONDS: Final = 40.0
"""A worker that we hold back while its backlog is produced keeps its partitions."""

PATIENCE_SECONDS: Final = 300.0

KeyedClick = tuple[bytes, bytes]
"""Key and value, as produced."""


class Bed:
    """The broker with the JVM's own settings, started on first use; and bundles, each made once."""

    def __init__(self, directory: Path, *, short: bool = False) -> None:
        """short: a look at whether it runs, of no worth as a measurement."""
        self.directory, self.short = directory, short
        self.given_broker = os.environ.get("TEST_KAFKA", "")
        self._broker: LocalKafka | None = None
        self._bundles: dict[tuple[int, int, bool], Path] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def bootstrap_servers(self) -> str:
        if self.given_broker:
            return self.given_broker
        if self._broker is None:
            broker = LocalKafka(self.directory / "kafka", quick=False)
            self._broker = self._stack.enter_context(broker)
        return self._broker.bootstrap_servers

    @property
    def broker_pids(self) -> tuple[int, ...]:
        """Of the broker that is ours to put on a core."""
        return () if self._broker is None else (self._broker.pid,)

    @property
    def repeats(self) -> int:
        return 1 if self.short else 3

    @property
    def catalogues(self) -> tuple[int, ...]:
        """Sizes, items."""
        return (5_000,) if self.short else (10_000, 50_000, 200_000)

    @property
    def n_items(self) -> int:
        """Of the smallest."""
        return self.catalogues[0]

    def clicks(self, n: int) -> int:
        """So many; 250 where it is only a look."""
        return 250 if self.short else n

    def bundle(self, n_items: int, units: int = UNITS, *, ranked: bool = False) -> Path:
        """A model with item vectors as crowded as trained ones, scored as a trained one would be.

        ranked: with a second stage.
        """
        kind = n_items, units, ranked
        if kind not in self._bundles:
            self._bundles[kind] = make_bundle(
                self.directory / "-".join(map(str, ("made", *kind))),
                ids=item_ids(n_items),
                weights=clustered_weights(n_items, units=units),
                ranked=ranked,
            )
        return self._bundles[kind]

    def new_directory(self, name: str) -> Path:
        path = self.directory / f"{name}-{uuid.uuid4().hex[:6]}"
        path.mkdir()
        return path

    def stream(
        self, n_items: int, bundle: Path | None = None, *, warm_up_clicks: int = WARM_UP_CLICKS
    ) -> "Stream":
        """Fresh topics with clicks on `n_items` items; the bundle, if given, is live."""
        return Stream(self, n_items, bundle, self.clicks(warm_up_clicks))


class Stream:
    """One set of topics, deleted at the end of the block."""

    def __init__(self, bed: Bed, n_items: int, bundle: Path | None, warm_up_clicks: int) -> None:
        self.bed, self.n_items = bed, n_items
        self._warm_up_clicks = warm_up_clicks
        prefix = f"bench-{uuid.uuid4().hex[:8]}"
        names = ("clicks", "recommendations", "dead_letters", "releases", "sessions", "statistics")
        self.directory = bed.new_directory("stream")
        self.settings = Settings(
            kafka=KafkaSettings(
                bootstrap_servers=bed.bootstrap_servers,
                group_id=prefix,
                session_timeout_seconds=SESSION_TIMEOUT_SECONDS,
            ),
            topics=TopicSettings.model_validate(
                {"partitions": PARTITIONS, **{name: f"{prefix}.{name}" for name in names}}
            ),
            registry=str(self.directory / "registry"),
            data_dir=self.directory / "worker",
        )
        self._bundle = bundle
        self._made = 0
        self._answers = _Answers(bed.bootstrap_servers, self.settings.topics.recommendations)

    def __enter__(self) -> Self:
        kafka_topics.create_topics(self.settings.kafka, self.settings.topics)
        wait_until("the topic has its leaders", self._answers.can_be_read)
        if self._bundle is not None:
            version = Registry(self.settings.registry).publish(self._bundle)
            promote(self.settings.kafka, self.settings.topics.releases, version, reason="bench")
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._answers.close()
        with kafka_topics.admin_client(self.settings.kafka) as admin:
            admin.delete_topics(
                list(kafka_topics.describe(admin, kafka_topics.names_of(self.settings.topics)))
            )

    def next_clicks(self, n: int, *, event_ids: bool = False) -> list[KeyedClick]:
        """Clicks that were not made before: 5,000 visitors at a time, 5 clicks each, items by Zipf's law."""
        first, self._made = self._made, self._made + n
        return list(made_up_clicks(first, n, self.n_items, event_ids=event_ids))

    def produce(self, clicks: Iterable[KeyedClick]) -> None:
        """By librdkafka; waits until all are stored."""
        producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka.bootstrap_servers,
                "linger.ms": 20,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        for key, value in clicks:
            producer.produce(self.settings.topics.clicks, key=key, value=value)
        assert producer.flush(60) == 0, "the broker did not take the clicks"

    def publish_statistics(self) -> None:
        """One version of the clicks so far, so that the worker does not count for itself; nobody goes on."""
        with Aggregator(self.settings, StatisticsInstruments(CollectorRegistry())) as aggregator:
            aggregator.turn()
            aggregator.publish()
            assert aggregator.version, "no click was there to count"

    def answer_ends(self) -> dict[int, int]:
        return self._answers.ends()

    def answer_times_ms(self, since: dict[int, int]) -> list[int]:
        """Kafka's timestamps of the answers from these offsets on, ascending."""
        return sorted(self._answers.times_ms(since))

    def wait_for_answers(self, worker: "Worker", n: int, since: dict[int, int]) -> None:
        """Asks for the ends only: reading the answers would take a core from those we measure."""
        before = sum(since.values())

        def are_there() -> bool:
            assert worker.process.poll() is None, f"it ended: {worker.log[-3000:]}"
            return sum(self.answer_ends().values()) - before >= n

        wait_until("all are answered", are_there, PATIENCE_SECONDS)

    @contextmanager
    def worker(self) -> Iterator["Worker"]:
        """A worker, warm: it has answered some clicks, and read one version of the statistics of them."""
        warm_up = self.next_clicks(self._warm_up_clicks)
        since = self.answer_ends()
        self.produce(warm_up)
        self.publish_statistics()
        with Worker(self) as worker:
            worker.wait_until_ready()
            self.wait_for_answers(worker, len(warm_up), since)
            yield worker
            worker.end()

    @contextmanager
    def program(self, module: str, *arguments: str) -> Iterator["Worker"]:
        """Another program in a worker's place, warm as well."""
        warm_up = self.next_clicks(self._warm_up_clicks)
        since = self.answer_ends()
        self.produce(warm_up)
        with Worker(self, module, *arguments) as worker:
            self.wait_for_answers(worker, len(warm_up), since)
            yield worker
            worker.end()


class Worker(NextclickProcess):
    """A worker of a stream, or a program in its place."""

    def __init__(self, stream: Stream, module: str = "", *arguments: str) -> None:
        self._port = _free_port()
        self._counter = stream.settings.data_dir / "batches" if module else None
        name = module.rpartition(".")[2] or "worker"
        program = ("-m", module, *arguments) if module else ()
        more = () if module else ("--metrics-port", str(self._port))
        super().__init__(name, stream.settings, stream.directory, *more, program=program)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.log[-3000:])
            return get(self._port, "/readyz")[0] == 200

        wait_until("the worker is ready", is_ready, 120)

    @property
    def batches(self) -> int:
        """Computed so far; a program in its place writes it down (`bare_path`)."""
        if self._counter is not None:
            return int(self._counter.read_text())
        return int(self.metrics(self._port)["nextclick_batch_clicks_count"])

    def end(self) -> None:
        status = self.terminate()
        assert status == 0, f"ended with {status}: {self.log[-3000:]}"


class _Answers:
    """A topic, looked at from outside."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "bench-reads-alone",
                "enable.auto.commit": False,
            }
        )

    def close(self) -> None:
        self._consumer.close()

    def ends(self) -> dict[int, int]:
        return {
            p: self._consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout=30)[1]
            for p in range(PARTITIONS)
        }

    def can_be_read(self) -> bool:
        """Not at once after it was created."""
        try:
            self.ends()
        except KafkaException:
            return False
        return True

    def times_ms(self, since: dict[int, int]) -> Iterator[int]:
        left = sum(self.ends().values()) - sum(since.values())
        self._consumer.assign([TopicPartition(self._topic, p, start) for p, start in since.items()])
        deadline = time.monotonic() + 120
        while left:
            assert time.monotonic() < deadline, f"{left} answers could not be read"
            for message in self._consumer.consume(min(left, 10_000), timeout=0.5):
                assert message.error() is None, message.error()
                left -= 1
                yield message.timestamp()[1]
        self._consumer.unassign()


def item_ids(n_items: int) -> Sequence[str]:
    return [f"item-{i}" for i in range(n_items)]


def made_up_clicks(
    first: int, n: int, n_items: int, *, event_ids: bool = False
) -> Iterator[KeyedClick]:
    """The clicks numbered from `first` on, a millisecond of event time apart."""
    rng = np.random.default_rng(first)
    shares = 1 / np.arange(1, n_items + 1)
    items = rng.choice(n_items, size=n, p=shares / shares.sum()).tolist()
    at_once = SESSIONS_AT_ONCE * CLICKS_PER_SESSION
    for number, item in enumerate(items, first):
        session_id = f"s-{number // at_once}-{number % SESSIONS_AT_ONCE}"
        event_id = f'"event_id":"e-{number}",' if event_ids else ""
        value = (
            f'{{{event_id}"session_id":"{session_id}","item_id":"item-{item}",'
            f'"event_time":{START_MS + number}}}'
        )
        yield session_id.encode(), value.encode()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port

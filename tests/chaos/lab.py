"""Where a row works: a broker, topics of its own, models, workers, clicks, and the verdict in the end."""

import json
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from stream_app.adapters import kafka_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import promote
from stream_app.files.registry import Registry
from stream_app.settings import (
    KafkaSettings,
    Settings,
    TopicSettings,
    load_settings,
    serving_rules,
)
from tests.bundles import make_bundle
from tests.chaos import evidence
from tests.chaos.row import Finding
from tests.chaos.traffic import ITEMS, START_MS, ClickProducer, KeyedClick, Load, made_up_clicks
from tests.chaos.verdict import Evidence, Verdict, judge
from tests.integration.processes import NextclickProcess, get, wait_until
from tests.topics import made_up_topics

PATIENCE_SECONDS: Final = 180.0
"""Nothing is judged by its time, and a busy machine may take a minute to start a worker."""
SESSION_TIMEOUT_SECONDS: Final = 6
"""The least that a broker allows as delivered."""


class Lab:
    """The broker (started on first use, or TEST_KAFKA), and streams on it."""

    def __init__(self, directory: Path, *, seed: int = 0, bootstrap_servers: str = "") -> None:
        self.directory, self.seed = directory, seed
        self._given = bootstrap_servers or os.environ.get("TEST_KAFKA", "")
        self._stack = ExitStack()
        self._lock = threading.Lock()

    @property
    def bootstrap_servers(self) -> str:
        with self._lock:
            if not self._given:
                broker = self._stack.enter_context(LocalKafka(self.directory / "kafka"))
                self._given = broker.bootstrap_servers
            return self._given

    def new_directory(self, name: str) -> Path:
        path = self.directory / f"{name}-{uuid.uuid4().hex[:6]}"
        path.mkdir(parents=True)
        return path

    def stream(
        self,
        *,
        partitions: int = 4,
        models: int = 1,
        sessions: int = 300,
        replication: int = 1,
        bootstrap_servers: str = "",
        worker_servers: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> "Stream":
        """Fresh topics, and `models` bundles published, the last one live.

        bootstrap_servers: another broker than the lab's.  worker_servers: how workers reach it (a
        proxy, say).  settings: values by dotted name for the workers.
        """
        return Stream(
            self.new_directory("stream"),
            bootstrap_servers or self.bootstrap_servers,
            worker_servers=worker_servers,
            topics=made_up_topics("chaos", partitions=partitions, replication=replication),
            models=models,
            sessions=sessions,
            seed=self.seed,
            settings=settings or {},
        )

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()


class Worker(NextclickProcess):
    """A worker process of a stream, over a data directory that outlives it."""

    def __init__(self, settings: Settings, directory: Path, *more: str) -> None:
        self.data_dir = settings.data_dir
        self.ended_ms = 0.0
        super().__init__("worker", settings, directory, *more, program=("-m", "tests.chaos.worker"))

    def wait_for_event(self, name: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        return super().wait_for_event(name, seconds)

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def partitions(self) -> set[int]:
        """Those of its last assignment; empty before the first."""
        assigned = self.events("partitions_assigned")
        return set(assigned[-1]["partitions"]) if assigned else set()

    @property
    def port(self) -> int:
        """Of /metrics; waits for the start."""
        url = self.wait_for_event("worker_started")["metrics"]
        return int(url.split(":")[2].split("/")[0])

    @property
    def samples(self) -> dict[str, float]:
        """/metrics, by name and labels."""
        return self.metrics(self.port)

    def wait_until_serving(self) -> set[int]:
        """Wait for its first partitions; returns them."""
        return set(self.wait_for_event("partitions_assigned")["partitions"])

    @property
    def is_ready(self) -> bool:
        return get(self.port, "/readyz")[0] == 200

    def kill(self) -> None:
        super().kill()
        self.ended_ms = time.time() * 1000

    def wait_for_end(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until it ends by itself; its exit status."""
        deadline = time.monotonic() + seconds
        while self.is_alive:
            assert time.monotonic() < deadline, f"still alive after {seconds} s: {self.log[-2000:]}"
            time.sleep(0.005)
        self.ended_ms = time.time() * 1000
        return self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Stream:
    """One set of topics with its models, workers and clicks.  A context manager that cleans up."""

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        *,
        worker_servers: str,
        topics: TopicSettings,
        models: int,
        sessions: int,
        seed: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.directory, self.seed = directory, seed
        self.kafka = KafkaSettings(bootstrap_servers=bootstrap_servers)
        self.topics = topics
        self.registry = Registry(str(directory / "registry"))
        self.settings = load_settings(
            {
                "kafka.bootstrap_servers": worker_servers or bootstrap_servers,
                "kafka.group_id": f"{topics.clicks}.workers",
                "kafka.session_timeout_seconds": SESSION_TIMEOUT_SECONDS,
                "registry": str(directory / "registry"),
                "serving.top_k": 10,
                "serving.releases_poll_seconds": 0.1,
                **{f"topics.{name}": value for name, value in topics.model_dump().items()},
                **settings,
            },
            environment={},
        )
        self.workers: list[Worker] = []
        kafka_topics.create_topics(self.kafka, topics)
        self.topic_id = kafka_topics.topic_id(self.kafka, topics.clicks)
        self.producer = ClickProducer(bootstrap_servers, topics.clicks)
        self.clicks: Iterator[KeyedClick] = made_up_clicks(seed, sessions=sessions)
        self.answers = evidence.AnswerFollower(bootstrap_servers, topics.recommendations)
        self._models_made = 0
        self._scorers: dict[str, OnnxScorer] = {}
        for _ in range(models):
            self.publish_model()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is not None:
            print(self._workers_say(), file=sys.stderr)
        for worker in self.workers:
            worker.__exit__()
        self.answers.close()
        with kafka_topics.admin_client(self.kafka) as admin:
            names = list(kafka_topics.describe(admin, kafka_topics.names_of(self.topics)))
            if names:
                admin.delete_topics(names)
        shutil.rmtree(self.directory)

    # -- models ---------------------------------------------------------------------------------------

    def publish_model(self) -> str:
        """Publish another model and promote it; its version."""
        self._models_made += 1
        bundle = make_bundle(
            self.directory / "made", ids=ITEMS, units=16, seed=self.seed * 1000 + self._models_made
        )
        version = self.registry.publish(bundle)
        promote(self.kafka, self.topics.releases, version, reason="chaos")
        return version

    def scorer(self, version: str) -> OnnxScorer:
        if version not in self._scorers:
            self._scorers[version] = OnnxScorer.load(self.registry.fetch(version))
        return self._scorers[version]

    # -- workers --------------------------------------------------------------------------------------

    def start_worker(self, n: int = 0, *more: str, data_dir: Path | None = None) -> Worker:
        """Start worker `n` over its data directory (kept from its last life, unless wiped).

        more: flags of `tests.chaos.worker`.
        """
        settings = self.settings.model_copy(update={"data_dir": data_dir or self.data_dir(n)})
        worker = Worker(settings, self.directory, *more)
        self.workers.append(worker)
        return worker

    def data_dir(self, n: int) -> Path:
        return self.directory / f"worker-{n}"

    def wipe(self, n: int) -> None:
        """The disk of worker `n` is lost."""
        shutil.rmtree(self.data_dir(n), ignore_errors=True)

    # -- clicks ---------------------------------------------------------------------------------------

    def load(self, rate: float, clicks: Iterator[KeyedClick] | None = None) -> Load:
        """Produce the stream's clicks (or those given) at a rate while the block runs."""
        return Load(self.producer, clicks if clicks is not None else self.clicks, rate)

    def produce(self, n: int = 0, clicks: Iterable[KeyedClick] | None = None) -> None:
        """Produce `n` of the stream's clicks (or those given) at once, and wait until they are stored."""
        source = clicks if clicks is not None else (next(self.clicks) for _ in range(n))
        for click in source:
            self.producer.send(click)
        self.producer.flush()

    def erase(self, session_id: str) -> None:
        """Let a visitor ask to be forgotten, after everything produced so far."""
        event = {"session_id": session_id, "event_time": START_MS, "event_type": "erase"}
        self.produce(clicks=[(session_id.encode(), json.dumps(event).encode())])

    def wait_until_settled(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until every click is done: answered, dead-lettered or ignored, and committed."""
        group = self.settings.kafka.group_id
        progress = evidence.GroupProgress(self.kafka.bootstrap_servers, group, self.topics.clicks)
        try:
            wait_until("all clicks are committed", lambda: progress.behind() == 0, seconds)
        except AssertionError as error:
            raise AssertionError(
                f"{error}: {progress.behind()} are not; {self._workers_say()}"
            ) from error
        finally:
            progress.close()

    def wait_for_answer_after(
        self,
        moment_ms: float,
        partitions: set[int] | None = None,
        *,
        seconds: float = PATIENCE_SECONDS,
    ) -> float:
        """Seconds from that moment to the first answer sent after it (in `partitions`)."""
        return self.answers.first_after(moment_ms, partitions, seconds=seconds)

    # -- the verdict ----------------------------------------------------------------------------------

    def stop_workers(self) -> int:
        """End those that live as a supervisor does; how many did not end with status 0."""
        living = [worker for worker in self.workers if worker.is_alive]
        for worker in living:
            worker.resume()
            worker.wait_for_event("worker_started")  # before it listens, a signal just ends it
            worker.process.send_signal(signal.SIGTERM)
        return sum(worker.wait_for_end() != 0 for worker in living)

    def judge(
        self, *, settle_seconds: float = PATIENCE_SECONDS, sessions_expire: bool = False
    ) -> Verdict:
        """Wait until all is done, stop the workers, and compare all that is left with the replay.

        sessions_expire: whether the clicks go on for longer than `serving.state_ttl_hours`.
        """
        self.wait_until_settled(settle_seconds)
        unclean = self.stop_workers()
        self.answers.wait_until_read()
        verdict = judge(
            self.evidence(),
            self.scorer,
            serving_rules(self.settings),
            self.topic_id,
            ttl_ms=self.settings.serving.state_ttl_hours * 3_600_000 if sessions_expire else inf,
        )
        for _ in range(unclean):
            verdict.add("failures", f"a worker did not stop cleanly: {self._workers_say()}")
        for _ in range(self.producer.failed):
            verdict.add("failures", "a click could not be produced")
        return verdict

    def verdict(
        self, name: str, runs: int, *, recovery_seconds: Iterable[float] = (), note: str = ""
    ) -> Finding:
        """`judge`, as a finding."""
        return self.judge().finding(name, runs, recovery_seconds=recovery_seconds, note=note)

    def evidence(self) -> Evidence:
        """What lies on the topics and the stopped workers' disks."""
        servers, topics = self.kafka.bootstrap_servers, self.topics
        return Evidence(
            clicks=evidence.read_topic(servers, topics.clicks),
            answers=self.answers.answers,
            dead_letters=evidence.dead_letters(servers, topics.dead_letters),
            changelog=evidence.changelog(servers, topics.sessions),
            stores={
                partition: evidence.stored_sessions(worker.data_dir, self.topic_id, partition)
                for partition, worker in self.last_owners().items()
                if worker.process.poll() == 0
            },
        )

    def last_owners(self) -> dict[int, Worker]:
        """By partition, the worker that was assigned it last."""
        assigned: list[tuple[str, Worker, list[int]]] = [
            (event["timestamp"], worker, event["partitions"])
            for worker in self.workers
            for event in worker.events("partitions_assigned")
        ]
        owners: dict[int, Worker] = {}
        for _, worker, partitions in sorted(assigned, key=lambda entry: entry[0]):
            owners.update(dict.fromkeys(partitions, worker))
        return owners

    def _workers_say(self) -> str:
        return "\n".join(f"{w.log_file.name}: {w.log[-1500:]}" for w in self.workers[-3:])

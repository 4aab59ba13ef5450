"""The whole of nextclick on this machine, watched: what the faults are done to."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from stream_app.adapters import kafka_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.releases import promote, read_latest
from stream_app.demo.children import Children
from stream_app.files.registry import Registry
from stream_app.settings import Settings, load_settings
from tests.chaos.storage import SmallDisk
from tests.chaos.traffic import ClickProducer
from tests.deploy.alerts_check.monitoring import Monitoring, Receiver
from tests.deploy.alerts_check.services import TRAINING_PYTHON, Service

PATIENCE_SECONDS: Final = 300.0
"""For what is not judged by its time: a busy machine takes its own to start and to train."""
POLL_SECONDS: Final = 0.2
RETRAIN_EVERY: Final = "5m"
CLICK_LOG_MEGABYTES: Final = 256


class Stack:
    """Broker, worker, statistics, archive, retraining, a simulated shop, Prometheus, Alertmanager, and a
    receiver.  A context manager that leaves nothing running."""

    def __init__(self, directory: Path, *, factor: float, clicks_per_second: float) -> None:
        self.directory = directory
        self._clicks_per_second = clicks_per_second
        self._stack = ExitStack()
        self._factor = factor
        self.why_no_small_disk = SmallDisk.why_not(directory)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        broker = self._stack.enter_context(LocalKafka(self.directory / "kafka"))
        self.disk: SmallDisk | None = None
        if not self.why_no_small_disk:
            disk = SmallDisk(self.directory / "disk", megabytes=CLICK_LOG_MEGABYTES)
            self.disk = self._stack.enter_context(disk)
        self.receiver = self._stack.enter_context(Receiver())
        self.children = self._stack.enter_context(Children())
        self.settings = self._settings(broker.bootstrap_servers)
        kafka_topics.create_topics(self.settings.kafka, self.settings.topics)
        self.registry = Registry(self.settings.registry)
        self.producer = ClickProducer(
            broker.bootstrap_servers, self.settings.topics.clicks, **{"delivery.timeout.ms": 30_000}
        )
        logs = self.directory / "logs"
        logs.mkdir()
        self.worker = self._service("worker", logs)
        self.second_worker = self._service("worker", logs, name="worker-2")
        self.statistics = self._service("statistics", logs)
        self.archive = self._service("archive", logs)
        self.retrain = self._service("retrain", logs, "--every", RETRAIN_EVERY)
        self.shop = Service(
            self.children,
            "simulate",
            ("simulate", "--clicks-per-second", str(self._clicks_per_second), "--seed", "1"),
            self.settings,
            logs,
        )
        self._services = (
            *(self.worker, self.second_worker, self.statistics, self.archive),
            *(self.retrain, self.shop),
        )
        for service in (self.worker, self.statistics, self.archive, self.shop, self.retrain):
            service.start()
        self.monitoring = Monitoring(
            self.children,
            self.directory / "monitoring",
            factor=self._factor,
            receiver=self.receiver,
        )
        self.watch_what_runs()
        self.monitoring.watch("nextclick-gateway", ())
        self.monitoring.start()

    def _settings(self, bootstrap_servers: str) -> Settings:
        log_root = self.disk.directory if self.disk else self.directory
        return load_settings(
            {
                "kafka.bootstrap_servers": bootstrap_servers,
                "kafka.session_timeout_seconds": 6,
                "topics.partitions": 2,
                "registry": str(self.directory / "registry"),
                "click_log": str(log_root / "click-log"),
                "data_dir": str(self.directory / "worker"),
                "archive.flush_seconds": 3,
                "retrain.epochs": 8,
                "retrain.warm_epochs": 1,
                "retrain.replay_clicks": 50_000,
                "retrain.layer_units": 64,
                "retrain.sessions_min": 2_000,
            },
            environment={},
        )

    def _service(self, command: str, logs: Path, *flags: str, name: str = "") -> Service:
        name = name or command
        settings = self.settings.model_copy(update={"data_dir": self.directory / name})
        python = {"python": TRAINING_PYTHON} if command == "retrain" else {}
        return Service(
            self.children,
            name,
            (command, *flags),
            settings,
            logs,
            job=f"nextclick-{command}",
            **python,
        )

    # -- looking after it -----------------------------------------------------------------------------

    def watch_what_runs(self) -> None:
        """Prometheus's targets are the services that are meant to run now."""
        by_job: dict[str, list[str]] = {s.job: [] for s in self._services if s.job}
        for service in self._services:
            if service.job and service.is_wanted:
                by_job[service.job].append(service.target)
        for job, targets in by_job.items():
            self.monitoring.watch(job, targets)

    def wait_until(
        self, what: str, holds: Callable[[], Any], seconds: float = PATIENCE_SECONDS
    ) -> float:
        """Wait, starting again what ends meanwhile; seconds it took.  Fails with `what` and the logs' ends."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > seconds:
                raise AssertionError(
                    f"waited {seconds:.0f} s in vain: {what}; {self._last_words()}"
                )
            for service in self._services:
                service.look_after()
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began

    def wait_until_calm(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Every target answers, the newest model serves, clicks are answered, and no alert fires."""
        query = self.monitoring.value
        wanted = sum(bool(s.job and s.is_wanted) for s in self._services)

        def is_calm() -> bool:
            return (
                query("sum(up)") == wanted
                and (query("max(nextclick_model_age_seconds)") or 0) > 0
                and (query('sum(rate(nextclick_clicks_total{outcome="recommended"}[5s]))') or 0) > 0
                and not self.monitoring.firing()
            )

        self.wait_until("the stack is calm", is_calm, seconds)

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.wait_until("time passes", lambda: time.monotonic() >= until, seconds + 60)

    def _last_words(self) -> str:
        said = [f"{s.name}: {s.log[-300:]}" for s in self._services]
        return f"firing: {sorted(self.monitoring.firing())}\n" + "\n".join(said)

    # -- what faults need -----------------------------------------------------------------------------

    @property
    def click_log(self) -> Path:
        return Path(self.settings.click_log)

    @property
    def live_version(self) -> str | None:
        release = read_latest(self.settings.kafka, self.settings.topics.releases)
        return release.model_version if release else None

    def promote(self, version: str | None) -> None:
        promote(self.settings.kafka, self.settings.topics.releases, version, reason="alerts-check")

    def without_retraining(self) -> None:
        """As between two runs of a cron job: no model comes in between."""
        self.retrain.stop()
        self.watch_what_runs()

    def with_retraining(self) -> None:
        self.retrain.start()
        self.watch_what_runs()

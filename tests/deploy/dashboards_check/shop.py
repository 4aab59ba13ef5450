"""The whole of nextclick on this machine with a simulated shop, watched by a real Prometheus."""

import json
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from confluent_kafka import Producer

from stream_app.adapters import kafka_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.adapters.releases import read_latest
from stream_app.cli.options import settings_as_flags
from stream_app.demo.children import Children
from stream_app.demo.workspace import environment_of_children, free_port
from stream_app.settings import MetricsSettings, Settings, load_settings

ROOT: Final = Path(__file__).parents[3]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
TRAINING_PYTHON: Final = ROOT / ".venv-training" / "bin" / "python"
SCRAPE_SECONDS: Final = 5
RETRAIN_EVERY: Final = "2m"
CALLERS: Final = "tests.deploy.dashboards_check.callers"
PATIENCE_SECONDS: Final = 900.0
"""For what is not judged by its time: a busy machine takes its own to start and to train."""
JUNK: Final = (
    b"no click at all",
    b'{"session_id": "s-1", "item_id": "i-1", "event_time": "yesterday"}',
)


class Shop:
    """A context manager that leaves nothing running."""

    def __init__(self, directory: Path, *, clicks_per_second: float) -> None:
        self._directory = directory
        self._clicks_per_second = clicks_per_second
        self._stack = ExitStack()
        self._targets: dict[str, list[str]] = {}
        self._services: dict[str, list[str | Path]] = {}
        self.began = time.time()
        self.url = f"http://127.0.0.1:{free_port()}"
        """Of Prometheus."""

    @staticmethod
    def why_not() -> str:
        """What is missing for it, and how to get it; empty where nothing is."""
        if shutil.which("prometheus") is None:
            return "prometheus is missing: apt-get install prometheus"
        return "" if TRAINING_PYTHON.exists() else "torch is missing: make training-env"

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
        broker = self._stack.enter_context(LocalKafka(self._directory / "kafka"))
        self._children = self._stack.enter_context(Children())
        self.settings = self._settings(broker.bootstrap_servers)
        kafka_topics.create_topics(self.settings.kafka, self.settings.topics)
        for worker in ("worker", "worker-2"):
            self._service("worker", name=worker)
        self._service("statistics")
        self._service("archive")
        self._service("retrain", "--every", RETRAIN_EVERY, python=TRAINING_PYTHON)
        self._service("gateway")
        self._run_prometheus()
        self.wait_until("Prometheus is ready", lambda: self._get("/-/ready") is not None)
        self.wait_until("every process is scraped", self._is_scraped)
        self.wait_until("both workers serve", lambda: self.value("sum(nextclick_ready)") == 2)
        self.began = time.time()
        rate = ("--clicks-per-second", str(self._clicks_per_second), "--seed", "1")
        flags = settings_as_flags(self.settings)
        self._run("simulate", [sys.executable, "-m", "stream_app", "simulate", *flags, *rate])
        gateway = f"http://127.0.0.1:{self.settings.gateway.port}"
        self._run("callers", [sys.executable, "-m", CALLERS, gateway, "--seed", "1"])

    def _settings(self, bootstrap_servers: str) -> Settings:
        return load_settings(
            {
                "kafka.bootstrap_servers": bootstrap_servers,
                "registry": str(self._directory / "registry"),
                "click_log": str(self._directory / "click-log"),
                "data_dir": str(self._directory / "data"),
                "gateway.port": free_port(),
                "serving.standby_copies": 1,
                "archive.flush_seconds": 10,
                "retrain.sessions_min": 1500,
                "retrain.replay_clicks": 50_000,
            },
            environment={},
        )

    def _service(
        self, command: str, *flags: str, name: str = "", python: Path = Path(sys.executable)
    ) -> None:
        name, port = name or command, free_port()
        self._targets.setdefault(f"nextclick-{command}", []).append(f"127.0.0.1:{port}")
        own = self.settings.model_copy(
            update={"metrics": MetricsSettings(port=port), "data_dir": self._directory / name}
        )
        program = [python, "-m", "stream_app", command, *settings_as_flags(own), *flags]
        self._services[name] = program
        self._run(name, program)

    def _run(self, name: str, program: Sequence[str | Path]) -> None:
        log = self._directory / f"{name}.log"
        self._children.start(name, program, log, env=environment_of_children())

    def _run_prometheus(self) -> None:
        file = self._directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(self._scrape_config()))
        flags = (
            f"--config.file={file}",
            f"--storage.tsdb.path={self._directory / 'prometheus'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        )
        self._run("prometheus", ["prometheus", *flags])

    def _scrape_config(self) -> Mapping[str, Any]:
        """The delivered one: its jobs and rules, with targets on this machine and nobody to tell."""
        delivered = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        every = f"{SCRAPE_SECONDS}s"
        return {
            "global": {**delivered["global"], "scrape_interval": every, "scrape_timeout": every},
            "rule_files": [str(PROMETHEUS / pattern) for pattern in delivered["rule_files"]],
            "scrape_configs": [
                {"job_name": job["job_name"], "static_configs": [{"targets": targets}]}
                for job in delivered["scrape_configs"]
                if (targets := self._targets.get(job["job_name"]))
            ],
        }

    # -- looking on -----------------------------------------------------------------------------------

    def wait_until(self, what: str, holds: Callable[[], bool]) -> float:
        """Seconds it took.  Fails with `what`, and with the log of a process that has ended."""
        began = time.monotonic()
        while not holds():
            for child, status in self._children.ended():
                raise AssertionError(f"{child.name} ended with {status}: {child.last_lines()}")
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise AssertionError(f"waited {PATIENCE_SECONDS:.0f} s in vain: {what}")
            time.sleep(1)
        return time.monotonic() - began

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.wait_until("time passes", lambda: time.monotonic() >= until)

    def live_version(self) -> str | None:
        release = read_latest(self.settings.kafka, self.settings.topics.releases)
        return release.model_version if release else None

    def restart(self, service: str) -> None:
        """It is away for a moment, as at a deployment; others take over."""
        self._children.stop(service, seconds=60)
        self.run_for(20)
        self._run(service, self._services[service])

    def send_junk(self) -> None:
        """Some records that are no clicks."""
        producer = Producer({"bootstrap.servers": self.settings.kafka.bootstrap_servers})
        for junk in JUNK:
            producer.produce(self.settings.topics.clicks, junk, key=b"junk")
        producer.flush(30)

    def value(self, query: str) -> float | None:
        """The first value of an instant query."""
        result = self.ask("/api/v1/query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def over_time(self, query: str, *, step_seconds: int) -> list[dict[str, Any]]:
        """The series of a query since the shop opened, as Prometheus gives them."""
        answer = self.ask(
            "/api/v1/query_range",
            query=query,
            start=f"{self.began}",
            end=f"{time.time()}",
            step=f"{step_seconds}",
        )
        result: list[dict[str, Any]] = answer["result"]
        return result

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._get(f"{path}?{urllib.parse.urlencode(parameters)}")
        assert answer is not None, f"Prometheus does not answer {path} {parameters}"
        return json.loads(answer)["data"]

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read()[:500]!r}") from error
        except OSError:
            return None

    def _is_scraped(self) -> bool:
        return self.value("sum(up)") == sum(map(len, self._targets.values()))

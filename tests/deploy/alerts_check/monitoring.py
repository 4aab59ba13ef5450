"""Real Prometheus and Alertmanager with the delivered files, sped up; and somebody who is told."""

import json
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from stream_app.demo.children import Children
from stream_app.demo.workspace import environment_of_children, free_port
from tests.deploy.alerts_check.rules import (
    ALERTMANAGER,
    PROMETHEUS,
    RULE_FILES,
    load,
    shortened,
    shortened_duration,
)
from tests.integration.processes import wait_until

SCRAPE_SECONDS: Final = 1
ALERTMANAGER_PROGRAMS: Final = ("prometheus-alertmanager", "alertmanager")
_ROUTE_DURATIONS: Final = ("group_wait", "group_interval", "repeat_interval")


def missing_programs() -> str:
    """What is not installed, with how to get it; empty where all is there."""
    if shutil.which("prometheus") is None:
        return "prometheus is missing: apt-get install prometheus"
    if not any(map(shutil.which, ALERTMANAGER_PROGRAMS)):
        return "alertmanager is missing: apt-get install prometheus-alertmanager"
    return ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What the receiver was told of one alert."""

    alert: str
    is_firing: bool
    receiver: str
    at: float
    """Monotonic seconds."""
    summary: str


class Receiver:
    """A webhook on loopback that remembers what it is told."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        notices = self.notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                now = time.monotonic()
                notices.extend(
                    Notice(
                        alert["labels"]["alertname"],
                        alert["status"] == "firing",
                        body["receiver"],
                        now,
                        alert["annotations"].get("summary", ""),
                    )
                    for alert in body["alerts"]
                )
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """What it was told is in `notices`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class Monitoring:
    """The delivered configuration with targets on loopback, a scrape and an evaluation each second, and
    all durations of rules and routes divided by `factor`."""

    def __init__(
        self, children: Children, directory: Path, *, factor: float, receiver: Receiver
    ) -> None:
        self.directory, self.factor = directory, factor
        self._children, self._receiver = children, receiver
        self.url = f"http://127.0.0.1:{free_port()}"
        self._alertmanager = f"127.0.0.1:{free_port()}"
        (directory / "rules").mkdir(parents=True)
        (directory / "targets").mkdir()

    def start(self) -> None:
        self._write_configuration()
        program = next(p for p in ALERTMANAGER_PROGRAMS if shutil.which(p))
        self._run(
            "alertmanager",
            program,
            f"--config.file={self.directory / 'alertmanager.yml'}",
            f"--storage.path={self.directory / 'alertmanager'}",
            f"--web.listen-address={self._alertmanager}",
            "--cluster.listen-address=",
        )
        self._run(
            "prometheus",
            "prometheus",
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'prometheus'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        )
        wait_until("Prometheus is ready", lambda: self._answers(f"{self.url}/-/ready"))
        wait_until(
            "Alertmanager is ready", lambda: self._answers(f"http://{self._alertmanager}/-/ready")
        )

    def watch(self, job: str, targets: Iterable[str]) -> None:
        """These are the targets of a job from now on; as service discovery would say."""
        file = self.directory / "targets" / f"{job}.json"
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps([{"targets": list(targets)}]))
        fresh.rename(file)

    def firing(self) -> set[str]:
        """Alerts that fire now."""
        found = self._get("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    def fired_since(self, began: float) -> dict[str, float]:
        """Alerts that fired at some time since (wall clock), and for how many seconds."""
        answer = self._get(
            "/api/v1/query_range",
            query='sum by (alertname) (ALERTS{alertstate="firing"})',
            start=f"{began}",
            end=f"{time.time()}",
            step=f"{SCRAPE_SECONDS}",
        )
        return {row["metric"]["alertname"]: len(row["values"]) for row in answer["result"]}

    def value(self, query: str) -> float | None:
        """The first value of an instant query."""
        result = self._get("/api/v1/query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def _get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _run(self, name: str, *command: str) -> None:
        log = self.directory / f"{name}.log"
        self._children.start(name, command, log, env=environment_of_children())

    # -- the delivered files, sped up -----------------------------------------------------------------

    def _write_configuration(self) -> None:
        for path in RULE_FILES:
            _write(self.directory / "rules" / path.name, shortened(load(path), self.factor))
        _write(self.directory / "prometheus.yml", self._prometheus())
        _write(self.directory / "alertmanager.yml", self._routes())

    def _prometheus(self) -> Mapping[str, Any]:
        config = load(PROMETHEUS / "prometheus.yml")
        jobs = [
            {
                "job_name": job["job_name"],
                "file_sd_configs": [{"files": [f"targets/{job['job_name']}.json"]}],
            }
            for job in config["scrape_configs"]
            if job["job_name"].startswith("nextclick-")
        ]
        every = f"{SCRAPE_SECONDS}s"
        return {
            "global": {
                "scrape_interval": every,
                "scrape_timeout": every,
                "evaluation_interval": every,
            },
            "rule_files": config["rule_files"],
            "alerting": {
                "alertmanagers": [{"static_configs": [{"targets": [self._alertmanager]}]}]
            },
            "scrape_configs": jobs,
        }

    def _routes(self) -> Mapping[str, Any]:
        config = load(ALERTMANAGER)
        hook = {"webhook_configs": [{"url": self._receiver.url, "send_resolved": True}]}
        return {
            **config,
            "route": self._sped_up(config["route"]),
            "receivers": [{"name": receiver["name"], **hook} for receiver in config["receivers"]],
        }

    def _sped_up(self, route: Mapping[str, Any]) -> Mapping[str, Any]:
        durations = {
            name: shortened_duration(route[name], self.factor)
            for name in _ROUTE_DURATIONS
            if name in route
        }
        routes = [self._sped_up(inner) for inner in route.get("routes", [])]
        return {**route, **durations, **({"routes": routes} if routes else {})}


def _write(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

"""A compose project as the check drives it: up, down, one container's state, what Prometheus saw."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from deploy.compose.check.machine import Docker
from stream_app.core.errors import InvariantError, ServiceAwayError

PORTS: Final = {
    "KAFKA_PORT": "29092",
    "PROMETHEUS_PORT": "29090",
    "ALERTMANAGER_PORT": "29093",
    "GRAFANA_PORT": "23000",
    "GATEWAY_PORT": "28480",
}
"""Not the usual ones, so that the check disturbs nobody who uses those."""
UP_SECONDS: Final = 900

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    name: str
    service: str
    process: int
    """Process id on this machine; 0: not running."""
    address: str
    health: str
    """healthy, unhealthy, starting, or empty where there is no healthcheck."""
    started_at: str
    restarts: int
    network: str


@dataclass(frozen=True, slots=True)
class Stack:
    """One project of a checkout.  files: relative to it, the override last."""

    docker: Docker
    checkout: Path
    project: str = "nextclick-check"
    files: tuple[str, ...] = ("docker-compose.yml",)
    profiles: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, timeout: float = UP_SECONDS) -> str:
        files = [word for name in self.files for word in ("-f", name)]
        profiles = [word for name in self.profiles for word in ("--profile", name)]
        return self.docker.docker(
            *("compose", "-p", self.project, *files, *profiles, *arguments),
            timeout=timeout,
            variables={**PORTS, **self.variables},
            cwd=self.checkout,
        )

    def up(self, *arguments: str) -> None:
        """Everything up and healthy.  Raises `ServiceAwayError` with the logs' ends if it does not come."""
        try:
            self.compose("up", "-d", "--wait", *arguments)
        except ServiceAwayError as error:
            logs = self.compose("logs", "--no-color", "--tail", "15")
            raise ServiceAwayError(f"{error}\n{self.compose('ps', '-a')}\n{logs}") from error

    def down(self, *arguments: str) -> None:
        self.compose("down", "--timeout", "60", *arguments)

    def containers(self, service: str | None = None) -> list[Container]:
        ids = self.compose("ps", "-aq", *([service] if service else [])).split()
        if not ids:
            return []
        details = json.loads(self.docker.docker("inspect", *ids))
        return sorted(map(_container, details), key=lambda found: found.name)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """An instant query: Prometheus's result vector."""
        words = urllib.parse.urlencode({"query": query})
        address = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}/api/v1/query?{words}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])

    def volume(self, name: str) -> Path:
        """Where a volume's files lie on this machine."""
        found = self.docker.docker(
            "volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.project}_{name}"
        )
        return Path(found.strip())


def _container(detail: Mapping[str, Any]) -> Container:
    state, labels = detail["State"], detail["Config"]["Labels"]
    networks = detail["NetworkSettings"]["Networks"]
    network = next(iter(networks), "")
    return Container(
        id=detail["Id"],
        name=detail["Name"].lstrip("/"),
        service=labels["com.docker.compose.service"],
        process=state["Pid"],
        address=networks[network]["IPAddress"] if network else "",
        health=state.get("Health", {}).get("Status", ""),
        started_at=state["StartedAt"],
        restarts=detail["RestartCount"],
        network=network,
    )


def wait_for(what: str, look: Callable[[], T | None], *, seconds: float, every: float = 0.5) -> T:
    """The first result of `look` that is neither None nor False.  Raises `InvariantError` in the end."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except OSError:
            found = None
        if found:
            return found
        if time.monotonic() > deadline:
            raise InvariantError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)

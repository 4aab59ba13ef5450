"""The demo's children by name: how each is started, and what is done when one ends by itself."""

import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream_app.core.errors import InvariantError, ServiceAwayError
from stream_app.demo.children import Child, Children
from stream_app.demo.options import DemoOptions
from stream_app.demo.recorded_log import RecordedLog
from stream_app.demo.workspace import Workspace, environment_of_children, free_port
from stream_app.settings import GatewaySettings, variable_of

WORKER: Final = "worker"
STATISTICS: Final = "statistics"
ARCHIVE: Final = "archive"
GATEWAY: Final = "gateway"
TRAFFIC: Final = "traffic"
RETRAIN: Final = "retrain"
REFRESH: Final = "refresh"

RESTARTS_MAX: Final = 5
"""More restarts of one child than this within a minute, and something is wrong for good."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A child that ended and was not restarted."""

    name: str
    status: int
    log: str
    """The end of what it said."""


class Services:
    """Starts the children, restarts those that ask for it (status 70) or were killed."""

    def __init__(
        self,
        workspace: Workspace,
        children: Children,
        options: DemoOptions,
        say: Callable[[str], None],
    ) -> None:
        self._workspace, self._children, self._options = workspace, children, options
        self._say = say
        self._worker_port = free_port()
        self._commands: dict[str, tuple[list[str | Path], bool]] = {}
        self._restarts: dict[str, deque[float]] = {}
        self.problems: list[Problem] = []
        self.restarts = 0
        self.traffic_is_over = False

    def start_serving(self, gateway: GatewaySettings) -> None:
        """Worker, statistics, archive, gateway."""
        self._start(WORKER, self._nextclick(WORKER, {"--metrics-port": self._worker_port}))
        self._start(STATISTICS, self._nextclick(STATISTICS))
        self._start(ARCHIVE, self._nextclick(ARCHIVE))
        self._gateway = gateway
        self._start(GATEWAY, self._nextclick(GATEWAY))

    def start_traffic(self, recorded: RecordedLog | None) -> None:
        """recorded: the part of the log to stream; None: the simulated shop."""
        options = self._options
        flags: dict[str, object] = {"--report": self._workspace.traffic_report}
        if recorded is None or options.data is None:
            flags |= {"--clicks-per-second": options.clicks_per_second, "--seed": options.seed}
            self._start(TRAFFIC, self._nextclick("simulate", flags))
            return
        flags |= {
            "--speed": options.speed or f"{recorded.speed:.6g}",
            "--from": recorded.stream_from_ms,
            "--until": recorded.stream_until_ms,
        }
        if options.format is not None:
            flags["--format"] = options.format
        if options.columns:
            flags["--columns"] = ",".join(f"{k}={v}" for k, v in options.columns.items())
        self._start(TRAFFIC, self._nextclick("replay", flags, options.data.absolute()))

    def start_retraining(self, python: Path) -> None:
        """In the training environment, on what the others leave of the processor."""
        flags = {
            "--every": f"{self._options.retrain_every_seconds:g}s",
            "--data-dir": self._workspace.root / "retrain",
        }
        self._start(RETRAIN, self._nextclick(RETRAIN, flags, python=python), nice=True)

    def start_refreshing(self, python: Path) -> None:
        """Likewise; between two trainings."""
        flags = {
            "--every": f"{self._options.refresh_every_seconds:g}s",
            "--data-dir": self._workspace.root / "refresh",
        }
        self._start(REFRESH, self._nextclick(REFRESH, flags, python=python), nice=True)

    def worker_is_ready(self) -> bool:
        return _says_ready("127.0.0.1", self._worker_port)

    @property
    def page(self) -> str:
        """Address of the gateway's page."""
        return f"http://{_in_url(self._gateway.host)}:{self._gateway.port}/"

    def page_is_ready(self) -> bool:
        gateway = self._gateway
        return self.is_running(GATEWAY) and _says_ready(_in_url(gateway.host), gateway.port)

    def is_running(self, name: str) -> bool:
        return self._children.get(name) is not None

    def stop(self, *names: str) -> None:
        self._children.stop(*names)

    def look_after(self) -> None:
        """Restart who may be restarted; note who may not.

        Raises `ServiceAwayError` where the demo cannot go on without it (worker, traffic).
        """
        for child, status in self._children.ended():
            if child.name not in self._commands:
                continue
            if child.name == TRAFFIC and status == 0:
                self.traffic_is_over = True
            elif self._may_restart(child.name, status):
                self.restarts += 1
                self._say(f"{child.name} ended with status {status} and was started again")
                self._start(child.name, *self._commands[child.name])
            else:
                self._give_up(child, status)

    def _may_restart(self, name: str, status: int) -> bool:
        asked_for_it = status == InvariantError.exit_status or status < 0
        if name in (TRAFFIC, RETRAIN, REFRESH) or not asked_for_it:
            return False
        times = self._restarts.setdefault(name, deque(maxlen=RESTARTS_MAX))
        now = time.monotonic()
        if len(times) == RESTARTS_MAX and now - times[0] < 60:
            return False
        times.append(now)
        return True

    def _give_up(self, child: Child, status: int) -> None:
        problem = Problem(child.name, status, child.last_lines())
        self.problems.append(problem)
        if child.name in (WORKER, TRAFFIC):
            raise ServiceAwayError(
                f"{child.name} ended with status {status}; the end of {child.log_file}:\n{problem.log}"
            )
        self._say(f"{child.name} ended with status {status}; the demo goes on without it")

    def _start(self, name: str, command: list[str | Path], nice: bool = False) -> None:
        self._commands[name] = (command, nice)
        env = dict(environment_of_children())
        if name == GATEWAY and self._gateway.token and not self._gateway.token_file:
            env[variable_of("gateway.token")] = self._gateway.token  # in no file, in no argument
        self._children.start(name, command, self._workspace.log(name), env=env, nice=nice)

    def _nextclick(
        self,
        command: str,
        flags: Mapping[str, object] | None = None,
        *arguments: Path,
        python: Path | None = None,
    ) -> list[str | Path]:
        given = [str(part) for flag in (flags or {}).items() for part in flag]
        settings = ["--settings", str(self._workspace.settings_file)]
        program = [str(python or sys.executable), "-m", "stream_app"]
        return [*program, command, *settings, *given, *arguments]


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _says_ready(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

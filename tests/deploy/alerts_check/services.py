"""nextclick's processes as an operator runs them: started again when they end, unless they are meant to be away."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from stream_app.cli.options import settings_as_flags
from stream_app.demo.children import Child, Children
from stream_app.demo.workspace import environment_of_children, free_port
from stream_app.settings import Settings
from tests.deploy.alerts_check.rules import REPOSITORY

TRAINING_PYTHON: Final = REPOSITORY / ".venv-training" / "bin" / "python"
FAULTY_WORKER: Final = ("-m", "tests.chaos.worker")
"""The worker itself, which may be held up at a named point."""


class Service:
    """One process by name, on a metrics port of its own that it keeps over restarts."""

    def __init__(
        self,
        children: Children,
        name: str,
        command: Sequence[str],
        settings: Settings,
        logs: Path,
        *,
        python: Path = Path(sys.executable),
        job: str = "",
    ) -> None:
        """command: the nextclick command with its flags.  job: Prometheus's name of it, none: not scraped."""
        self.name, self.job, self.port = name, job, free_port()
        self.settings = settings.model_copy(
            update={"metrics": settings.metrics.model_copy(update={"port": self.port})}
        )
        self._children, self._python, self._log = children, python, logs / f"{name}.log"
        self._command = tuple(command)
        self._arguments: list[str] = []
        self.is_wanted = False
        """Whether it is started again when it ends."""

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self, *more: str, program: Sequence[str] = ()) -> None:
        """more: flags for this life only.  program: what to run in place of the nextclick command."""
        parts = program or ("-m", "stream_app", *self._command)
        metrics = settings_as_flags(self.settings) if self.job else _without_port(self.settings)
        self._arguments = [str(self._python), *parts, *metrics, *more]
        self.is_wanted = True
        self._start()

    def kill(self) -> None:
        """kill -9; it stays away until it is started."""
        self.is_wanted = False
        self._signal(signal.SIGKILL)
        self._children.stop(self.name)

    def stop(self) -> None:
        """As a supervisor would, also where it is paused."""
        self.is_wanted = False
        self._signal(signal.SIGCONT)
        self._children.stop(self.name, seconds=40)

    def crash(self) -> None:
        """kill -9; whoever looks after it starts it again."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def look_after(self) -> bool:
        """Start it again where it has ended and should run; whether it had."""
        if not self.is_wanted or self._running is not None:
            return False
        self._start()
        return True

    @property
    def _running(self) -> Child | None:
        child = self._children.get(self.name)
        if child is not None and child.poll() is not None:
            self._children.stop(self.name)
            return None
        return child

    def _signal(self, number: int) -> None:
        child = self._running
        if child is not None:
            child.signal(number)

    def _start(self) -> None:
        self._children.start(self.name, self._arguments, self._log, env=_environment())


def _environment() -> Mapping[str, str]:
    return {
        **environment_of_children(),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH")))
        ),
    }


def _without_port(settings: Settings) -> list[str]:
    return settings_as_flags(
        settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"port": 0})})
    )

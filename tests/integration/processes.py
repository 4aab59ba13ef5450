"""nextclick's own processes, started as a user starts them, and what they say over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from stream_app.cli.options import settings_as_flags
from stream_app.settings import Settings

PATIENCE_SECONDS = 60.0
REPOSITORY = Path(__file__).parents[2]


def wait_until(what: str, holds: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask until it holds; fails with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = holds()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")


class NextclickProcess:
    """`nextclick COMMAND` with these settings; its log in a file; killed at the end if still there."""

    def __init__(
        self,
        command: str,
        settings: Settings,
        directory: Path,
        *more: str,
        program: Sequence[str] = (),
    ) -> None:
        """program: arguments to Python in place of the program and the command."""
        self.log_file = directory / f"{command}-{time.monotonic_ns()}.log"
        self._log = self.log_file.open("wb")
        self.process = subprocess.Popen(
            [
                sys.executable,
                *(program or ("-m", "stream_app", command)),
                *settings_as_flags(settings),
                *more,
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=directory,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("NEXTCLICK_")},
                "PYTHONPATH": str(REPOSITORY),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of that event."""
        found = []
        for line in self.log.splitlines():
            if line.startswith("{"):
                entry = json.loads(line)
                if entry.get("event") == name:
                    found.append(entry)
        return found

    def wait_for_event(self, name: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        def seen() -> Any:
            if self.process.poll() is not None and not self.events(name):
                raise AssertionError(f"ended with {self.process.returncode}: {self.log[-3000:]}")
            return self.events(name)

        return wait_until(f"{name} in {self.log_file.name}", seen, seconds)[-1]

    def kill(self) -> None:
        """As the kernel or a power cut would: no handler runs."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """As a supervisor would; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def metrics(self, port: int) -> dict[str, float]:
        """Samples of /metrics by name and labels, `name{label="value"}`."""
        samples = {}
        for line in get(port, "/metrics")[1].splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; status 0 while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""

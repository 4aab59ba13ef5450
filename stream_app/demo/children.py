"""Child processes of the demo: each in a group of its own, its output in a file, none left behind."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stream_app.core.errors import ServiceAwayError

STOP_SECONDS: Final = 15.0
"""A child that has not ended so long after SIGTERM is killed."""

_WATCHDOG: Final = """
trap '' INT TERM HUP
groups=' '
while read -r sign group; do
  case $sign in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
set -- $groups
[ $# -gt 0 ] || exit 0
for group; do kill -s TERM -- "-$group" 2>/dev/null; done
sleep 5
for group; do kill -s KILL -- "-$group" 2>/dev/null; done
"""
"""Is told which groups run, and ends them when our end of its pipe closes: also if we are killed."""


class Child:
    """One process, started at once, with everything it starts itself."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log_file: Path,
        *,
        env: Mapping[str, str],
        nice: bool = False,
    ) -> None:
        """nice: only take what others leave of the processor.  The log is appended to.

        Raises `ServiceAwayError` if the program cannot be started.
        """
        self.name = name
        self.log_file = log_file
        self.started_at = time.monotonic()
        argv = [str(part) for part in command]
        if nice and shutil.which("nice"):
            argv = ["nice", "-n", "10", *argv]
        try:
            with log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(env),
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceAwayError(
                f"{name} cannot be started: {argv[0]}: {error.strerror}"
            ) from error
        self.pid = self._process.pid
        """Also the number of its process group."""

    def poll(self) -> int | None:
        """Exit status, negative for the signal that ended it; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """To the whole group, if it still runs."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def last_lines(self, count: int = 8) -> str:
        try:
            text = self.log_file.read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.strip().splitlines()[-count:]) or "(it said nothing)"

    def wait(self, seconds: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None


class Children:
    """All running children.  A context manager: leaving it ends them all, newest first."""

    def __init__(self) -> None:
        self._running: dict[str, Child] = {}
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "nextclick-watchdog"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(*reversed(list(self._running)))
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        log_file: Path,
        *,
        env: Mapping[str, str],
        nice: bool = False,
    ) -> Child:
        """See `Child`.  A name runs once at a time."""
        assert name not in self._running, name
        child = Child(name, command, log_file, env=env, nice=nice)
        self._running[name] = child
        self._tell_watchdog("+", child)
        return child

    def get(self, name: str) -> Child | None:
        return self._running.get(name)

    def ended(self) -> list[tuple[Child, int]]:
        """Children that ended by themselves since the last call, with their exit statuses."""
        found = []
        for child in list(self._running.values()):
            status = child.poll()
            if status is not None:
                self._forget(child)
                found.append((child, status))
        return found

    def stop(self, *names: str, seconds: float = STOP_SECONDS) -> None:
        """SIGTERM to all of them at once, and wait; SIGKILL to whoever takes too long."""
        stopping = [child for name in names if (child := self._running.get(name)) is not None]
        for child in stopping:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for child in stopping:
            if child.wait(max(deadline - time.monotonic(), 0.0)) is None:
                child.signal(signal.SIGKILL)
                child.wait(5)
            self._forget(child)

    def _forget(self, child: Child) -> None:
        child.signal(signal.SIGKILL)  # what it may have left of its group
        self._running.pop(child.name, None)
        self._tell_watchdog("-", child)

    def _tell_watchdog(self, sign: str, child: Child) -> None:
        assert self._watchdog.stdin is not None
        with suppress(BrokenPipeError):
            self._watchdog.stdin.write(f"{sign} {child.pid}\n".encode())
            self._watchdog.stdin.flush()

"""Which broker runs on a data directory: a pid file there, checked against the process table."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

PID_FILE: Final = "broker.pid"
STOP_TIMEOUT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """What the pid file in a data directory says, checked against the process table."""

    pid: int
    bootstrap_servers: str


def remember(data_dir: Path, pid: int, bootstrap_servers: str) -> None:
    """Write the pid file of a broker that is ready."""
    facts = {
        "pid": pid,
        "create_time": psutil.Process(pid).create_time(),
        "bootstrap_servers": bootstrap_servers,
    }
    (data_dir / PID_FILE).write_text(json.dumps(facts))


def forget(data_dir: Path) -> None:
    (data_dir / PID_FILE).unlink(missing_ok=True)


def find_running(data_dir: Path) -> RunningBroker | None:
    """The broker that runs on `data_dir`, if the pid file there names a living process of ours.

    A process id is used again after a while, so the start time recorded beside it must match too.
    """
    try:
        facts = json.loads((data_dir / PID_FILE).read_text())
        process = psutil.Process(int(facts["pid"]))
        same = abs(process.create_time() - float(facts["create_time"])) < 1.0
        if same and process.status() != psutil.STATUS_ZOMBIE and process.name().startswith("java"):
            return RunningBroker(process.pid, str(facts["bootstrap_servers"]))
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        pass
    return None


def stop_running(data_dir: Path) -> RunningBroker | None:
    """Stop the broker that runs on `data_dir` and wait until it is gone; None if none runs."""
    running = find_running(data_dir)
    if running is None:
        return None
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(running.pid)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(5)
    forget(data_dir)
    return running

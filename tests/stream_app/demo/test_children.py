"""Child processes of the demo: restarted, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stream_app.core.errors import ServiceAwayError
from stream_app.demo.children import Children

SHELL = ["/bin/sh", "-c"]


def wait_until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def number_in(file: Path) -> int:
    wait_until(lambda: file.exists() and file.read_text().strip())
    return int(file.read_text())


def test_a_child_that_ends_is_reported_once_with_its_status_and_last_words(tmp_path: Path) -> None:
    with Children() as children:
        log = tmp_path / "log"
        children.start("x", [*SHELL, "echo one; echo two >&2; exit 3"], log, env=os.environ)
        ended: list[tuple[str, int, str]] = []
        wait_until(
            lambda: ended.extend((c.name, s, c.last_lines(1)) for c, s in children.ended()) or ended
        )
        assert ended == [("x", 3, "two")]
        assert children.get("x") is None
        assert children.ended() == []


def test_leaving_ends_whole_groups_grandchildren_included(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with Children() as children:
        script = f"sleep 1000 & echo $! > {pid_file}; wait"
        child = children.start("x", [*SHELL, script], tmp_path / "log", env=os.environ)
        grandchild = number_in(pid_file)
        assert runs(grandchild)
    assert not runs(child.pid)
    wait_until(lambda: not runs(grandchild), 2)


def test_a_child_that_will_not_stop_is_killed(tmp_path: Path) -> None:
    with Children() as children:
        stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
        child = children.start("x", [*SHELL, stubborn], tmp_path / "log", env=os.environ)
        wait_until(lambda: "ready" in child.last_lines())
        children.stop("x", seconds=0.3)
        assert child.poll() == -signal.SIGKILL


def test_nothing_survives_even_if_the_demo_itself_is_killed(tmp_path: Path) -> None:
    """Also a child that ignores SIGTERM; a child that had ended before is not looked for."""
    program = f"""
        import os, time
        from pathlib import Path
        from stream_app.demo.children import Children
        children = Children()
        log = Path({str(tmp_path / "log")!r})
        done = children.start("done", ["/bin/true"], log, env=os.environ)
        one = children.start("one", ["sleep", "1000"], log, env=os.environ)
        two = children.start(
            "two", ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], log, env=os.environ
        )
        while not children.ended(): time.sleep(0.01)
        print(one.pid, two.pid, flush=True)
        time.sleep(1000)
    """
    demo = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    with demo:
        assert demo.stdout is not None
        pids = [int(part) for part in demo.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(runs, pids))
        demo.kill()
    wait_until(lambda: not any(map(runs, pids)), 15)


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    with Children() as children, pytest.raises(ServiceAwayError, match="x cannot be started"):
        children.start("x", ["/no/such/program"], tmp_path / "log", env=os.environ)

"""Which process runs on which core, where the system lets us say so (Linux)."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def cores() -> list[int]:
    """Those this process may use; empty where processes cannot be pinned."""
    if not hasattr(os, "sched_setaffinity") or not Path("/proc/self/task").is_dir():
        return []
    return sorted(os.sched_getaffinity(0))


def pin(pid: int, to: Collection[int]) -> None:
    """Every thread there is; those to come inherit it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), to)


@contextmanager
def apart(worker_pid: int, *others: int) -> Iterator[None]:
    """The worker on one core; this process, those it starts and `others` on the rest.  Then as before."""
    ours = cores()
    if len(ours) < 2:
        yield
        return
    everybody = (os.getpid(), *others)
    pin(worker_pid, ours[:1])
    for pid in everybody:
        pin(pid, ours[1:])
    try:
        yield
    finally:
        for pid in (worker_pid, *everybody):
            if psutil.pid_exists(pid):
                pin(pid, ours)


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used so far, the kernel's on its behalf included."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)

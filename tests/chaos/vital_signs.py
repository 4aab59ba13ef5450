"""How a process is while it works: memory, handles, threads, the disk; and whether any of it grows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import psutil

MEGABYTE: Final = 2**20
SECONDS_PER_HOUR: Final = 3600
GROWTH_MAX: Final = 16
"""Handles or threads by which all of the last quarter of a run may exceed all of the second."""


@dataclass(frozen=True)
class Signs:
    """One look at a worker."""

    at_seconds: float
    """Since the begin of the run."""
    rss_bytes: int
    """Memory that is present, shared pages in full."""
    pss_bytes: int
    """The same, a page that n processes share counted as 1/n."""
    rocksdb_bytes: int
    """RocksDB's own memory, memtables and block cache."""
    handles: int
    threads: int
    disk_bytes: int
    """RocksDB's files."""
    sessions: int
    """Begun and not removed."""

    @property
    def without_rocksdb_bytes(self) -> int:
        """What no memtable explains, which fills up to 64 MB and is dropped."""
        return self.pss_bytes - self.rocksdb_bytes


class Slope(NamedTuple):
    """Change per hour, and its standard error as far as samples are independent of each other."""

    per_hour: float
    error: float


def look(process: psutil.Process, metrics: Mapping[str, float], *, at: float, begun: int) -> Signs:
    """at: seconds since the begin of the run.  begun: sessions so far; the worker counts those removed."""
    with process.oneshot():
        memory = process.memory_full_info()
        return Signs(
            at_seconds=at,
            rss_bytes=memory.rss,
            pss_bytes=memory.pss,
            rocksdb_bytes=sum(
                int(value)
                for name, value in metrics.items()
                if name.startswith("nextclick_store_memory_bytes")
            ),
            handles=process.num_fds(),
            threads=process.num_threads(),
            disk_bytes=int(metrics["nextclick_store_disk_bytes"]),
            sessions=begun - int(metrics["nextclick_expired_sessions_total"]),
        )


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Least squares of a straight line; needs three points.

    The error is sqrt(sum of squared residuals / (n - 2) / sum of squared distances from the mean time).
    A saw-tooth's residuals follow each other, so that the true error is larger.
    """
    n = len(seconds)
    if n < 3:
        raise ValueError(f"a slope and its error need three points, got {n}")
    mean_seconds, mean = math.fsum(seconds) / n, math.fsum(values) / n
    spread = math.fsum((s - mean_seconds) ** 2 for s in seconds)
    per_second = (
        math.fsum((s - mean_seconds) * (v - mean) for s, v in zip(seconds, values, strict=True))
        / spread
    )
    residuals = math.fsum(
        (v - mean - per_second * (s - mean_seconds)) ** 2
        for s, v in zip(seconds, values, strict=True)
    )
    error = math.sqrt(residuals / (n - 2) / spread)
    return Slope(per_second * SECONDS_PER_HOUR, error * SECONDS_PER_HOUR)


def second_half(course: Sequence[Signs]) -> Sequence[Signs]:
    """The looks after the middle of the time: what fills up only once is full by then."""
    middle = (course[0].at_seconds + course[-1].at_seconds) / 2
    return [signs for signs in course if signs.at_seconds >= middle]


def slope_of(course: Sequence[Signs], value: Callable[[Signs], float]) -> Slope:
    """Of one of the signs, over these looks."""
    return slope([signs.at_seconds for signs in course], [value(signs) for signs in course])


def growth_problems(course: Sequence[Signs]) -> list[str]:
    """Handles and threads that grow without an end: each look of the last quarter is above the second's."""
    quarter = len(course) // 4
    second, last = course[quarter : 2 * quarter], course[-quarter:]
    problems = []
    for name in ("handles", "threads"):
        before = max(getattr(signs, name) for signs in second)
        after = min(getattr(signs, name) for signs in last)
        if after > before + GROWTH_MAX:
            problems.append(f"{name} grow: {before} at most, later {after} at least")
    return problems


def in_words(signs: Signs) -> str:
    """A line of a table."""
    return (
        f"{signs.at_seconds:6.1f} s: RSS {signs.rss_bytes / MEGABYTE:.0f} MB, PSS "
        f"{signs.pss_bytes / MEGABYTE:.0f}, without RocksDB {signs.without_rocksdb_bytes / MEGABYTE:.0f}, "
        f"RocksDB on disk {signs.disk_bytes / MEGABYTE:.0f}, {signs.sessions} sessions, "
        f"{signs.handles} handles, {signs.threads} threads"
    )

"""The two things that are done to a worker, or to a program in its place: a backlog, and a steady load."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.bed import Stream, Worker, item_ids
from tests.benchmarks.cores import apart, cpu_seconds

SETTLE_SECONDS: Final = 0.5
"""After the last answer: states are written and clicks committed."""
RATES: Final = {200: 20.0, 1_000: 10.0}
"""Clicks/s, and for how many seconds at a time."""


@dataclass(frozen=True)
class BacklogRun:
    clicks_per_second: float
    """From the first answer to the last, by the answers' own Kafka timestamps."""
    cpu_us: float
    """CPU of the process per click: other work on the machine hardly changes it."""


@dataclass(frozen=True)
class LoadRun:
    ms: dict[float, float]
    """From when a click was due to the receipt of its answer, by percentile."""
    clicks_per_batch: float
    batch_cpu_ms: float
    """CPU of the process per batch, without what it uses when idle."""


def run_backlog(stream: Stream, worker: Worker, n: int, *, event_ids: bool = False) -> BacklogRun:
    """Hold the worker back, produce `n` clicks, let it loose on a core of its own."""
    clicks = stream.next_clicks(n, event_ids=event_ids)
    since = stream.answer_ends()
    with apart(worker.pid, *stream.bed.broker_pids):
        with _held_back(worker):
            stream.produce(clicks)
            cpu = cpu_seconds(worker.pid)
        stream.wait_for_answers(worker, n, since)
        time.sleep(SETTLE_SECONDS)
        cpu = cpu_seconds(worker.pid) - cpu
    times = stream.answer_times_ms(since)
    assert len(times) == n, f"{len(times)} answers to {n} clicks"
    return BacklogRun(clicks_per_second=rate(times), cpu_us=1e6 * cpu / n)


def run_loads(
    stream: Stream, worker: Worker, *, rates: Collection[int] = tuple(RATES)
) -> dict[int, list[LoadRun]]:
    """Steady loads one after the other, by clicks/s; all processes wherever the system puts them."""
    bed = stream.bed
    idle = _idle_cores(worker, 0.2 if bed.short else 10.0)
    return {
        rate: [
            _run_load(stream, worker, rate, bed.clicks(int(rate * RATES[rate])), idle, seed)
            for seed in range(bed.repeats)
        ]
        for rate in rates
    }


def _run_load(
    stream: Stream, worker: Worker, rate: int, clicks: int, idle_cores: float, seed: int
) -> LoadRun:
    began, cpu, batches = time.monotonic(), cpu_seconds(worker.pid), worker.batches
    answered = _load(stream, rate, clicks, seed)
    time.sleep(SETTLE_SECONDS)
    cpu = cpu_seconds(worker.pid) - cpu - idle_cores * (time.monotonic() - began)
    batches = worker.batches - batches
    return LoadRun(
        ms={float(percent): ms for percent, ms in answered["ms"].items()},
        clicks_per_batch=clicks / batches,
        batch_cpu_ms=1e3 * cpu / batches,
    )


def _idle_cores(worker: Worker, seconds: float) -> float:
    """CPU seconds per second that it uses while no clicks come."""
    cpu = cpu_seconds(worker.pid)
    time.sleep(seconds)
    return (cpu_seconds(worker.pid) - cpu) / seconds


def _load(stream: Stream, rate: int, clicks: int, seed: int) -> Any:
    options = {
        "bootstrap_servers": stream.settings.kafka.bootstrap_servers,
        "clicks_topic": stream.settings.topics.clicks,
        "recommendations": stream.settings.topics.recommendations,
        "clicks": clicks,
        "clicks_per_second": rate,
        "sessions": rate * 5,
        "seed": 1_000 * rate + seed,
        "items": item_ids(min(stream.n_items, 2_000)),
        "timeout_seconds": 120,
        "skip_warm_up": True,
    }
    client = Path(__file__).with_name("load.py")
    done = subprocess.run(
        [sys.executable, str(client), json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
    )
    answered = json.loads(done.stdout)
    assert answered["received"] == clicks, answered
    return answered


@contextmanager
def _held_back(worker: Worker) -> Iterator[None]:
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)


def rate(times_ms: Sequence[int]) -> float:
    """Answers per second; those of the first moment began the clock, so they do not count."""
    first, last = times_ms[0], times_ms[-1]
    after = sum(moment > first for moment in times_ms)
    return 1000 * after / max(1, last - first)

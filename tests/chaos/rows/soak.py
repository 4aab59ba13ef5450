"""Half an hour of visitors who come and go: does the worker grow, and do their sessions leave?

A day of event time passes in two minutes, so that sessions expire by the settings as delivered (a day of
silence, `serving.state_ttl_hours`) and the store comes to a steady state: as many leave as begin.  The
first half fills what fills up only once; slopes are taken over the second.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import psutil

from tests.chaos import evidence
from tests.chaos.inputs import note_of
from tests.chaos.lab import Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale, say
from tests.chaos.traffic import Visits
from tests.chaos.vital_signs import (
    MEGABYTE,
    Signs,
    Slope,
    growth_problems,
    in_words,
    look,
    second_half,
    slope,
    slope_of,
)
from tests.integration.processes import NextclickProcess

CLICKS_PER_SECOND: Final = 500
TTLS_BACK: Final = 3
"""Who comes back after so long was removed meanwhile, whatever the sweep's pace."""
PLACES: Final = 10
"""Parts of the run that the table shows."""
LOOKS_PER_LINE: Final = 12


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield soak(
        lab,
        scale,
        seconds=scale.times(1800, 6),
        look_every=scale.times(50, 5) / 10,
        ttl_seconds=scale.times(120, 1),
    )


def soak(
    lab: Lab, scale: Scale, *, seconds: float, look_every: float, ttl_seconds: float
) -> Finding:
    """Seconds of the wall clock; the TTL is an event time, and passes in `ttl_seconds`."""
    with lab.stream() as stream, aggregator(stream) as statistics:
        ttl = stream.settings.serving.state_ttl_hours * 3600
        visits = Visits(
            scale.seed,
            seconds_apart=ttl / ttl_seconds / CLICKS_PER_SECOND,
            back_after_seconds=TTLS_BACK * ttl,
        )
        worker = stream.start_worker()
        worker.wait_until_serving()
        with stream.load(CLICKS_PER_SECOND, visits):
            course, beside = watch(worker, statistics, visits, seconds=seconds, every=look_every)
        stream.wait_until_settled()
        removed = int(worker.samples["nextclick_expired_sessions_total"])
        say("soak: all is answered; now the replay")
        verdict = stream.judge(sessions_expire=True)
        problems = growth_problems(course) + expiry_problems(stream, worker, visits.begun, removed)
        p99 = p99_ms(stream)
    name = f"{seconds / 60:.2g} min at {CLICKS_PER_SECOND}/s"
    finding = verdict.finding(name, verdict.clicks)
    return replace(
        finding,
        failures=finding.failures + len(problems),
        figures=(*figures(course, beside, p99), ("sessions removed", removed, "sessions")),
        note=note_of(
            problems,
            *in_table(course, p99),
            f"{visits.begun} sessions began, {removed} were removed",
            *filter(None, [finding.note]),
        ),
    )


@contextmanager
def aggregator(stream: Stream) -> Iterator[psutil.Process]:
    """`nextclick statistics` beside the worker."""
    settings = stream.settings.model_copy(update={"data_dir": stream.directory / "statistics"})
    with NextclickProcess("statistics", settings, stream.directory) as statistics:
        statistics.wait_for_event("metrics_served")
        yield psutil.Process(statistics.process.pid)
        assert statistics.terminate() == 0, statistics.log[-2000:]


def watch(
    worker: Worker, statistics: psutil.Process, visits: Visits, *, seconds: float, every: float
) -> tuple[list[Signs], list[float]]:
    """Looks at the worker while clicks come in, and beside them the resident bytes of the aggregator."""
    process, port = psutil.Process(worker.process.pid), worker.port
    course: list[Signs] = []
    beside: list[float] = []
    began = time.monotonic()
    while (at := time.monotonic() - began) < seconds:
        course.append(look(process, worker.metrics(port), at=at, begun=visits.begun))
        beside.append(float(statistics.memory_info().rss))
        if len(course) % LOOKS_PER_LINE == 1:
            say(f"soak: {in_words(course[-1])}")
        time.sleep(max(0.0, len(course) * every - (time.monotonic() - began)))
    return course, beside


def expiry_problems(stream: Stream, worker: Worker, begun: int, removed: int) -> list[str]:
    """Every session that began was removed once, or is there.  After the worker was stopped."""
    there = sum(
        len(evidence.stored_sessions(worker.data_dir, stream.topic_id, partition))
        for partition in range(stream.topics.partitions)
    )
    problems = []
    if not removed:
        problems.append("no session was removed")
    if begun != removed + there:
        problems.append(f"{begun} sessions began, {removed} were removed, {there} are there")
    return problems


def p99_ms(stream: Stream) -> list[float]:
    """From click to answer, of each of the `PLACES` equal parts of the run; both times are Kafka's."""
    answers = stream.answers.answers
    times = [
        (click.timestamp, answers[click.partition, click.offset][0].timestamp_ms - click.timestamp)
        for click in evidence.read_topic(stream.kafka.bootstrap_servers, stream.topics.clicks)
        if (click.partition, click.offset) in answers
    ]
    times.sort()
    n = len(times)
    parts = (times[n * part // PLACES : n * (part + 1) // PLACES] for part in range(PLACES))
    return [percentile([took for _, took in part], 0.99) for part in parts if part]


def percentile(values: Sequence[float], share: float) -> float:
    return float(sorted(values)[math.ceil(share * len(values)) - 1])


def figures(
    course: Sequence[Signs], beside: Sequence[float], p99: Sequence[float]
) -> tuple[tuple[str, float, str], ...]:
    """Slopes over the second half, and what there was at the first and at the last look."""
    later = second_half(course)
    found: list[tuple[str, float, str]] = []

    def add(name: str, slope: Slope) -> None:
        found.append((f"{name}, slope", slope.per_hour / MEGABYTE, "MB/h"))
        found.append((f"{name}, slope's standard error", slope.error / MEGABYTE, "MB/h"))

    signs: dict[str, Callable[[Signs], float]] = {
        "RSS": lambda s: s.rss_bytes,
        "PSS": lambda s: s.pss_bytes,
        "PSS without RocksDB": lambda s: s.without_rocksdb_bytes,
        "RocksDB on disk": lambda s: s.disk_bytes,
    }
    for name, value in signs.items():
        add(name, slope_of(later, value))
    resident = beside[-len(later) :]
    add("RSS of statistics", slope([s.at_seconds for s in later], resident))
    found += [
        ("sessions held, slope", slope_of(later, lambda s: s.sessions).per_hour, "sessions/h"),
        ("handles at first", course[0].handles, "handles"),
        ("handles at last", course[-1].handles, "handles"),
        ("threads at first", course[0].threads, "threads"),
        ("threads at last", course[-1].threads, "threads"),
        ("p99, first part", p99[0], "ms"),
        ("p99, last part", p99[-1], "ms"),
    ]
    return tuple(found)


def in_table(course: Sequence[Signs], p99: Sequence[float]) -> Iterator[str]:
    """A line for each part of the run, and the slope of memory."""
    for part, ms in enumerate(p99):
        yield f"{in_words(course[(part + 1) * len(course) // len(p99) - 1])}, p99 {ms:.0f} ms"
    later = second_half(course)
    for name, found in (
        ("RSS", slope_of(later, lambda s: s.rss_bytes)),
        ("PSS without RocksDB", slope_of(later, lambda s: s.without_rocksdb_bytes)),
    ):
        per_hour, error = found.per_hour / MEGABYTE, found.error / MEGABYTE
        yield f"{name}, second half: {per_hour:+.1f} MB/h, standard error {error:.1f}"


ROW = Row("soak", "half an hour at 500 clicks/s: memory, handles, disk, expiring sessions", run)

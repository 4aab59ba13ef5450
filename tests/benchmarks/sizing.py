"""The sizing table: what is measured here, and what a larger installation needs by computation from it."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.benchmarks import restore
from tests.benchmarks.bed import UNITS, Bed, made_up_clicks
from tests.benchmarks.limits import Limits
from tests.benchmarks.report import number
from tests.benchmarks.runs import RATES, run_backlog, run_loads
from tests.benchmarks.scaling import Scaling, measure_scaling

CATALOGUES: Final = (1_000, 10_000, 50_000, 200_000)
ALL_UNITS: Final = (50, 100, 256)
CLICKS: Final = {1_000: 50_000, 10_000: 50_000, 50_000: 25_000, 200_000: 10_000}
TRAFFIC: Final = (1_000, 10_000, 100_000, 1_000_000)
"""Clicks/s to be sized for."""
HEAD_ROOM: Final = 0.5
"""Share of what a worker can do that it is planned for: the rest catches up after an outage, and takes
over from a worker that is gone."""
PARTITIONS_PER_WORKER: Final = 2
"""At least: the number of partitions is fixed, that of workers is not."""


@dataclass(frozen=True)
class Capacity:
    """One worker on one core."""

    n_items: int
    units: int
    clicks_per_second: float
    cpu_us: float
    load: int
    """Clicks/s at which the latency was taken."""
    p99_ms: float
    """Everything on this machine."""


@dataclass(frozen=True)
class Memory:
    """A million sessions of one model's states."""

    units: int
    changelog_mb: float
    rocksdb_mb: float
    worker_mb: float
    measured: bool
    """Or computed from the record's size and what was measured at 100 units."""


@dataclass(frozen=True)
class Installation:
    """Computed."""

    clicks_per_second: int
    n_items: int
    workers: int
    partitions: int
    produced_mb_per_second: float
    """To the brokers, before replication: clicks, answers, states."""


@dataclass(frozen=True)
class Sizing:
    capacities: list[Capacity]
    memory: list[Memory]
    installations: list[Installation]
    scaling: list[Scaling]


def measure(bed: Bed, limits: Limits) -> Sizing:
    """Takes a quarter of an hour."""
    capacities = list(_capacities(bed))
    memory = list(_memory(bed))
    installations = list(_installations(capacities, bytes_per_click(limits)))
    return Sizing(capacities, memory, installations, measure_scaling(bed))


def _capacities(bed: Bed) -> Iterator[Capacity]:
    sizes = [(n, u) for n in CATALOGUES for u in ALL_UNITS]
    for n_items, units in sizes[:1] if bed.short else sizes:
        with bed.stream(n_items, bed.bundle(n_items, units)) as stream, stream.worker() as worker:
            run = run_backlog(stream, worker, bed.clicks(CLICKS[n_items]))
            fits = [rate for rate in RATES if rate <= HEAD_ROOM * run.clicks_per_second]
            load = max(fits, default=min(RATES))
            loads = run_loads(stream, worker, rates=(load,))[load]
        p99 = median(one.ms[99.0] for one in loads)
        yield Capacity(n_items, units, run.clicks_per_second, run.cpu_us, load, p99)


def _memory(bed: Bed) -> Iterator[Memory]:
    sessions = 2_000 if bed.short else 1_000_000
    directory = bed.new_directory("restore")
    found = {
        figure.name: figure.value
        for figure in restore.restore_figures(bed, directory, sessions=sessions)
    }
    million = 1_000_000 / 2**20
    beside = found["changelog"] - len(restore.record(0, random.Random(1)))  # the key
    worker_mb = found["memory while restoring"]
    for units in ALL_UNITS:
        logged = len(restore.record(0, random.Random(1), units)) + beside
        stored = found["RocksDB, compacted"] * logged / found["changelog"]
        yield Memory(units, logged * million, stored * million, worker_mb, measured=units == UNITS)


def bytes_per_click(limits: Limits) -> int:
    """What a click makes producers write: itself, its answer, its session's state."""
    key, value = next(made_up_clicks(0, 1, 1_000, event_ids=True))
    state = restore.record(0, random.Random(1))
    return len(value) + len(limits.answer) + len(state) + 3 * len(key)


def _installations(capacities: list[Capacity], click_bytes: int) -> Iterator[Installation]:
    for capacity in capacities:
        if capacity.units != UNITS:
            continue
        for rate in TRAFFIC:
            workers = workers_for(rate, capacity.clicks_per_second)
            produced = rate * click_bytes / 2**20
            yield Installation(rate, capacity.n_items, workers, partitions_for(workers), produced)


def workers_for(clicks_per_second: float, one_does: float) -> int:
    """So many that each is busy for `HEAD_ROOM` of its time, and two at least: one may be gone."""
    return max(2, math.ceil(clicks_per_second / (HEAD_ROOM * one_does)))


def partitions_for(workers: int) -> int:
    """A power of two that gives each worker two or more."""
    return int(2 ** math.ceil(math.log2(PARTITIONS_PER_WORKER * workers)))


def write(out: Path, sizing: Sizing, measured_on: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"measured_on": measured_on, **asdict(sizing)}, indent=1) + "\n")


def read(file: Path) -> tuple[Sizing, str]:
    """What was written, and what it was measured on."""
    rows = json.loads(file.read_text())
    return (
        Sizing(
            [Capacity(**row) for row in rows["capacities"]],
            [Memory(**row) for row in rows["memory"]],
            [Installation(**row) for row in rows["installations"]],
            [Scaling(**row) for row in rows["scaling"]],
        ),
        rows["measured_on"],
    )


def markdown(sizing: Sizing) -> Iterator[str]:
    """Tables, those that are measured apart from those that are computed."""
    yield "**Measured**: one worker on one core (the broker on the other), a backlog; then p99 at a steady load."
    yield ""
    yield "| items | units | clicks/s of one core | us of CPU per click | p99 |"
    yield "|---|---|---|---|---|"
    for one in sizing.capacities:
        yield (
            f"| {one.n_items:,} | {one.units} | {number(one.clicks_per_second)} | "
            f"{number(one.cpu_us)} | {number(one.p99_ms)} ms at {one.load:,}/s |"
        )
    yield ""
    yield "**A million sessions** (a worker's memory hardly depends on them: they are on disk)."
    yield ""
    yield "| units | changelog, compacted | RocksDB, compacted | worker while it restores them | |"
    yield "|---|---|---|---|---|"
    for memory in sizing.memory:
        how = "measured" if memory.measured else "computed from the record's size"
        yield (
            f"| {memory.units} | {number(memory.changelog_mb)} MB | {number(memory.rocksdb_mb)} MB | "
            f"{number(memory.worker_mb)} MB | {how} |"
        )
    yield ""
    yield (
        f"**Computed** from that, {UNITS} units: each worker is planned for {HEAD_ROOM:.0%} of what it can do, "
        "there are two at least, and "
        "each has two partitions or more."
    )
    yield ""
    yield "| clicks/s | items | workers (cores) | partitions | written to the brokers, before replication |"
    yield "|---|---|---|---|---|"
    for one_of in sorted(
        sizing.installations, key=lambda one: (one.clicks_per_second, one.n_items)
    ):
        yield (
            f"| {one_of.clicks_per_second:,} | {one_of.n_items:,} | {one_of.workers:,} | "
            f"{one_of.partitions:,} | {number(one_of.produced_mb_per_second)} MB/s |"
        )
    yield ""
    yield (
        "**Measured, as proof that state follows partitions** (workers join one by one on the cores of one "
        "machine, sessions go on): not a measure of speed."
    )
    yield ""
    yield "| workers | partitions each | clicks/s of all | sessions not exact | answers not the replay's |"
    yield "|---|---|---|---|---|"
    for phase in sizing.scaling:
        shares = ", ".join(map(str, phase.partitions_each))
        yield (
            f"| {phase.workers} | {shares} | {number(phase.clicks_per_second)} | "
            f"{phase.sessions_differing} | {phase.answers_wrong} |"
        )

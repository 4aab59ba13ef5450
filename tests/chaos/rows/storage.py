"""The worker's disk is full, and RocksDB is damaged: at rest, and while the worker runs."""

import random
import time
from collections.abc import Iterator
from typing import Final

from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.errors import InvariantError
from tests.chaos.lab import Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.storage import SmallDisk
from tests.damage import DAMAGE, a_file, flip_bytes

CLICKS_PER_SECOND: Final = 200
PATIENCE_SECONDS: Final = 30.0
DISK_MEGABYTES: Final = 48
"""Less than RocksDB sets aside for its write-ahead log, so that a full disk is felt at the next write."""


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield disk_full(lab, rounds=scale.times(10, 1))
    damage = list(DAMAGE)
    random.Random(scale.seed).shuffle(damage)
    yield damaged_at_rest(lab, damage[: scale.times(len(damage), 1)])
    yield damaged_while_running(lab, rounds=scale.times(5, 1))


def disk_full(lab: Lab, *, rounds: int) -> Finding:
    """The disk of a working worker fills up; it must end at once, and be exact once there is room."""
    why_not = SmallDisk.why_not(lab.new_directory("probe"))
    if why_not:
        return Finding("disk full", runs=0, note=f"not run: {why_not}")
    ended_after, recovery, failures = [], [], []
    with (
        lab.stream() as stream,
        SmallDisk(stream.directory / "small", megabytes=DISK_MEGABYTES) as disk,
    ):
        with stream.load(CLICKS_PER_SECOND):
            worker = stream.start_worker(data_dir=disk.directory / "worker")
            stream.wait_for_answer_after(0)
            for _ in range(rounds):
                time.sleep(0.5)
                full_at = time.monotonic()
                disk.fill()
                status = worker.wait_for_end(PATIENCE_SECONDS)
                ended_after.append(time.monotonic() - full_at)
                failures += _wrong_end(worker, status, "is full")
                disk.make_room()
                began_ms = time.time() * 1000
                worker = stream.start_worker(data_dir=disk.directory / "worker")
                recovery.append(stream.wait_for_answer_after(began_ms))
        verdict = stream.judge()
    for failure in failures:
        verdict.add("failures", failure)
    return verdict.finding(
        "disk full",
        rounds,
        recovery_seconds=recovery,
        note=f"ended after at most {max(ended_after):.1f} s",
    )


def damaged_at_rest(lab: Lab, kinds: list[str]) -> Finding:
    """Killed, damaged, started: put aside, restored, exact."""
    recovery, failures = [], []
    with lab.stream() as stream:
        with stream.load(CLICKS_PER_SECOND):
            worker = stream.start_worker()
            stream.wait_for_answer_after(0)
            for kind in kinds:
                _with_table_file(stream, worker)
                DAMAGE[kind](stream.data_dir(0) / "sessions")
                began_ms = time.time() * 1000
                worker = stream.start_worker()
                recovery.append(stream.wait_for_answer_after(began_ms))
                if len(worker.events("sessions_quarantined")) != 1:
                    failures.append(f"{kind}: not put aside: {worker.log[-500:]}")
        verdict = stream.judge()
    for failure in failures:
        verdict.add("failures", failure)
    return verdict.finding("damaged at rest", len(kinds), recovery_seconds=recovery)


def damaged_while_running(lab: Lab, *, rounds: int) -> Finding:
    """A table file that opens and cannot be read: the worker ends, and the next puts it aside."""
    recovery, failures = [], []
    with lab.stream() as stream:
        worker = stream.start_worker()
        stream.produce(2_000)
        stream.wait_until_settled()
        for _ in range(rounds):
            _with_table_file(stream, worker)
            flip_bytes(a_file(stream.data_dir(0) / "sessions", "*.sst"), at=0.4)
            worker = stream.start_worker()
            stream.produce(500)
            status = worker.wait_for_end(PATIENCE_SECONDS)
            failures += _wrong_end(worker, status, "is damaged")
            began_ms = time.time() * 1000
            worker = stream.start_worker()
            recovery.append(stream.wait_for_answer_after(began_ms))
            if len(worker.events("sessions_quarantined")) != 1:
                failures.append(f"not put aside: {worker.log[-500:]}")
        verdict = stream.judge()
    for failure in failures:
        verdict.add("failures", failure)
    return verdict.finding("damaged while running", rounds, recovery_seconds=recovery)


def _with_table_file(stream: Stream, worker: Worker) -> None:
    """Kill the worker, and bring what it wrote from the write-ahead log into a table file.

    RocksDB does so whenever it opens; a worker would go on to write.
    """
    worker.kill()
    RocksSessions(stream.data_dir(0) / "sessions", topic_id=stream.topic_id).close()


def _wrong_end(worker: Worker, status: int, reason: str) -> list[str]:
    if status == InvariantError.exit_status and reason in worker.log:
        return []
    return [f"ended with {status}, expected 70 and '{reason}': {worker.log[-500:]}"]


ROW = Row("storage", "a full disk, and RocksDB damaged at rest and while running", run)

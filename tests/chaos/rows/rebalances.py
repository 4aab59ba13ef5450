"""Workers that come and go, and one that comes while another still restores."""

import itertools
import random
import time
from collections.abc import Iterator
from typing import Final

from stream_app.services.loop_points import LoopPoint
from tests.chaos.lab import PATIENCE_SECONDS, Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale
from tests.integration.processes import wait_until

CLICKS_PER_SECOND: Final = 300
TURN_SECONDS: Final = 5.0
GUESTS: Final = 3
"""Guests take turns, so that the group has missed one before it comes again, over an outdated disk."""
PAUSE_SECONDS: Final = 0.5
"""A longer time without any answer is reported."""

PARTITIONS: Final = 12
SESSIONS: Final = 4000
HOLD_SECONDS: Final = 0.4
"""A restore of all partitions takes at least a dozen times as long: enough to come between."""


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield come_and_go(lab, scale)
    yield come_during_restore(lab, scale)


def come_and_go(lab: Lab, scale: Scale) -> Finding:
    """A guest comes, 5 s later it leaves (once it was assigned partitions), 5 s later the next one comes;
    one worker stays throughout."""
    turns = scale.times(30, 2)
    with lab.stream(partitions=6) as stream:
        host = stream.start_worker(0)
        guests: list[Worker] = []
        with stream.load(CLICKS_PER_SECOND):
            began_ms = time.time() * 1000 + 1000 * stream.wait_for_answer_after(time.time() * 1000)
            for turn in range(turns):
                guest = stream.start_worker(1 + turn % GUESTS)
                guests.append(guest)
                left_at = time.monotonic() + TURN_SECONDS
                guest.wait_until_serving()
                time.sleep(max(0.5, left_at - time.monotonic()))
                guest.process.terminate()
                time.sleep(TURN_SECONDS)
            ended_ms = time.time() * 1000
        pauses = pauses_between(stream, began_ms, ended_ms)
        verdict = stream.judge()
        for guest in guests:
            if guest.wait_for_end() != 0:
                verdict.add("failures", f"a guest left with {guest.process.poll()}")
        assigned = len(host.events("partitions_assigned"))
        return verdict.finding(
            "a worker in and out every 5 s",
            2 * turns,
            recovery_seconds=pauses,
            note=f"the one that stayed was assigned partitions {assigned} times; recovery is each pause "
            f"without any answer above {PAUSE_SECONDS} s",
        )


def pauses_between(stream: Stream, began_ms: float, ended_ms: float) -> list[float]:
    """Seconds without any answer, where they are many."""
    stream.answers.wait_until_read()
    times = [ms for ms in stream.answers.times_ms() if began_ms <= ms <= ended_ms]
    gaps = [(b - a) / 1000 for a, b in itertools.pairwise(times)]
    return [gap for gap in gaps if gap > PAUSE_SECONDS]


def come_during_restore(lab: Lab, scale: Scale) -> Finding:
    """A second worker joins in the middle of a slow restore, and in every other round dies in its own."""
    rng = random.Random(f"rebalances-{scale.seed}")
    rounds = scale.times(6, 1)
    recovery = []
    came_between = 0
    with lab.stream(partitions=PARTITIONS, sessions=SESSIONS) as stream:
        first = stream.start_worker(0)
        stream.produce(2 * SESSIONS)
        stream.wait_until_settled()
        first.kill()
        for number in range(rounds):
            with stream.load(CLICKS_PER_SECOND / 2):
                for n in (0, 1):
                    stream.wipe(n)
                restoring = start_slow(stream, 0)
                wait_until_held(restoring, rng.randint(1, 4))
                began_ms = time.time() * 1000
                came_between += not restoring.partitions
                second = start_slow(stream, 1)
                wait_until_held(second, 1)
                if number % 2:
                    second.kill()
                recovery.append(stream.wait_for_answer_after(began_ms))
            stream.wait_until_settled()
            for worker in (restoring, second):
                if worker.is_alive and number < rounds - 1:
                    worker.kill()
        verdict = stream.judge()
        if not came_between:
            verdict.add(
                "failures", "no rebalance came in the middle of a restore: nothing was shown"
            )
        return verdict.finding(
            "a rebalance in the middle of a restore",
            rounds,
            recovery_seconds=recovery,
            note=f"{came_between} of {rounds} came in the middle; recovery is from the second worker's start "
            "to an answer, restores held up on purpose",
        )


def start_slow(stream: Stream, n: int) -> Worker:
    return stream.start_worker(n, "--hold-at", f"{LoopPoint.RESTORING}:{HOLD_SECONDS}")


def wait_until_held(worker: Worker, times: int) -> None:
    """Wait until it has restored so many chunks."""
    wait_until(
        "a chunk is restored", lambda: len(worker.events("held_up")) >= times, PATIENCE_SECONDS
    )


ROW = Row("rebalances", "workers that come and go, also during a restore", run)

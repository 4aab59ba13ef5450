"""kill -9 of 1 and of 3 workers at once, at random moments and at every named point of the loop.

Disk kept: a worker returns under its name, with the RocksDB that its end has left.  Disk lost: all of its
data directory is gone, its name in the group with it, so the group first has to miss the old one.
One stream of clicks and one verdict per variant: the faults pile up on the same sessions.
"""

import random
import shutil
import statistics
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stream_app.services.loop_points import LoopPoint
from tests.chaos.lab import Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale

CLICKS_PER_SECOND: Final = 200
PARTITIONS: Final = 6
PASSES_MAX: Final = 40
"""A worker dies at one of its first so many batches: while it still catches up, or soon after."""
IN_FLIGHT_MS: Final = 200
"""What the dead had sent may still be stored for so long; no worker starts that quickly."""
COMMIT_AT_ONCE: Final = {"serving.commit_interval_ms": 10}
"""Where the disk is lost: a click that is committed too early is then committed before the end, and lost.
Where it is kept, the default leaves many clicks to be delivered again."""

RANDOM: Final = "random moment"
MOMENTS: Final = (RANDOM, *(str(point) for point in LoopPoint if point != LoopPoint.HEALING))
"""There is nothing to heal where nobody else writes."""


@dataclass(frozen=True)
class Death:
    moment: str
    ended_ms: float


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    if scale.short:
        yield kill_all(lab, scale, 1, MOMENTS, wiped=False)
        yield kill_all(lab, scale, 3, (LoopPoint.RESTORING,), wiped=True)
        return
    for n_workers, times in ((1, 3), (3, 5)):
        for wiped in (False, True):
            yield kill_all(lab, scale, n_workers, MOMENTS * times, wiped=wiped)


def kill_all(
    lab: Lab, scale: Scale, n_workers: int, moments: Sequence[str], *, wiped: bool
) -> Finding:
    """All workers at once at each of the moments, in an order drawn by the seed."""
    rng = random.Random(f"kills-{scale.seed}-{n_workers}-{wiped}")
    order = rng.sample(moments, len(moments))
    deaths = []
    with lab.stream(partitions=PARTITIONS, settings=COMMIT_AT_ONCE if wiped else {}) as stream:
        with stream.load(CLICKS_PER_SECOND):
            first = [stream.start_worker(n) for n in range(n_workers)]
            stream.wait_for_answer_after(0)
            time.sleep(1)  # sessions to lose
            end_by_signal(first)
            for moment in order:
                prepare_disks(stream, moment, n_workers, wiped=wiped)
                deaths.append(die_at(stream, moment, n_workers, rng))
            prepare_disks(stream, RANDOM, n_workers, wiped=wiped)
            for n in range(n_workers):
                stream.start_worker(n)
            stream.wait_for_answer_after(deaths[-1].ended_ms + IN_FLIGHT_MS)
        recoveries = recovery_by_moment(deaths, stream.answers.times_ms())
        return stream.verdict(
            f"{n_workers} at once, disk {'lost' if wiped else 'kept'}",
            n_workers * (len(order) + 1),
            recovery_seconds=[seconds for times in recoveries.values() for seconds in times],
            note="recovery s, median by moment: "
            + ", ".join(f"{m} {statistics.median(times):.1f}" for m, times in recoveries.items()),
        )


def prepare_disks(stream: Stream, moment: str, n_workers: int, *, wiped: bool) -> None:
    """Lose what the variant loses.  A restore that is to be killed needs something to restore."""
    for n in range(n_workers):
        if wiped:
            stream.wipe(n)
        elif moment == LoopPoint.RESTORING:
            shutil.rmtree(stream.data_dir(n) / "sessions")


def die_at(stream: Stream, moment: str, n_workers: int, rng: random.Random) -> Death:
    """Start the workers and let them all die at that moment."""
    if moment == RANDOM:
        crew = [stream.start_worker(n) for n in range(n_workers)]
        for worker in crew:
            worker.wait_until_serving()
        time.sleep(rng.uniform(0, 1.5))
        end_by_signal(crew)
    else:
        crew = [stream.start_worker(n, "--kill-at", plan(moment, rng)) for n in range(n_workers)]
        if moment == LoopPoint.SWAPPING:
            for worker in crew:
                worker.wait_for_event("model_swapped")
            stream.publish_model()
        for worker in crew:
            status = worker.wait_for_end()
            assert status == -9, f"ended with {status} before {moment}: {worker.log[-2000:]}"
    return Death(moment, max(worker.ended_ms for worker in crew))


def plan(moment: str, rng: random.Random) -> str:
    """The first model a worker loads, when it starts, is no swap; a restore's first pass is its begin."""
    if moment == LoopPoint.SWAPPING:
        return f"{moment}:2"
    if moment == LoopPoint.RESTORING:
        return f"{moment}:2"
    return f"{moment}:{rng.randint(1, PASSES_MAX)}"


def end_by_signal(crew: list[Worker]) -> None:
    """All at once."""
    for worker in crew:
        worker.process.kill()
    for worker in crew:
        worker.kill()


def recovery_by_moment(deaths: list[Death], answered_ms: list[int]) -> dict[str, list[float]]:
    """Seconds from each death to the first answer of those that came after, by moment of the death.

    None for a death that was followed by another before anything was answered.
    """
    found: dict[str, list[float]] = {}
    for death, end in zip(deaths, [d.ended_ms for d in deaths[1:]] + [float("inf")], strict=True):
        position = bisect_right(answered_ms, death.ended_ms + IN_FLIGHT_MS)
        if position < len(answered_ms) and answered_ms[position] < end:
            seconds = (answered_ms[position] - death.ended_ms) / 1000
            found.setdefault(death.moment, []).append(seconds)
    return found


ROW = Row("kills", "kill -9 at random moments and at named points", run)

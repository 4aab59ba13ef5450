"""Workers that freeze, lose their partitions, wake and write; and others who write into the changelog.

A frozen worker is stopped at a random moment, or at a named point of its loop, where it is sure to have
something to write when it wakes.  The owner must go on all the while: it mends in place what was written.
"""

import itertools
import random
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

from stream_app.services.loop_points import LoopPoint
from tests.chaos import evidence
from tests.chaos.foreign import FORGED, KINDS, ForeignWriter
from tests.chaos.lab import PATIENCE_SECONDS, Lab, Stream, Worker
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.traffic import made_up_clicks
from tests.chaos.verdict import Verdict
from tests.integration.processes import wait_until

CLICKS_PER_SECOND: Final = 300
PARTITIONS: Final = 6
CREW: Final = 3
FROZEN_AT_ONCE: Final = 2

RANDOM: Final = "random moment"
MOMENTS: Final = (
    LoopPoint.STATES_STORED,
    RANDOM,
    LoopPoint.ANSWERS_ACKED,
    LoopPoint.COMPUTED,
    LoopPoint.CHANGELOG_SENT,
    LoopPoint.ANSWERS_SENT,
    LoopPoint.CHANGELOG_ACKED,
)
SESSIONS: Final = 20_000
"""So many that most are left alone after a foreign write: only its owner can mend them then."""
GONE: Final = ("gone-0", "gone-1", "gone-2")
"""Visitors who asked to be forgotten, and did not come back."""
FAILED_STATUS: Final = 70
AROUND_MS: Final = 1000
IN_FLIGHT_SECONDS: Final = 0.2
"""What the frozen had sent may still be stored for so long."""


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield from frozen_workers(lab, scale)
    yield foreign_writes(lab, scale)
    yield forged_before_restore(lab, scale)


# -- SIGSTOP, fail-over, SIGCONT ----------------------------------------------------------------------


def frozen_workers(lab: Lab, scale: Scale) -> Iterator[Finding]:
    """Two of three workers freeze in each round and the third takes over, or one of two in the short form."""
    rng = random.Random(f"zombies-{scale.seed}")
    n_crew, n_frozen = (2, 1) if scale.short else (CREW, FROZEN_AT_ONCE)
    rounds = scale.times(15, 1)
    take_over: list[float] = []
    ends: list[int] = []
    with lab.stream(partitions=PARTITIONS) as stream:
        crew = {n: start(stream, n) for n in range(n_crew)}
        with stream.load(CLICKS_PER_SECOND):
            for number in range(rounds):
                wait_until_shared(crew)
                stream.wait_for_answer_after(time.time() * 1000)
                frozen = rng.sample(sorted(crew), n_frozen)
                take_over.append(freeze_and_wake(stream, crew, frozen, number, rng))
                ends += come_back(stream, crew, frozen)
            wait_until_shared(crew)
        pauses, came_back = owner_pauses(stream)
        verdict = stream.judge()
        for status in ends:
            if status != FAILED_STATUS:
                verdict.add("failures", f"a worker ended with {status}")
        yield verdict.finding(
            "frozen, failed over, woken",
            rounds * n_frozen,
            recovery_seconds=take_over,
            note=f"{len(ends)} stale workers ended and were started again, the others rejoined; "
            f"recovery is from the freeze to an answer by the owner; {came_back}",
        )
    yield Finding(
        "owner's pause around a heal", len(pauses), recovery_seconds=tuple(pauses), note=""
    )


def start(stream: Stream, n: int) -> Worker:
    stop_in(stream, n).mkdir(exist_ok=True)
    return stream.start_worker(n, "--stop-in", str(stop_in(stream, n)))


def stop_in(stream: Stream, n: int) -> Path:
    return stream.directory / f"stop-{n}"


def wait_until_shared(crew: dict[int, Worker]) -> None:
    """Every partition has one owner, and every worker has some."""

    def is_shared() -> bool:
        owned = [worker.partitions for worker in crew.values()]
        return all(owned) and sorted(p for of_one in owned for p in of_one) == [*range(PARTITIONS)]

    wait_until("the partitions are shared", is_shared, PATIENCE_SECONDS)


def freeze_and_wake(
    stream: Stream, crew: dict[int, Worker], frozen: list[int], number: int, rng: random.Random
) -> float:
    """Freeze, wait until the others own all and answer, wake; seconds from the freeze to that answer."""
    lost = set().union(*(crew[n].partitions for n in frozen))
    for position, n in enumerate(frozen):
        moment = MOMENTS[(number * len(frozen) + position) % len(MOMENTS)]
        if moment == RANDOM:
            time.sleep(rng.uniform(0, 0.05))
            crew[n].pause()
        else:
            (stop_in(stream, n) / moment).touch()
        wait_until(f"worker {n} is frozen at {moment}", lambda n=n: is_frozen(crew[n]))
    frozen_ms = time.time() * 1000
    owners = [worker for n, worker in crew.items() if n not in frozen]
    wait_until(
        "the others own all partitions",
        lambda: {p for owner in owners for p in owner.partitions} == set(range(PARTITIONS)),
        PATIENCE_SECONDS,
    )
    seconds = stream.wait_for_answer_after(frozen_ms + 1000 * IN_FLIGHT_SECONDS, lost)
    time.sleep(rng.uniform(0.2, 1))  # the sessions get newer than what the frozen ones know
    for n in frozen:
        crew[n].resume()
    return seconds + IN_FLIGHT_SECONDS


def is_frozen(worker: Worker) -> bool:
    stat = Path(f"/proc/{worker.process.pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] == "T"


def come_back(stream: Stream, crew: dict[int, Worker], frozen: list[int]) -> list[int]:
    """Wait until each woken worker has rejoined, or start it again where it has ended; exit statuses.

    An owner that ended is started again as well, and its status is a finding.
    """
    assigned = {n: len(crew[n].events("partitions_assigned")) for n in frozen}
    ends: list[int] = []

    def is_back(n: int) -> bool:
        return not crew[n].is_alive or len(crew[n].events("partitions_assigned")) > assigned[n]

    for n in frozen:
        wait_until(f"worker {n} rejoins or ends", lambda n=n: is_back(n), PATIENCE_SECONDS)
    time.sleep(1)  # a stale one may still notice that it is
    for n, worker in crew.items():
        if not worker.is_alive:
            status = worker.process.wait()
            ends.append(status if n in frozen else status + 1000)
            crew[n] = start(stream, n)
    return ends


def owner_pauses(stream: Stream) -> tuple[list[float], str]:
    """Seconds without an answer in the healed partition around each heal; and what the heals mended."""
    heals = [event for worker in stream.workers for event in worker.events("changelog_healed")]
    stream.answers.wait_until_read()
    pauses = []
    for event in heals:
        healed_ms = datetime.fromisoformat(event["timestamp"]).timestamp() * 1000
        around = [
            ms
            for ms in stream.answers.times_ms({event["partition"]})
            if abs(ms - healed_ms) <= AROUND_MS
        ]
        gaps = [b - a for a, b in itertools.pairwise(around)]
        pauses.append(max(gaps, default=2 * AROUND_MS) / 1000)
    records = sum(event["foreign_records"] for event in heals)
    return pauses, f"{len(heals)} heals of {records} foreign records"


# -- other writers -------------------------------------------------------------------------------------


def foreign_writes(lab: Lab, scale: Scale) -> Finding:
    """Somebody writes into the changelog while its owner works."""
    times = scale.times(10, 1)
    with lab.stream(partitions=PARTITIONS, sessions=SESSIONS) as stream:
        owner = stream.start_worker(0)
        stream.produce(SESSIONS // 4)
        come_and_be_forgotten(stream, scale.seed)
        writer = ForeignWriter(stream, random.Random(f"foreign-{scale.seed}"))
        with stream.load(CLICKS_PER_SECOND):
            for _ in range(times):
                for kind in KINDS:
                    writer.write(kind)
                    wait_until(
                        f"{kind} is mended",
                        lambda: healed_records(owner) >= writer.written,
                        PATIENCE_SECONDS,
                    )
        stream.wait_until_settled()
        counted = owner.samples
        pauses, healed = owner_pauses(stream)
        verdict = stream.judge()
        add_uncounted(verdict, counted)
        return verdict.finding(
            "foreign writes, the owner at work",
            times * len(KINDS),
            recovery_seconds=pauses,
            note=f"{healed}; recovery is the owner's pause around each heal",
        )


def forged_before_restore(lab: Lab, scale: Scale) -> Finding:
    """Forged records lie in the changelog that a worker without a disk has to restore from."""
    times = scale.times(5, 1)
    with lab.stream(partitions=PARTITIONS) as stream:
        worker = stream.start_worker(0)
        stream.produce(2000)
        writer = ForeignWriter(stream, random.Random(f"forged-{scale.seed}"))
        restored = []
        for _ in range(times):
            stream.wait_until_settled()
            worker.kill()
            for kind in FORGED:
                writer.write(kind)
            shutil.rmtree(stream.data_dir(0) / "sessions")
            worker = stream.start_worker(0)
            worker.wait_until_serving()
            restored.append(worker.samples)
            stream.produce(300)
        verdict = stream.judge()
        for samples in restored:
            add_uncounted(verdict, samples)
        return verdict.finding("forged records, met by a restore", times * len(FORGED))


def add_uncounted(verdict: Verdict, samples: dict[str, float]) -> None:
    """Each kind of forged record must have been refused, and counted."""
    for reason in FORGED.values():
        name = f'nextclick_refused_changelog_records_total{{reason="{reason}"}}'
        if not samples.get(name):
            verdict.add("failures", f"{reason} was not counted")


def come_and_be_forgotten(stream: Stream, seed: int) -> None:
    """Leave records and then tombstones of a few sessions in the changelog."""

    def left(*, tombstones: bool) -> bool:
        records = evidence.changelog(stream.kafka.bootstrap_servers, stream.topics.sessions)
        found = {r.session_id for r in records if (r.value is None) == tombstones}
        return found.issuperset(GONE)

    for session_id in GONE:
        stream.produce(clicks=islice(made_up_clicks(seed, only=session_id), 3))
    wait_until("they are in the changelog", lambda: left(tombstones=False))
    for session_id in GONE:
        stream.erase(session_id)
    wait_until("they are gone", lambda: left(tombstones=True))


def healed_records(worker: Worker) -> int:
    assert worker.is_alive, f"ended with {worker.process.returncode}: {worker.log[-2000:]}"
    return sum(event["foreign_records"] for event in worker.events("changelog_healed"))


ROW = Row("zombies", "frozen workers that wake, and foreign writes into the changelog", run)

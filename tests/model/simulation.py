"""The real loop of the worker on simulated Kafka, disk and time; everything that happens follows from a seed.

`simulate(seed)` makes up clicks and faults, lets two workers serve them until nothing is left to do, and
compares with an offline replay: every click answered, always with the same content; the changelog, whole and
compacted, and the owners' disks hold the states of the replay, bit for bit.
"""

import asyncio
import json
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock, patch

from stream_app.core.errors import InvariantError
from stream_app.services import recommendation_loop, session_log
from stream_app.services.loop_points import LoopPoint
from tests.model.simulated_disk import MemoryDisk, memory_disks
from tests.model.simulated_kafka import SESSION_TIMEOUT, Broker, StoredClick
from tests.model.simulated_loop import SimulatedLoop, run_simulated
from tests.model.simulated_worker import ITEMS, START_MS, Parts, SimulatedWorker, settings
from tests.model.verdict import judge

SECONDS = 20.0
"""Clicks and faults happen within so much simulated time; afterwards everything must come to rest."""
PATIENCE_SECONDS = 300.0

POINTS = [point for point in LoopPoint if point is not LoopPoint.SWAPPING]


@dataclass
class Outcome:
    """What a run showed."""

    seed: int
    problems: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    """Faults that came to pass, answers given again, gaps healed."""
    story: list[str] = field(default_factory=list)


class Simulation:
    """One run."""

    def __init__(self, seed: int, parts: Parts, erasures: float) -> None:
        self.rng = random.Random(seed)
        self.parts, self.erasures = parts, erasures
        self.outcome = Outcome(seed)
        self.settings = settings(self.rng.choice((1, 3, 8)), self.rng.choice((0, 20, 200)))
        self.kill_at: dict[LoopPoint, int] = {}
        """How often a point is passed before somebody is killed there."""
        self.faults_left = 0

    async def run(self, loop: SimulatedLoop) -> Outcome:
        self.loop = loop
        self.broker = Broker(
            loop,
            self.rng,
            self.rng.choice((1, 2)),
            on_asked_in_vain=lambda: self.note("a broker that is away was asked"),
        )
        self.workers = {name: SimulatedWorker(self, name) for name in ("first", "second")}
        for worker in self.workers.values():
            self.later(self.rng.uniform(0, 2), worker.start)
        self._make_up_clicks()
        self._make_up_faults()
        while not self.is_at_rest():
            if loop.time() > SECONDS + PATIENCE_SECONDS:
                self.problem("never comes to rest")
                break
            await asyncio.sleep(1)
        for failure in loop.failures:
            self.problem(failure)
        return self.outcome

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.loop.outside(seconds, call)

    def note(self, what: str, of: str = "") -> None:
        self.outcome.happened[what] += 1
        self.outcome.story.append(f"{self.loop.time():8.3f} s  {of:7} {what}")

    def problem(self, what: str) -> None:
        self.outcome.problems.append(what)

    def is_at_rest(self) -> bool:
        """Every click committed, nobody stopped, and the owners know the changelog to its end."""
        broker, group = self.broker, self.broker.group
        if (
            self.clicks_left
            or self.faults_left
            or group.is_rebalancing
            or len(group.owners) < len(broker.clicks)
        ):
            return False
        if broker.committed != [len(clicks) for clicks in broker.clicks]:
            return False
        if any(w.process.is_frozen or w.process.is_dead for w in self.workers.values()):
            return False
        return all(
            not stream.is_rebalancing
            and not stream.feed.in_flight
            and self.workers[stream.name].stream is stream
            and self.workers[stream.name].session_log._next_offset.get(partition)
            == len(broker.topics.get((self.settings.topics.sessions, partition), ()))
            for partition, stream in group.owners.items()
        )

    # -- clicks ---------------------------------------------------------------------------------------

    def _make_up_clicks(self) -> None:
        rng, at = self.rng, 0.0
        sessions = rng.randint(1, 4)
        self.clicks_left = rng.randint(4, 30)
        for i in range(self.clicks_left):
            at += rng.choice((0.0, 0.0, 0.001, 0.05, 1.0))
            session = rng.randrange(sessions)
            click: dict[str, Any] = {
                "session_id": f"session-{session}",
                "event_time": START_MS + i * 1000,
                "event_id": f"event-{i if rng.random() < 0.9 else max(0, i - 2)}",
            }
            if rng.random() < self.erasures:
                click["event_type"] = "erase"
            else:
                click["item_id"] = rng.choice(ITEMS)
            value = json.dumps(click).encode() if rng.random() < 0.97 else b"no click"
            partition = session % len(self.broker.clicks)
            self.later(min(at, SECONDS), lambda p=partition, v=value: self._click(p, v))

    def _click(self, partition: int, value: bytes) -> None:
        clicks = self.broker.clicks[partition]
        stamp = START_MS + int(self.loop.time() * 1000)
        clicks.append(StoredClick(partition, len(clicks), stamp, b"", value))
        self.clicks_left -= 1

    # -- faults ---------------------------------------------------------------------------------------

    def _make_up_faults(self) -> None:
        faults = (
            self._kill_some,
            self._kill_at_point,
            self._kill_in_restore,
            self._freeze_some,
            self._write_foreign_record,
            self.broker.group.rebalance,
            self._fail_a_send,
            self._broker_goes_away,
        )
        weights = (2, 4, 2, 4, 2, 1, 1, 2)
        self.faults_left = self.rng.randint(1, 5)
        for fault in self.rng.choices(faults, weights, k=self.faults_left):
            self.later(self.rng.uniform(0.0, SECONDS), lambda f=fault: self._happen(f))

    def _happen(self, fault: Callable[[], None]) -> None:
        self.faults_left -= 1
        fault()

    def _some(self) -> SimulatedWorker | None:
        able = [w for w in self.workers.values() if not (w.process.is_dead or w.process.is_frozen)]
        return self.rng.choice(able) if able else None

    def _kill_some(self) -> None:
        worker = self._some()
        if worker is not None:
            self.kill(worker, "at any moment")

    def _kill_at_point(self) -> None:
        point = self.rng.choice(POINTS)
        self.kill_at[point] = self.rng.randint(1, 4)
        if point is LoopPoint.HEALING:  # rare by itself
            self._write_foreign_record()
            self.kill_at[point] = 1

    def _kill_in_restore(self) -> None:
        """Let a rebalance begin, and kill somebody at the restore or soon after.

        Often behind a foreign record, so that the restore has something to send again.
        """
        if self.rng.random() < 0.7:
            self._write_foreign_record()
        self.kill_at[LoopPoint.RESTORING] = self.rng.randint(1, 3)
        self.broker.group.rebalance()

    def is_fatal(self, point: LoopPoint) -> bool:
        if point not in self.kill_at:
            return False
        self.kill_at[point] -= 1
        if self.kill_at[point] > 0:
            return False
        del self.kill_at[point]
        return True

    def kill(self, worker: SimulatedWorker, where: str) -> None:
        """SIGKILL; now and then the disk goes too."""
        if worker.process.is_dead:
            return
        loses_disk = self.rng.random() < 0.3
        self.note(f"killed {where}{', disk lost' if loses_disk else ''}", worker.process.name)
        if loses_disk:
            MemoryDisk.contents.pop(worker.process.name, None)
        self._gone(worker)

    def ended(self, worker: SimulatedWorker, error: BaseException) -> None:
        """The process has ended itself, as `die` would."""
        self.note(f"ended itself: {type(error).__name__}", worker.process.name)
        if not isinstance(error, InvariantError):
            self.problem("".join(traceback.format_exception(error)))
        self._gone(worker)

    def _gone(self, worker: SimulatedWorker) -> None:
        worker.process.is_dead = True
        self._missed_after_a_while(worker)
        self.later(self.rng.choice((0.5, 2.0, 15.0)), lambda: self._restart(worker.process.name))

    def _restart(self, name: str) -> None:
        self.workers[name] = SimulatedWorker(self, name)
        self.note("starts again", name)
        self.workers[name].start()

    def _freeze_some(self) -> None:
        worker = self._some()
        if worker is None:
            return
        process = worker.process
        seconds = self.rng.choice((1.0, 12.0, 25.0))
        self.note(f"frozen for {seconds:.0f} s", process.name)
        process.is_frozen = True
        self._missed_after_a_while(worker)

        def wake() -> None:
            self.loop.thaw(process)
            process.call_later(self.rng.uniform(0.0, 3.0), learn)

        def learn() -> None:
            if worker.stream not in self.broker.group.members:
                worker.stream.rejoin.set()

        self.later(seconds, wake)

    def _missed_after_a_while(self, worker: SimulatedWorker) -> None:
        """No heartbeat comes: the session times out, unless the process runs again by then."""
        since = self.loop.time()
        process = worker.process

        def missed() -> None:
            if process.is_dead or (process.is_frozen and self.loop.time() >= since):
                self.broker.group.leave(worker.stream)

        self.later(SESSION_TIMEOUT, missed)

    def _write_foreign_record(self) -> None:
        partition = self.rng.randrange(len(self.broker.clicks))
        topic = self.settings.topics.sessions
        log = self.broker.topics.get((topic, partition))
        if log:
            self.note("a foreign record is written")
            key, value, headers = self.rng.choice(log)
            forged = b"forged" if self.rng.random() < 0.1 else value
            self.broker.append(topic, partition, [(key, forged, headers)])

    def _fail_a_send(self) -> None:
        worker = self._some()
        if worker is not None:
            worker.stream.fails_next_send = True

    def _broker_goes_away(self) -> None:
        """Often in a rebalance, or when there is something to heal: both ask it for what they need."""
        seconds = self.rng.choice((0.5, 3.0, 12.0))
        self.note(f"the broker is away for {seconds} s")
        if self.rng.random() < 0.5:
            self._write_foreign_record()
        if self.rng.random() < 0.5:
            self.broker.group.rebalance()
        begins = self.rng.choice((0.0, 0.001, 0.01, 0.1, 1.0))

        def go() -> None:
            self.broker.back_at = max(self.broker.back_at, self.loop.time() + seconds)

        self.later(begins, go)


# -- the verdict ------------------------------------------------------------------------------------------


def simulate(seed: int, parts: Parts | None = None, *, erasures: float = 0.1) -> Outcome:
    """Run a seed and judge what it left behind.  erasures: the share of clicks that erase their session."""
    with memory_disks(), _quick_and_quiet():
        simulation = Simulation(seed, parts or Parts(), erasures)
        outcome: Outcome = run_simulated(simulation.rng, simulation.run)
        for worker in simulation.workers.values():
            worker.process.is_dead = True  # what Python does to its tasks now is no part of the run
        if not outcome.problems:
            outcome.problems += judge(
                simulation.broker,
                simulation.settings,
                simulation.workers,
                simulation.outcome.happened,
            )
        return outcome


@contextmanager
def _quick_and_quiet() -> Iterator[None]:
    """Audits often enough for short runs; what would be logged stands in the run's story."""
    with (
        patch.object(recommendation_loop, "AUDIT_SECONDS", 3.0),
        patch.object(recommendation_loop, "log", MagicMock()),
        patch.object(session_log, "log", MagicMock()),
    ):
        yield

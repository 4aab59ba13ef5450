"""A worker's process in the simulation: the real loop, and what Faust would do around it."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from stream_app.adapters.instruments import WorkerInstruments
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.ports import Statistics
from stream_app.core.records import ScoredItem
from stream_app.services.loop_points import LoopPoint
from stream_app.services.ports import Answers
from stream_app.services.recommendation_loop import RecommendationLoop
from stream_app.services.session_log import SessionLog
from stream_app.settings import Settings
from tests.doubles import FakeScorer
from tests.model.simulated_kafka import Broker, Stream
from tests.model.simulated_loop import Process

START_MS = 1_700_000_000_000
TOPIC_ID = bytes(16)
ITEMS = [f"item-{i}" for i in range(8)]


class Killed(BaseException):
    """Unwinds a process that is killed at a point of the loop; nothing it does meanwhile counts."""


@dataclass
class Parts:
    """What is simulated; tests put a broken one in its place."""

    loop: type[RecommendationLoop] = RecommendationLoop
    session_log: type[SessionLog] = SessionLog
    sessions: type[RocksSessions] = RocksSessions


class NoPopularity(Statistics):
    version = None

    def top(self, k: int) -> list[ScoredItem]:
        return []

    def associated(self, sessions: Sequence[Sequence[str]], k: int) -> list[None]:
        return [None] * len(sessions)


class OneModel:
    """The same tiny model for everybody (`services.ports.AnswerSource`)."""

    statistics_version = None
    statistics_staleness_seconds = 0.0

    def __init__(self) -> None:
        self.answers = Answers(FakeScorer("v1", ITEMS), NoPopularity())

    def learn(self, clicks: Any) -> None:
        """Nothing: what is popular never changes here."""

    def now(self) -> Answers:
        return self.answers


MODEL = OneModel()


@cache
def instruments() -> WorkerInstruments:
    return WorkerInstruments(CollectorRegistry())


@cache
def settings(batch_clicks_max: int, state_write_interval_ms: int) -> Settings:
    made = Settings()
    serving = made.serving.model_copy(
        update={
            "batch_clicks_max": batch_clicks_max,
            "state_write_interval_ms": state_write_interval_ms,
            "commit_interval_ms": 500,
            "top_k": 4,
        }
    )
    return made.model_copy(update={"serving": serving})


class Supervisor(Protocol):
    """What a worker needs of the run it is part of."""

    @property
    def broker(self) -> Broker: ...
    @property
    def parts(self) -> Parts: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def rng(self) -> random.Random: ...
    def is_fatal(self, point: LoopPoint) -> bool: ...
    def kill(self, worker: "SimulatedWorker", where: str) -> None: ...
    def ended(self, worker: "SimulatedWorker", error: BaseException) -> None: ...
    def note(self, what: str, of: str = "") -> None: ...


class SimulatedWorker:
    """A process with the real loop in it, as `services.worker` and Faust would run it."""

    def __init__(self, simulation: Supervisor, name: str) -> None:
        self.simulation = simulation
        self.process = Process(name)
        self.settings = simulation.settings
        self.stream = Stream(simulation.broker, self.process, self.settings.topics.sessions)
        self.sessions = simulation.parts.sessions(Path(name), topic_id=TOPIC_ID)
        self.session_log = simulation.parts.session_log(
            self.stream,
            self.stream,
            self.sessions,
            topic=self.settings.topics.sessions,
            at=self._at,
            on_heal=lambda _records: simulation.note("healed", name),
        )
        self.loop = simulation.parts.loop(
            self.stream,
            self.sessions,
            self.session_log,
            MODEL,
            instruments(),
            self.settings,
            dead_letter_partitions=1,
            at=self._at,
            now_ms=lambda: START_MS + int(simulation.broker.loop.time() * 1000),
            on_fatal=self._on_fatal,
        )

    def start(self) -> None:
        for task in self.loop.tasks():
            self.process.start(task)
        self.process.start(self._membership())

    async def _membership(self) -> None:
        """Join, restore, fetch; on a rebalance drain, commit, and join again."""
        stream, broker = self.stream, self.simulation.broker
        restore: asyncio.Task[None] | None = None
        while True:
            stream.rejoin.clear()
            joined: asyncio.Future[Any] = broker.loop.create_future()
            broker.loop.outside(broker.delay(), lambda f=joined: broker.group.join(stream, f))
            stream.generation, stream.positions = await joined
            if restore is not None:
                await restore  # it sees that the generation has changed
            stream.feed.begin_at(stream.positions)
            restore = asyncio.create_task(self.loop.restore(set(stream.positions)))
            rejoin = asyncio.create_task(stream.rejoin.wait())
            await asyncio.wait((restore, rejoin), return_when=asyncio.FIRST_COMPLETED)
            if not stream.rejoin.is_set():
                stream.is_rebalancing = False
                fetch = asyncio.create_task(self._fetch(stream.generation))
                await rejoin
                fetch.cancel()
            stream.is_rebalancing = True
            await stream.feed.drain()
            await stream.commit_finished()

    async def _fetch(self, generation: int) -> None:
        """As `ClickConsumer._drain_messages`."""
        stream, broker = self.stream, self.simulation.broker
        feed, rng = stream.feed, broker.rng
        positions = dict(stream.positions)
        while positions and stream.generation == generation:
            await feed.wait_for_room()
            before = (feed.epoch, stream.generation)
            if stream.is_rebalancing:
                return
            most = rng.choice((1, 2, 5, 20))
            fetched = await broker.answer(
                lambda n=most: {p: broker.clicks[p][at : at + n] for p, at in positions.items()}
            )
            if before != (feed.epoch, stream.generation):
                return
            for partition, records in fetched.items():
                if records:
                    positions[partition] = records[-1].offset + 1
                    feed.offer(feed.epoch, partition, records)
            if not any(fetched.values()):
                await asyncio.sleep(rng.choice((0.01, 0.3, 1.0)))

    def _at(self, point: LoopPoint) -> None:
        if self.simulation.is_fatal(point):
            if self.simulation.rng.random() < 0.4:
                self.process.call_later(
                    self.simulation.broker.delay(),
                    lambda: self.simulation.kill(self, f"soon after {point}"),
                )
                return
            self.simulation.kill(self, f"at {point}")
            raise Killed

    def _on_fatal(self, error: BaseException) -> None:
        if not self.process.is_dead:
            self.simulation.ended(self, error)

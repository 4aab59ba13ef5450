"""A broker and a consumer group in memory: sends take their time, commits are fenced by generation."""

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaConnectionError, KafkaError

from stream_app.adapters.changelog_topic import REMOVED_AT, ChangelogChunk
from stream_app.adapters.click_feed import ClickFeed
from stream_app.adapters.faust_transport import Message
from stream_app.core.session import ChangelogRecord
from tests.model.simulated_loop import Process, SimulatedLoop

SESSION_TIMEOUT = 10.0
REBALANCE_TIMEOUT = 8.0


@dataclass(frozen=True, slots=True)
class StoredClick:
    """A click as the consumer hands it over (`core.pipeline.ClickRecord`)."""

    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    topic: str = "clicks"
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class Stored:
    """What the broker says of a batch."""

    offset: int


@dataclass(slots=True)
class Request:
    """Batches on their way to the broker, at most one of each partition."""

    batches: dict[tuple[str, int], tuple[list[Message], "asyncio.Future[Any]"]]


class Broker:
    """Topics, and the coordinator of the one consumer group."""

    def __init__(
        self,
        loop: SimulatedLoop,
        rng: random.Random,
        partitions: int,
        *,
        on_asked_in_vain: Callable[[], None],
    ) -> None:
        self.loop, self.rng, self.on_asked_in_vain = loop, rng, on_asked_in_vain
        self.clicks: list[list[StoredClick]] = [[] for _ in range(partitions)]
        self.topics: dict[tuple[str, int], list[Message]] = {}
        self.committed = [0] * partitions
        self.group = Group(self)
        self.back_at = 0.0
        """Until then it is away: what is on its way arrives later, and nobody can connect."""

    def delay(self) -> float:
        """Mostly about a millisecond, now and then much longer."""
        away = max(0.0, self.back_at - self.loop.time())
        return away + self.rng.choice((0.0, 0.001, 0.001, 0.002, 0.005, 0.05, 0.4))

    async def answer_now(self, call: Callable[[], Any]) -> Any:
        """As `answer`, over a connection of its own: raises `KafkaConnectionError` while it is away."""
        if self.loop.time() < self.back_at:
            self.on_asked_in_vain()
            raise KafkaConnectionError("the simulated broker is away")
        return await self.answer(call)

    def append(self, topic: str, partition: int, messages: Sequence[Message]) -> int:
        """Store messages; returns the offset of the first."""
        log = self.topics.setdefault((topic, partition), [])
        log.extend(messages)
        return len(log) - len(messages)

    async def answer(self, call: Callable[[], Any]) -> Any:
        """A request and its response: the call happens in between, whatever becomes of who asked."""
        future = self.loop.create_future()

        def respond(result: Any) -> None:
            if not future.done():
                future.set_result(result)

        def arrive() -> None:
            result = call()
            self.loop.outside(self.delay(), lambda: respond(result))

        self.loop.outside(self.delay(), arrive)
        return await future


class Group:
    """Who is a member, in which generation, and who owns which partition.

    A rebalance waits until every member has joined again, or for so long; who has not is out, and may not
    know it: a zombie.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.generation = 0
        self.owners: dict[int, Stream] = {}
        self.members: list[Stream] = []
        self._joined: dict[Stream, asyncio.Future[Any]] = {}
        self._round = 0
        self.is_rebalancing = False

    def join(self, stream: "Stream", future: "asyncio.Future[Any]") -> None:
        """The member is ready for the next generation; the future gets it."""
        if stream not in self.members:
            self.members = [m for m in self.members if m.name != stream.name]  # static membership
            self.members.append(stream)
        self._joined[stream] = future
        if not self.is_rebalancing:
            self._begin()
        self._end_if_all_joined()

    def leave(self, stream: "Stream") -> None:
        """The session timed out, or the member said so."""
        if stream in self.members:
            self.members.remove(stream)
            self._joined.pop(stream, None)
            if self.is_rebalancing:
                self._end_if_all_joined()
            else:
                self._begin()

    def rebalance(self) -> None:
        """As if a subscription had changed."""
        if self.members and not self.is_rebalancing:
            self._begin()

    def _begin(self) -> None:
        self.is_rebalancing = True
        self._round += 1
        this = self._round
        for member in self.members:
            if member not in self._joined:
                self._broker.loop.outside(self._broker.delay(), member.must_rejoin)

        def late() -> None:
            if self.is_rebalancing and self._round == this:
                self.members = [m for m in self.members if m in self._joined]
                self._end_if_all_joined()

        self._broker.loop.outside(REBALANCE_TIMEOUT, late)

    def _end_if_all_joined(self) -> None:
        if not self.is_rebalancing or any(m not in self._joined for m in self.members):
            return
        self.is_rebalancing = False
        self.generation += 1
        self.owners = {}
        if self.members:
            turn = self._broker.rng.randrange(len(self.members))
            for partition in range(len(self._broker.clicks)):
                self.owners[partition] = self.members[(partition + turn) % len(self.members)]
        for member, future in self._joined.items():
            mine = {
                p: self._broker.committed[p] for p, owner in self.owners.items() if owner is member
            }
            result = (self.generation, mine)
            self._broker.loop.outside(
                self._broker.delay(), lambda f=future, r=result: f.set_result(r)
            )
        self._joined = {}

    def commit(self, stream: "Stream", generation: int, offsets: Mapping[int, int]) -> bool:
        """Refused unless it comes from a member of this generation."""
        if stream not in self.members or generation != self.generation:
            return False
        for partition, offset in offsets.items():
            self._broker.committed[partition] = offset
        return True


class Stream:
    """One worker's clients: `services.ports.ClickStream` and `ChangelogSource`."""

    def __init__(self, broker: Broker, process: Process, changelog: str) -> None:
        self.name = process.name
        self.feed = ClickFeed()
        self.generation = -1
        self.is_rebalancing = True
        self.positions: dict[int, int] = {}
        self.rejoin = asyncio.Event()
        self.fails_next_send = False
        self._broker, self._process, self._changelog = broker, process, changelog
        self._queued: list[tuple[str, int, list[Message], asyncio.Future[Any]]] = []
        self._busy = False

    # -- producer -------------------------------------------------------------------------------------

    async def send(self, topic: str, partition: int, messages: Sequence[Message]) -> Any:
        sent = []
        rest = list(messages)
        while rest:  # now and then the client splits what is too large for one batch
            n = (
                len(rest)
                if self._broker.rng.random() < 0.9
                else self._broker.rng.randint(1, len(rest))
            )
            future = self._broker.loop.create_future()
            self._queued.append((topic, partition, rest[:n], future))
            sent.append((future, n))
            rest = rest[n:]
        if self._broker.rng.random() < 0.3:
            await asyncio.sleep(0)
        self._pump()
        return sent

    def _pump(self) -> None:
        """One request at a time, with what has been queued meanwhile; in order per partition."""
        if self._busy or not self._queued:
            return
        self._busy = True
        request: dict[tuple[str, int], tuple[list[Message], asyncio.Future[Any]]] = {}
        kept = []
        for topic, partition, messages, future in self._queued:
            if (topic, partition) in request:
                kept.append((topic, partition, messages, future))
            else:
                request[topic, partition] = (messages, future)
        self._queued = kept
        # Until it has left the process, freezing or killing that one holds it back.
        self._process.call_later(self._broker.delay() / 2, lambda: self._leave(request))

    def _leave(self, request: dict[tuple[str, int], tuple[list[Message], Any]]) -> None:
        fails, self.fails_next_send = self.fails_next_send, False
        arrives = not fails or self._broker.rng.random() < 0.5

        def arrive() -> None:
            stored = {
                at: Stored(self._broker.append(*at, messages) if arrives else -1)
                for at, (messages, _) in request.items()
            }
            self._broker.loop.outside(
                self._broker.delay(), lambda: self._acked(request, stored, fails)
            )

        self._broker.loop.outside(self._broker.delay(), arrive)

    def _acked(self, request: Any, stored: dict[tuple[str, int], Stored], fails: bool) -> None:
        for at, (_, future) in request.items():
            if fails:
                future.set_exception(KafkaError("the simulated broker did not take it"))
                future.exception()
            else:
                future.set_result(stored[at])
        self._process.call_later(0, self._next)

    def _next(self) -> None:
        self._busy = False
        self._pump()

    # -- group ----------------------------------------------------------------------------------------

    def must_rejoin(self) -> None:
        self._process.call_later(0, self.rejoin.set)

    async def commit_finished(self) -> None:
        """As `ClickConsumer.commit_finished`."""
        offsets = self.feed.pop_committable()
        if offsets and await self._accepted(offsets):
            self.feed.committed(offsets)
        else:
            self.feed.put_back(offsets)

    async def owns(self, partition: int) -> bool:
        """As `ClickConsumer.owns`."""
        position = self.feed.position(partition)
        if partition not in self.positions or position is None:
            return False
        return bool(await self._accepted({partition: position}))

    async def _accepted(self, offsets: Mapping[int, int]) -> bool:
        generation = self.generation
        accepted = await self._broker.answer(
            lambda: self._broker.group.commit(self, generation, offsets)
        )
        if not accepted:
            self.rejoin.set()
        return bool(accepted)

    async def click_ends(self, partitions: Iterable[int]) -> Mapping[int, int]:
        wanted = list(partitions)
        ends = await self._broker.answer_now(
            lambda: {p: len(self._broker.clicks[p]) for p in wanted}
        )
        return dict(ends)

    async def lag(self) -> Mapping[int, int]:
        return {}

    # -- changelog ------------------------------------------------------------------------------------

    async def bounds(self, partitions: Iterable[int]) -> Mapping[int, tuple[int, int]]:
        wanted = list(partitions)
        ends = await self._broker.answer_now(
            lambda: {p: len(self._broker.topics.get((self._changelog, p), ())) for p in wanted}
        )
        return {p: (0, end) for p, end in ends.items()}

    def read(self, ranges: Mapping[int, tuple[int, int]]) -> "Reading":
        return Reading(self._broker, self._changelog, dict(ranges))


class Reading:
    """Chunks of a topic, a few records each."""

    def __init__(self, broker: Broker, topic: str, ranges: dict[int, tuple[int, int]]) -> None:
        self._broker, self._topic = broker, topic
        self._ranges = {p: r for p, r in ranges.items() if r[0] < r[1]}

    def __aiter__(self) -> "Reading":
        return self

    async def __anext__(self) -> ChangelogChunk:
        if not self._ranges:
            raise StopAsyncIteration
        rng = self._broker.rng
        partition = rng.choice(list(self._ranges))
        start, end = self._ranges.pop(partition)
        stop = min(end, start + rng.choice((1, 3, 10, 100)))
        if stop < end:
            self._ranges[partition] = (stop, end)
        log = self._broker.topics[self._topic, partition]
        messages = await self._broker.answer_now(lambda: log[start:stop])
        return ChangelogChunk(partition, [plain(message) for message in messages], stop)


def plain(message: Message) -> ChangelogRecord:
    """A message of the changelog as `ChangelogTopic` hands it over."""
    key, value, headers = message
    session_id = (key or b"").decode()
    if value is not None:
        return session_id, value, None
    return session_id, None, next((int(v) for name, v in headers if name == REMOVED_AT), None)

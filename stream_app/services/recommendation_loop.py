"""The stream processor: clicks in, answers out, session states exact.

Order of effects for every batch, and the reason for everything here: **answers, acks awaited -> states
(RocksDB, then changelog) -> changelog acks -> the clicks are done**.  A crash between any two of them
repeats work and loses none.  Any failed write ends the process without acknowledging.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from stream_app.adapters.click_feed import TakenClicks
from stream_app.adapters.faust_transport import Message, base_offsets
from stream_app.adapters.instruments import WorkerInstruments
from stream_app.core.errors import ConfigurationError, InvariantError
from stream_app.core.pipeline import BatchOutcome, SessionKey, recommend_batch
from stream_app.core.session import removed_session
from stream_app.logging_setup import get_logger
from stream_app.services.expiry import SessionExpiry
from stream_app.services.loop_points import AtPoint, LoopPoint, nothing_happens
from stream_app.services.ports import AnswerSource, ClickStream, SessionDisk
from stream_app.services.session_log import SessionLog, States, Unsettled
from stream_app.settings import Settings, serving_rules

PIPELINE_DEPTH: Final = 2
"""Batches that may wait between two stages; more would only add latency."""
UNWRITTEN_MAX: Final = 64
"""Answered batches that may wait for their states to be written together."""

STUCK_SECONDS: Final = 180.0
"""A batch in flight for so long without any being finished: restart us (the producer's own patience
with a broker that is away is 120 s)."""

AUDIT_SECONDS: Final = 10.0
"""How often partitions without clicks are looked at for records that others have put there."""

log = get_logger("worker")


@dataclass(slots=True)
class Work:
    """A batch on its way through the stages."""

    taken: TakenClicks
    """Holds no clicks where sessions are only removed (expiry)."""
    states: States
    outcome: BatchOutcome = field(default_factory=BatchOutcome)


class RecommendationLoop:
    """Four stages joined by short queues: compute; deliver the answers; write the states; settle."""

    def __init__(
        self,
        stream: ClickStream,
        sessions: SessionDisk,
        session_log: SessionLog,
        answers: AnswerSource,
        instruments: WorkerInstruments,
        settings: Settings,
        *,
        dead_letter_partitions: int,
        at: AtPoint = nothing_happens,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        on_fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        """at: told of the points it passes.  on_fatal: what ends the process, `die` by default."""
        self._stream, self._sessions, self._session_log = stream, sessions, session_log
        self._answers, self._instruments, self._settings = answers, instruments, settings
        self._dead_letter_partitions = dead_letter_partitions
        self._at, self._now_ms, self._on_fatal = at, now_ms, on_fatal or die
        self._rules = serving_rules(settings)
        self._expiry = SessionExpiry(
            sessions,
            ttl_ms=int(settings.serving.state_ttl_hours * 3_600_000),
            done_until=stream.feed.committed_until,
        )
        self._computed: asyncio.Queue[Work] = asyncio.Queue(PIPELINE_DEPTH)
        self._answered: asyncio.Queue[Work] = asyncio.Queue(UNWRITTEN_MAX)
        self._written: asyncio.Queue[tuple[list[Work], Unsettled]] = asyncio.Queue(PIPELINE_DEPTH)
        self._undelivered = 0
        self._hurry = asyncio.Event()
        self._hurry.set()
        self._encode = msgspec.json.Encoder().encode
        self._dead_in_a_row = 0
        self._progress_at = time.monotonic()
        self.owned: set[int] = set()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """The coroutines to run; each ends only by cancellation, or with the process."""
        return [
            self._guard(self._compute),
            self._guard(self._deliver),
            self._guard(self._write),
            self._guard(self._settle),
            self._guard(self._commit),
        ]

    async def _guard(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await run()
        except asyncio.CancelledError:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may be acknowledged after it
            self._on_fatal(error)

    def is_healthy(self) -> tuple[bool, str]:
        """Whether clicks get done: liveness comes from progress, not from a thread being alive."""
        seconds = time.monotonic() - self._progress_at
        stuck = self._stream.feed.in_flight > 0 and seconds > STUCK_SECONDS
        return not stuck, f"{seconds:.0f} s since a batch was finished" if stuck else "alive"

    async def restore(self, partitions: set[int]) -> None:
        """After a rebalance: bring the sessions of our partitions up to date, before their clicks are read."""
        try:
            self._instruments.ready(restored=False)
            self._instruments.sessions.rebalanced()
            generation = self._stream.generation
            began = time.monotonic()
            restored = await self._session_log.restore(
                partitions, still_ours=lambda: self._stream.generation == generation
            )
            if not restored.complete:
                return
            self.owned = partitions
            self._expiry.assign(partitions)
            self._instruments.restored(restored.sessions, time.monotonic() - began)
            self._instruments.ready(restored=True)
            log.info(
                "partitions_assigned",
                partitions=sorted(partitions),
                restored_sessions=restored.sessions,
                sent_again=restored.sent_again,
                seconds=round(time.monotonic() - began, 3),
            )
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - Faust would log it and go on without the state
            self._on_fatal(error)

    # -- stage 1 --------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        """Take what waits, fold it, ask the model: the only stage that decides anything."""
        serving = self._settings.serving
        feed = self._stream.feed
        while True:
            taken = await feed.take(serving.batch_clicks_max, hurry=self._hurry)
            if feed.in_flight == 1:
                self._progress_at = time.monotonic()  # idle until now, not stuck
            began = time.perf_counter()
            answers = self._answers.now()
            outcome = recommend_batch(
                taken.records,
                self._sessions,
                answers.scorer,
                answers.statistics,
                self._rules,
                now_ms=self._now_ms(),
                newest_only=serving.answer_newest_only and feed.waiting >= serving.batch_clicks_max,
            )
            self._halt_if_nothing_decodes(outcome)
            states = self._sessions.stage(outcome.states)
            self._answers.learn(outcome.decoded)
            self._expiry.observe(outcome.states, stored_ms=taken.records[-1].timestamp)
            self._instruments.computed(outcome, len(taken.records), time.perf_counter() - began)
            self._at(LoopPoint.COMPUTED)
            await self._pass_on(Work(taken, states, outcome))
            expired = self._expiry.due(clicks=len(taken.records))
            if expired:
                self._instruments.expired(len(expired))
                removals = self._sessions.stage(
                    {key: removed_session(offset) for key, offset in expired.items()}
                )
                await self._pass_on(Work(feed.hold(), removals))

    async def _pass_on(self, work: Work) -> None:
        self._set_undelivered(self._undelivered + 1)
        await self._computed.put(work)

    def _halt_if_nothing_decodes(self, outcome: BatchOutcome) -> None:
        """A wrong decoder setting is not a million bad clicks."""
        if len(outcome.dead_letters) < sum(outcome.outcomes.values()):
            self._dead_in_a_row = 0
            return
        self._dead_in_a_row += len(outcome.dead_letters)
        if self._dead_in_a_row > self._settings.serving.dead_letters_in_a_row_max:
            last = outcome.dead_letters[-1]
            raise InvariantError(
                f"{self._dead_in_a_row} clicks in a row were unusable, the last: {last.error}: "
                f"{last.message}.  Check what is written to {self._settings.topics.clicks}, then restart "
                "(serving.dead_letters_in_a_row_max sets the limit)"
            )

    # -- stage 2 --------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """Send the answers and the dead letters, and await their acknowledgements."""
        while True:
            work = await self._computed.get()
            with self._instruments.stage("deliver"):
                await self._send_answers(work.outcome)
            self._set_undelivered(self._undelivered - 1)
            self._instruments.delivered(work.outcome)
            self._at(LoopPoint.ANSWERS_ACKED)
            await self._answered.put(work)

    async def _send_answers(self, outcome: BatchOutcome) -> None:
        topics = self._settings.topics
        answers: dict[int, list[Message]] = {}
        for answer in outcome.recommendations:
            answers.setdefault(answer.source.partition, []).append(
                (answer.session_id.encode(), self._encode(answer), ())
            )
        letters: dict[int, list[Message]] = {}
        for letter in outcome.dead_letters:
            partition = letter.source.partition % self._dead_letter_partitions
            letters.setdefault(partition, []).append(
                (letter.key, letter.value, letter.all_headers())
            )
        sent: list[tuple[Awaitable[Any], int]] = []
        for topic, by_partition in (
            (topics.recommendations, answers),
            (topics.dead_letters, letters),
        ):
            for partition, messages in by_partition.items():
                sent += await self._stream.send(topic, partition, messages)
        self._at(LoopPoint.ANSWERS_SENT)
        await base_offsets(sent)

    def _set_undelivered(self, batches: int) -> None:
        """While answers are on their way, small batches wait: they would only cost more each."""
        self._undelivered = batches
        if batches:
            self._hurry.clear()
        else:
            self._hurry.set()
            self._stream.feed.wake()

    # -- stage 3 --------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write the states of the batches answered meanwhile, each session's last one, all together.

        What a write costs hardly depends on its size, so at low and medium rates waiting a little saves
        most of it.  No click waits for it: its answer is out.
        """
        interval = self._settings.serving.state_write_interval_ms / 1000
        while True:
            works = [await self._answered.get()]
            if interval:
                await asyncio.sleep(interval)
            while not self._answered.empty():
                works.append(self._answered.get_nowait())
            with self._instruments.stage("write"):
                unsettled = await self._session_log.write(newest_states(works))
            await self._written.put((works, unsettled))

    # -- stage 4 --------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Await the changelog's acks, mend what others wrote in between, and let the clicks be committed."""
        while True:
            works, unsettled = await self._written.get()
            with self._instruments.stage("settle"):
                await self._session_log.settle(unsettled)
            for work in works:
                self._stream.feed.finished(work.taken)
            self._progress_at = time.monotonic()

    async def _commit(self) -> None:
        """Commit finished clicks every so often, and look at the lag while at it."""
        interval = self._settings.serving.commit_interval_ms / 1000
        clock = asyncio.get_running_loop().time
        audit_at = clock() + AUDIT_SECONDS
        while True:
            await asyncio.sleep(interval)
            if not self._stream.is_rebalancing:
                if clock() >= audit_at:
                    await self._session_log.audit()
                    audit_at = clock() + AUDIT_SECONDS
                await self._stream.commit_finished()
                self._instruments.lag(await self._stream.lag(), self._stream.feed.waiting)
                self._instruments.sessions.stored(self._expiry.stored_sessions)
                self._instruments.statistics(
                    self._answers.statistics_version, self._answers.statistics_staleness_seconds
                )


def newest_states(works: list[Work]) -> States:
    """The last record of each session in the batches, given in order."""
    if len(works) == 1:
        return works[0].states
    records: dict[SessionKey, bytes] = {}
    for work in works:
        records.update(work.states)
    return records


def die(error: BaseException) -> None:
    """End the process at once, acknowledging nothing more.

    A supervisor starts the next, except after a `ConfigurationError` (status 2): no restart mends that.
    """
    wrong = isinstance(error, ConfigurationError)
    log.error(
        "worker_ends",
        error=str(error),
        kind=type(error).__name__,
        exc_info=None if wrong else error,
    )
    os._exit(ConfigurationError.exit_status if wrong else InvariantError.exit_status)

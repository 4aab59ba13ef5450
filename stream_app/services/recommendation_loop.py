"""The stream processor: clicks in, answers out, session states exact.

Order of effects for every batch, and the reason for everything here: **answers, acks awaited -> states
(RocksDB, then changelog) -> changelog acks -> the clicks are done**.  A crash between any two of them
repeats work and loses none.  Any failed write ends the process without acknowledging.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from stream_app.adapters.changelog import Changelog
from stream_app.adapters.click_feed import TakenClicks
from stream_app.adapters.faust_transport import ClickApp, Message, base_offsets
from stream_app.adapters.instruments import WorkerInstruments
from stream_app.adapters.rocksdb_sessions import RocksSessions
from stream_app.core.errors import InvariantError
from stream_app.core.pipeline import BatchOutcome, recommend_batch
from stream_app.logging_setup import get_logger
from stream_app.services.answers import LiveAnswers
from stream_app.services.expiry import SessionExpiry
from stream_app.settings import Settings, serving_rules

PIPELINE_DEPTH: Final = 2
"""Batches that may wait between two stages; more would only add latency."""

STUCK_SECONDS: Final = 120.0
"""A batch in flight for so long without any being finished: restart us (the producer's own patience
with a broker that is away is 40 s)."""

log = get_logger("worker")


@dataclass(slots=True)
class Work:
    """A batch on its way through the stages."""

    taken: TakenClicks
    """Holds no clicks where states are only removed (expiry) or sent again (after a restore)."""
    records: dict[tuple[int, str], bytes | None]
    outcome: BatchOutcome = field(default_factory=BatchOutcome)
    changelog: list[tuple[int, list[tuple[Any, int]]]] = field(default_factory=list)
    """Sends to the changelog whose acks are awaited, by partition."""


class RecommendationLoop:
    """Three tasks joined by short queues: compute; deliver answers and write states; settle."""

    def __init__(
        self,
        app: ClickApp,
        sessions: RocksSessions,
        changelog: Changelog,
        answers: LiveAnswers,
        instruments: WorkerInstruments,
        settings: Settings,
        *,
        dead_letter_partitions: int,
    ) -> None:
        self._app, self._sessions, self._changelog = app, sessions, changelog
        self._answers, self._instruments, self._settings = answers, instruments, settings
        self._dead_letter_partitions = dead_letter_partitions
        self._rules = serving_rules(settings)
        self._expiry = SessionExpiry(
            sessions, ttl_ms=int(settings.serving.state_ttl_hours * 3_600_000)
        )
        self._computed: asyncio.Queue[Work] = asyncio.Queue(PIPELINE_DEPTH)
        self._written: asyncio.Queue[Work] = asyncio.Queue(PIPELINE_DEPTH)
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
            self._guard(self._settle),
            self._guard(self._commit),
        ]

    async def _guard(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await run()
        except asyncio.CancelledError:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may be acknowledged after it
            die(error)

    def is_healthy(self) -> tuple[bool, str]:
        """Whether clicks get done: liveness comes from progress, not from a thread being alive."""
        seconds = time.monotonic() - self._progress_at
        stuck = self._app.feed.in_flight > 0 and seconds > STUCK_SECONDS
        return not stuck, f"{seconds:.0f} s since a batch was finished" if stuck else "alive"

    # -- after a rebalance ----------------------------------------------------------------------------

    async def restore(self, partitions: set[int]) -> None:
        """Bring the sessions of our partitions up to the changelog's end, before their clicks are read."""
        try:
            self._instruments.ready(restored=False)
            generation = self._app.consumer_generation_id
            began = time.monotonic()
            self._sessions.forget_staged()
            restored = await self._changelog.restore(
                partitions,
                still_ours=lambda: self._app.consumer_generation_id == generation,
            )
            if not restored.complete:
                return
            self.owned = partitions
            await self._send_again(restored.behind)
            self._expiry.assign(partitions)
            self._instruments.restored(restored.sessions, time.monotonic() - began)
            self._instruments.ready(restored=True)
            log.info(
                "partitions_assigned",
                partitions=sorted(partitions),
                restored_sessions=restored.sessions,
                sent_again=sum(map(len, restored.behind.values())),
                seconds=round(time.monotonic() - began, 3),
            )
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - Faust would log it and go on without the state
            die(error)

    async def _send_again(self, behind: dict[int, list[str]]) -> None:
        """Write records that are newer here than in the changelog behind the older ones there."""
        records = {
            (partition, session_id): self._sessions.record(partition, session_id)
            for partition, session_ids in behind.items()
            for session_id in session_ids
        }
        work = Work(self._app.feed.hold(), records)
        await self._send_changelog(work)
        await self._await_changelog(work)
        self._app.feed.finished(work.taken)

    # -- stage 1 --------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        """Take what waits, fold it, ask the model: the only stage that decides anything."""
        serving = self._settings.serving
        feed = self._app.feed
        while True:
            taken = await feed.take(serving.batch_clicks_max, hurry=self._hurry)
            if feed.in_flight == 1:
                self._progress_at = time.monotonic()  # idle until now, not stuck
            began = time.perf_counter()
            answers = self._answers.now(taken.records)
            outcome = recommend_batch(
                taken.records,
                self._sessions,
                answers.scorer,
                answers.popularity,
                self._rules,
                now_ms=time.time_ns() // 1_000_000,
                newest_only=serving.answer_newest_only and feed.waiting >= serving.batch_clicks_max,
            )
            self._halt_if_nothing_decodes(outcome)
            work = Work(taken, self._sessions.stage(outcome.states), outcome)
            self._expiry.observe(outcome.states)
            self._instruments.computed(outcome, len(taken.records), time.perf_counter() - began)
            await self._pass_on(work)
            expired = self._expiry.due(looked_at=2 * len(taken.records))
            if expired:
                self._instruments.expired(len(expired))
                await self._pass_on(Work(feed.hold(), self._sessions.stage(expired)))

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
        """Send the answers and await their acks; then write the states, and send them to the changelog."""
        while True:
            work = await self._computed.get()
            with self._instruments.stage("deliver"):
                await self._send_answers(work)
            self._set_undelivered(self._undelivered - 1)
            self._instruments.delivered(work.outcome)
            with self._instruments.stage("write"):
                self._sessions.write(work.records)
            await self._send_changelog(work)
            await self._written.put(work)

    async def _send_answers(self, work: Work) -> None:
        topics = self._settings.topics
        answers: dict[int, list[Message]] = {}
        for answer in work.outcome.recommendations:
            answers.setdefault(answer.source.partition, []).append(
                (answer.session_id.encode(), self._encode(answer), ())
            )
        letters: dict[int, list[Message]] = {}
        for letter in work.outcome.dead_letters:
            partition = letter.source.partition % self._dead_letter_partitions
            letters.setdefault(partition, []).append(
                (letter.key, letter.value, letter.all_headers())
            )
        send = self._app.click_producer.send_messages
        sent = []
        for topic, by_partition in (
            (topics.recommendations, answers),
            (topics.dead_letters, letters),
        ):
            for partition, messages in by_partition.items():
                sent += await send(topic, partition, messages)
        await base_offsets(sent)

    async def _send_changelog(self, work: Work) -> None:
        by_partition: dict[int, list[Message]] = {}
        for (partition, session_id), record in work.records.items():
            by_partition.setdefault(partition, []).append((session_id.encode(), record, ()))
        for partition, messages in by_partition.items():
            sent = await self._app.click_producer.send_messages(
                self._settings.topics.sessions, partition, messages
            )
            work.changelog.append((partition, sent))

    def _set_undelivered(self, batches: int) -> None:
        """While answers are on their way, small batches wait: they would only cost more each."""
        self._undelivered = batches
        if batches:
            self._hurry.clear()
        else:
            self._hurry.set()
            self._app.feed.wake()

    # -- stage 3 --------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Await the changelog's acks, check that nobody wrote in between, and let the clicks be committed."""
        while True:
            work = await self._written.get()
            with self._instruments.stage("settle"):
                await self._await_changelog(work)
            self._app.feed.finished(work.taken)
            self._progress_at = time.monotonic()

    async def _await_changelog(self, work: Work) -> None:
        persisted = {}
        for partition, sent in work.changelog:
            for base_offset, count in await base_offsets(sent):
                persisted[partition] = self._changelog.check(partition, base_offset, count)
        if persisted:
            self._sessions.set_persisted_offsets(persisted)

    async def _commit(self) -> None:
        """Commit finished clicks every so often, and look at the lag while at it."""
        interval = self._settings.serving.commit_interval_ms / 1000
        while True:
            await asyncio.sleep(interval)
            if not self._app.rebalancing:
                await self._app.click_consumer.commit_finished()
                self._instruments.lag(self._app.click_consumer.lag(), self._app.feed.waiting)
                self._instruments.statistics(
                    self._answers.statistics_version, self._answers.statistics_staleness_seconds
                )


def die(error: BaseException) -> None:
    """End the process at once, acknowledging nothing more; a supervisor starts the next."""
    log.error("worker_ends", error=str(error), kind=type(error).__name__, exc_info=error)
    os._exit(InvariantError.exit_status)

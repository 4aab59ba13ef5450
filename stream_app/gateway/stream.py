"""Reading along: answers at once, for those who wait; clicks a moment later, many together, for the figures."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from stream_app.adapters.gateway_instruments import GatewayInstruments
from stream_app.adapters.stream_tail import StreamTail
from stream_app.core.errors import ServiceAwayError
from stream_app.core.pipeline import ClickRecord
from stream_app.core.records import UNREADABLE, Click, recommendation_id
from stream_app.gateway.live import LiveFeed
from stream_app.gateway.memory import ItemMemory, RememberedClick, SessionMemory
from stream_app.gateway.records import Judged
from stream_app.gateway.waiting import Waits
from stream_app.logging_setup import get_logger
from stream_app.settings import Settings
from stream_app.tools.live_numbers import SeenClick
from stream_app.tools.watch import live_numbers

POLL_SECONDS: Final = 0.5
SLICE_RECORDS: Final = 100
"""Counted at a time; then callers get their turn."""
WAITING_CLICKS_MAX: Final = 20_000
JUDGED_SESSIONS_MAX: Final = 50_000
PROBE_SECONDS: Final = 2.0
PROBE_TIMEOUT_SECONDS: Final = 3.0
STALLED_SECONDS: Final = 30.0
"""The event loop did not come round for so long: /healthz asks to be restarted."""
NO_CONSENT: Final = "no_consent"

log = get_logger("gateway")


class _AnswerHead(msgspec.Struct):
    """As much of an answer as is looked at for each of them."""

    recommendation_id: str
    session_id: str
    fallback: str | None = None


class StreamReading:
    """Everything that is known from the stream.  `start`, then `run` until cancelled, then `close`."""

    def __init__(
        self,
        settings: Settings,
        instruments: GatewayInstruments,
        live: LiveFeed,
        sessions: SessionMemory,
        items: ItemMemory,
    ) -> None:
        topics = settings.topics
        self._instruments, self._live = instruments, live
        self._sessions, self._items = sessions, items
        self.waits = Waits()
        self._answers = StreamTail(settings.kafka, (topics.recommendations,))
        self._clicks = StreamTail(
            settings.kafka, (topics.clicks, topics.dead_letters), is_patient=True
        )
        self.numbers = live_numbers(
            settings,
            sessions_max=JUDGED_SESSIONS_MAX,
            waiting_max=WAITING_CLICKS_MAX,
            listener=self,
        )
        self._decode_head = msgspec.json.Decoder(_AnswerHead).decode
        self._is_ready, self._reason = False, "connecting to Kafka"
        self._turned_at = time.monotonic()

    async def start(self) -> None:
        """Raises `ServiceAwayError` without a broker, `ConfigurationError` without the topics."""
        await self._clicks.start()  # first, so that no answer to a click we see is missed
        await self._answers.start()
        self._say_ready(True, "reading answers")

    async def close(self) -> None:
        await self._answers.close()
        await self._clicks.close()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_answers())
            tasks.create_task(self._read_clicks())
            tasks.create_task(self._probe())

    def readiness(self) -> tuple[bool, str]:
        return self._is_ready, self._reason

    def health(self) -> tuple[bool, str]:
        since = time.monotonic() - self._turned_at
        return since < STALLED_SECONDS, f"last turn {since:.1f} s ago"

    # -- the stream -----------------------------------------------------------------------------------

    async def _read_answers(self) -> None:
        while True:
            records = await self._answers.poll(POLL_SECONDS)
            self._turned_at = time.monotonic()
            self._take_answers(records)
            await self._count(records)

    async def _read_clicks(self) -> None:
        while True:
            await self._count(await self._clicks.poll(POLL_SECONDS))

    async def _count(self, records: Sequence[Any]) -> None:
        for start in range(0, max(len(records), 1), SLICE_RECORDS):
            self.numbers.take(records[start : start + SLICE_RECORDS], time.monotonic())
            await asyncio.sleep(0)

    def _take_answers(self, records: Sequence[Any]) -> None:
        """First of all: somebody may wait for one of them."""
        for record in records:
            if not record.value:
                continue
            try:
                head = self._decode_head(record.value)
            except UNREADABLE:
                continue  # somebody else's; `LiveNumbers` counts it
            self.waits.take(head.session_id, head.recommendation_id, record.value)
            if head.fallback != NO_CONSENT:
                self._sessions.add_answer(head.session_id, head.recommendation_id, record.value)

    def on_seen(self, record: ClickRecord, click: Click, seen: SeenClick) -> None:
        """`live_numbers.Listener`."""
        click_id = recommendation_id(record.topic, record.partition, record.offset)
        judged = None
        if seen.shown_version is not None:
            judged = Judged(seen.shown_version, seen.hit_rank)
        self._items.add_click(click, self._turned_at)
        remembered = RememberedClick(click_id, click.item_id, click.event_time_ms, judged)
        self._sessions.add_click(click.session_id, remembered)
        self._live.sample(click.session_id, remembered)

    def on_forgotten(self, session_id: str) -> None:
        """`live_numbers.Listener`."""
        self._sessions.forget(session_id)

    async def _probe(self) -> None:
        """Ask the broker now and then: neither client says by itself that it is away."""
        while True:
            try:
                behind = await self._answers.behind(PROBE_TIMEOUT_SECONDS)
                behind += await self._clicks.behind(PROBE_TIMEOUT_SECONDS)
            except ServiceAwayError as error:
                self._say_ready(False, str(error))
            else:
                self._instruments.behind.set(behind)
                self._say_ready(True, "reading answers")
            await asyncio.sleep(PROBE_SECONDS)

    def _say_ready(self, is_ready: bool, reason: str) -> None:
        if is_ready != self._is_ready:
            log.info("kafka_answers" if is_ready else "kafka_away", reason=reason)
        self._is_ready, self._reason = is_ready, reason
        self._instruments.is_ready.set(is_ready)

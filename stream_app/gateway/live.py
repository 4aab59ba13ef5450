"""The live feed: figures every second and a sample of the answers, as server-sent events.

A reader that is too slow for it is cut off: nothing is kept for him but a few events.
"""

import asyncio
import json
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from stream_app.adapters.gateway_instruments import GatewayInstruments
from stream_app.core.records import NO_MODEL
from stream_app.gateway.memory import ItemMemory, RememberedClick, SessionMemory
from stream_app.gateway.records import Figures, LatencyMs, ModelFigures, SampledAnswer, SwapFigures
from stream_app.gateway.shown import shown_answer
from stream_app.logging_setup import pseudonym
from stream_app.tools.latencies import percentile
from stream_app.tools.live_numbers import LiveNumbers, VersionQuality

HISTORY_MAX: Final = 300
MODELS_MAX: Final = 5
SWAPS_MAX: Final = 20
SAMPLE_SECONDS: Final = 0.2
SAMPLED_ITEMS: Final = 5
WAITING_EVENTS_MAX: Final = 20
"""Not taken by a reader: three seconds' worth."""
SEND_BUFFER_BYTES: Final = 32 * 1024
"""Of a reader's connection, in the kernel: it would take megabytes in otherwise."""
COMMENT_SECONDS: Final = 15.0
_REPORT_SECONDS: Final = 2.0

_encode = msgspec.json.Encoder().encode


def event(name: str, data: bytes) -> bytes:
    """One event as it goes over the wire; JSON has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class Reader:
    """One who reads the feed."""

    def __init__(self, cut_off: Callable[[], None]) -> None:
        self._events: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._cut_off = cut_off
        self.is_over = False

    def give(self, data: bytes) -> bool:
        """False: the reader is too slow, and was cut off."""
        if len(self._events) >= WAITING_EVENTS_MAX:
            self.end()
            self._cut_off()
            return False
        self._events.append(data)
        self._arrived.set()
        return True

    def end(self) -> None:
        self.is_over = True
        self._events.clear()
        self._arrived.set()

    async def next(self) -> bytes:
        """What is there, or a comment after a while of silence."""
        self._arrived.clear()
        if not self._events and not self.is_over:
            try:
                async with asyncio.timeout(COMMENT_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                return b": nothing new\n\n"
        data = b"".join(self._events)
        self._events.clear()
        return data


class LiveFeed:
    """Everybody who reads along.  `tell` once a second, `sample` with every click."""

    def __init__(
        self,
        instruments: GatewayInstruments,
        sessions: SessionMemory,
        items: ItemMemory,
        *,
        readers_max: int,
        name_sessions: bool,
    ) -> None:
        self._instruments, self._sessions, self._items = instruments, sessions, items
        self._readers: set[Reader] = set()
        self._readers_max, self._name_sessions = readers_max, name_sessions
        self._history: deque[bytes] = deque(maxlen=HISTORY_MAX)
        self._sampled_at = 0.0
        self._is_over = False

    @property
    def is_full(self) -> bool:
        return len(self._readers) >= self._readers_max

    def tell(self, figures: Figures) -> None:
        data = _encode(figures)
        self._history.append(data)
        self._publish(event("figures", data))

    def sample(self, session_id: str, click: RememberedClick) -> None:
        """Show it, if it is time for another one."""
        now = time.monotonic()
        if not self._readers or now < self._sampled_at + SAMPLE_SECONDS:
            return
        self._sampled_at = now
        trace = self._sessions.find(session_id)
        raw = trace.answers.get(click.recommendation_id) if trace else None
        title_of = self._items.title_of
        sampled = SampledAnswer(
            session=pseudonym(session_id),
            session_id=session_id if self._name_sessions else None,
            at_ms=time.time_ns() // 1_000_000,
            item_id=click.item_id,
            title=title_of(click.item_id),
            judged=click.judged,
            answer=shown_answer(raw, title_of, SAMPLED_ITEMS) if raw else None,
        )
        self._publish(event("answer", _encode(sampled)))

    def end(self) -> None:
        """The process ends: so do the streams."""
        self._is_over = True
        for reader in self._readers:
            reader.end()

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application: the feed for one reader, until he leaves or is too slow."""
        reader = Reader(_abort(scope))
        reader.give(event("history", b'{"figures":[%s]}' % b",".join(self._history)))
        if self._is_over:
            reader.end()
        self._readers.add(reader)
        self._instruments.live_clients.set(len(self._readers))
        watching = asyncio.create_task(_until_left(receive, reader))
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not reader.is_over:
                body = await reader.next()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            watching.cancel()
            self._readers.discard(reader)
            self._instruments.live_clients.set(len(self._readers))

    def _publish(self, data: bytes) -> None:
        for reader in list(self._readers):
            if not reader.give(data):
                self._readers.discard(reader)
                self._instruments.live_cut_off.inc()


async def _until_left(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.end()


def _abort(scope: Scope) -> Callable[[], None]:
    """How to end the connection at once, without waiting for a reader who does not read."""
    transport = scope.get("nextclick.transport")
    if transport is None:
        return lambda: None
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    abort: Callable[[], None] = transport.abort
    return abort


# -- figures -----------------------------------------------------------------------------------------


class FiguresMaker:
    """What the stream's numbers are right now."""

    def __init__(
        self,
        numbers: LiveNumbers,
        live_version: Callable[[], str | None],
        simulator_report: Path | None,
    ) -> None:
        self._numbers, self._live_version = numbers, live_version
        self._report = simulator_report
        self._best: float | None = None
        self._look_at = 0.0

    def figures(self, now: float) -> Figures:
        """now: the clock that the numbers are fed with."""
        numbers = self._numbers
        counts = numbers.latencies.last_minute(now)
        wall_ms = time.time_ns() // 1_000_000
        return Figures(
            at_ms=wall_ms,
            clicks_per_second=round(numbers.clicks_per_second(now), 1),
            latency_ms=LatencyMs(percentile(counts, 0.5), percentile(counts, 0.99)),
            clicks=numbers.produced,
            recommended=numbers.recommended,
            dead_lettered=numbers.dead_lettered,
            ignored=numbers.ignored,
            live_version=self._live_version(),
            models=self._models(),
            swaps=[
                SwapFigures(swap.version, swap.first_answer_ms, swap.longest_gap_ms)
                for swap in numbers.swap_gaps.swaps[1:][-SWAPS_MAX:]
            ],
            best_possible_hit_rate_20=self._best_possible(now),
        )

    def _models(self) -> list[ModelFigures]:
        numbers = self._numbers
        newest = [pair for pair in numbers.versions.items() if pair[0] != NO_MODEL][-MODELS_MAX:]
        return [_model(NO_MODEL, numbers.popularity_quality()), *(_model(*pair) for pair in newest)]

    def _best_possible(self, now: float) -> float | None:
        if self._report is not None and now >= self._look_at:
            self._look_at = now + _REPORT_SECONDS
            with suppress(OSError, ValueError, KeyError, TypeError):  # not written yet, or just now
                self._best = json.loads(self._report.read_bytes())["best_possible_hit_rate_20"]
        return self._best or None


def _model(version: str, quality: VersionQuality) -> ModelFigures:
    return ModelFigures(
        version=version,
        answers=quality.answers,
        predictions=quality.live.predictions,
        hits=quality.live.hits,
        reciprocal_rank=round(quality.live.reciprocal_rank, 3),
        popularity_hits=quality.popularity.hits,
        popularity_reciprocal_rank=round(quality.popularity.reciprocal_rank, 3),
    )

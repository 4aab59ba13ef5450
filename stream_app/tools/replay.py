"""`nextclick replay`: a recorded click file into the click topic, at its own speed or another."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from stream_app.adapters.click_producer import ClickProducer
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.core.clicks import encode_click
from stream_app.core.records import Click
from stream_app.files.click_files import count_clicks, detect_format, iter_clicks
from stream_app.settings import Settings
from stream_app.tools.interruption import sleep_until, stop_on_signals

SLICE: Final = 500
"""Clicks sent between two looks at the clock, the stop signal and the acks."""
WAKE_SECONDS: Final = 0.02
"""At a set speed: clicks due within so long go out together."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    path: Path
    speed: float | None = 1.0
    """So many times the recorded speed; None: as fast as it goes."""
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    order: Literal["time", "file"] = "time"
    start_ms: int | None = None
    """Only clicks from this event time on,"""
    end_ms: int | None = None
    """and before this one."""
    limit: int | None = None
    shift_to_now: bool = False
    """Move all event times so that the first is now."""


class ReplayReport(msgspec.Struct, kw_only=True):
    """What `--report` writes; also complete enough while it grows."""

    file: str
    format: str
    speed: float | Literal["max"]
    clicks: int = 0
    """Sent and acknowledged by the broker."""
    seconds: float = 0.0
    clicks_per_second: float = 0.0
    first_event_time_ms: int | None = None
    """As sent (after any shift)."""
    last_event_time_ms: int | None = None
    behind_seconds_max: float = 0.0
    """How late a click went out at worst, at a set speed: large if the broker or this machine is slow."""
    finished: bool = False
    """False where it was interrupted."""


class Progress(Protocol):
    """Shows how far it has come."""

    def begin(self, total: int | None) -> None: ...
    def update(self, report: ReplayReport) -> None: ...


def replay(settings: Settings, plan: ReplayPlan, progress: Progress) -> ReplayReport:
    """Send the file's clicks, keyed by session id.  SIGINT and SIGTERM end it cleanly.

    The broker is asked first, so that nobody waits for a long file to be read and sorted in vain.
    Raises `ServiceAwayError`, `ConfigurationError` (topics) or `ClickFileError`.
    """
    ensure_topics(settings.kafka, settings.topics)
    kind = plan.format or detect_format(plan.path)
    total = count_clicks(plan.path) if plan.start_ms is None and plan.end_ms is None else None
    if plan.limit is not None:
        total = min(plan.limit, total or plan.limit)
    report = ReplayReport(
        file=str(plan.path), format=kind, speed="max" if plan.speed is None else plan.speed
    )
    progress.begin(total)
    asyncio.run(_Replay(settings, plan, progress, report).run())
    return report


class _Replay:
    def __init__(
        self, settings: Settings, plan: ReplayPlan, progress: Progress, report: ReplayReport
    ) -> None:
        self._plan, self._progress, self._report = plan, progress, report
        self._producer = ClickProducer(settings.kafka, settings.topics.clicks)

    async def run(self) -> None:
        report = self._report
        with stop_on_signals() as stop:
            async with self._producer as producer:
                clicks = await asyncio.to_thread(_first_read, clicks_of(self._plan))
                self._began = time.monotonic()
                try:
                    if self._plan.speed is None:
                        await self._as_fast_as_it_goes(clicks, stop)
                    else:
                        await self._at_speed(clicks, self._plan.speed, stop)
                    await producer.flush()
                finally:
                    self._count()
                report.finished = not stop.is_set()
                self._progress.update(report)

    async def _as_fast_as_it_goes(self, clicks: Iterator[Click], stop: asyncio.Event) -> None:
        while not stop.is_set():
            some = list(islice(clicks, SLICE))
            if not some:
                return
            await self._send(some)
            # Lets the client's own tasks run; sending alone does not always give way.
            await asyncio.sleep(0)
            self._count()
            self._progress.update(self._report)

    async def _at_speed(self, clicks: Iterator[Click], speed: float, stop: asyncio.Event) -> None:
        first_ms: int | None = None
        due: list[Click] = []
        for click in clicks:
            if first_ms is None:
                first_ms = click.event_time_ms
            wanted = (click.event_time_ms - first_ms) / 1000 / speed
            elapsed = time.monotonic() - self._began
            if wanted > elapsed or len(due) >= SLICE:
                await self._send(due)
                await self._producer.push()
                due = []
                self._count()
                self._progress.update(self._report)
                # A long pause of the log is slept through in pieces, so that progress goes on.
                while (ahead := wanted - (time.monotonic() - self._began)) > 0:
                    await sleep_until(stop, min(max(ahead, WAKE_SECONDS), 1.0))
                    if stop.is_set():
                        return
                    self._count()
                    self._progress.update(self._report)
            behind = time.monotonic() - self._began - wanted
            self._report.behind_seconds_max = max(self._report.behind_seconds_max, behind)
            due.append(click)
            if stop.is_set():
                return
        await self._send(due)

    async def _send(self, clicks: list[Click]) -> None:
        report = self._report
        for click in clicks:
            await self._producer.send(click.session_id.encode(), encode_click(click))
        if clicks:
            if report.first_event_time_ms is None:
                report.first_event_time_ms = clicks[0].event_time_ms
            report.last_event_time_ms = clicks[-1].event_time_ms

    def _count(self) -> None:
        report = self._report
        report.clicks = self._producer.stored
        report.seconds = round(time.monotonic() - self._began, 3)
        report.clicks_per_second = round(report.clicks / max(report.seconds, 1e-3), 1)


def clicks_of(plan: ReplayPlan) -> Iterator[Click]:
    """The clicks as they will be sent: cut, limited, moved in time."""
    clicks = iter_clicks(
        plan.path,
        format=plan.format,
        columns=plan.columns,
        order=plan.order,
        start_ms=plan.start_ms,
        end_ms=plan.end_ms,
    )
    if plan.limit is not None:
        clicks = islice(clicks, plan.limit)
    return _shifted(clicks) if plan.shift_to_now else clicks


def _shifted(clicks: Iterator[Click]) -> Iterator[Click]:
    offset_ms: int | None = None
    for click in clicks:
        if offset_ms is None:
            offset_ms = time.time_ns() // 1_000_000 - click.event_time_ms
        yield msgspec.structs.replace(click, event_time_ms=click.event_time_ms + offset_ms)


def _first_read(clicks: Iterator[Click]) -> Iterator[Click]:
    """Has the file read (and sorted) up to its first click; to be run off the event loop."""
    first = list(islice(clicks, 1))

    def rest() -> Iterator[Click]:
        yield from first
        yield from clicks

    return rest()

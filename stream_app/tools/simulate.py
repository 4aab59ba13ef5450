"""`nextclick simulate`: the simulated shop's visitors click, live into the topic or into a file."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from stream_app.adapters.click_producer import ClickProducer
from stream_app.adapters.kafka_topics import ensure_topics
from stream_app.core.clicks import encode_click
from stream_app.core.errors import ConfigurationError
from stream_app.core.item_attributes import encode_item
from stream_app.core.records import Click
from stream_app.settings import Settings
from stream_app.shop.shop import Shop
from stream_app.tools.interruption import sleep_until, stop_on_signals
from stream_app.tools.reports import write_report

TICK_SECONDS: Final = 0.01
"""Clicks of so long go out together: it adds half of it to what a visitor waits."""
TELL_SECONDS: Final = 5.0
REPORT_SECONDS: Final = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    clicks_per_second: float = 100.0
    seconds: float | None = None
    """Event time to simulate; None: until stopped."""
    seed: int = 0
    bad_share: float = 0.0
    """So many bad clicks more, as a share of the good ones: for the dead letters."""
    out: Path | None = None
    """A file of JSON lines instead of the topic; made as fast as it goes."""
    start_ms: int | None = None
    """Event time of the first moment; by default now, and for a file so that it ends now."""
    report: Path | None = None
    """Rewritten every `REPORT_SECONDS` while it runs."""


class SimulationReport(msgspec.Struct, kw_only=True):
    clicks: int = 0
    """All that were sent (topic: acknowledged), bad ones included."""
    bad_clicks: int = 0
    sessions: int = 0
    seconds: float = 0.0
    """Event time simulated."""
    clicks_per_second: float = 0.0
    best_possible_hit_rate_20: float = 0.0
    """Upper bound for any model; see `stream_app.shop.shop.BestPossible`."""
    best_possible_targets: int = 0
    seed: int = 0
    start_ms: int = 0


def simulate(settings: Settings, plan: SimulationPlan, say: Say) -> SimulationReport:
    """Run until the plan's seconds are over or SIGINT or SIGTERM comes.

    Raises `ServiceAwayError` or `ConfigurationError`.
    """
    if plan.out is not None:
        if plan.seconds is None:
            raise ConfigurationError("--out needs an end: add --seconds, e.g. --seconds 600")
        return _into_file(plan, plan.out, plan.seconds, say)
    ensure_topics(settings.kafka, settings.topics)
    return asyncio.run(_into_topic(settings, plan, say))


class _Simulation:
    """A shop, its bad clicks, and what has come of it so far."""

    def __init__(self, plan: SimulationPlan, start_ms: int) -> None:
        self.plan, self.start_ms = plan, start_ms
        self.shop = Shop(
            seed=plan.seed, start_ms=start_ms, clicks_per_second=plan.clicks_per_second
        )
        # Of their own, so that the shop's clicks are the same with and without bad ones.
        self._chance = random.Random(plan.seed)  # noqa: S311 - chance, no secret
        self.bad_clicks = 0

    def messages_until(self, end_ms: float) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each message up to that event time."""
        for click in self.shop.clicks_until(end_ms):
            key, value = click.session_id.encode(), encode_click(click)
            yield key, value
            if self._chance.random() < self.plan.bad_share:
                self.bad_clicks += 1
                yield key, bad_click(click, self._chance)

    def descriptions(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each message for the items topic since the last call."""
        return map(encode_item, self.shop.take_descriptions())

    def report(self, clicks: int, now_ms: float) -> SimulationReport:
        seconds = (now_ms - self.start_ms) / 1000
        return SimulationReport(
            clicks=clicks,
            bad_clicks=self.bad_clicks,
            sessions=self.shop.sessions_started,
            seconds=round(seconds, 3),
            clicks_per_second=round(clicks / max(seconds, 1e-3), 1),
            best_possible_hit_rate_20=round(self.shop.hit_rate_20(), 5),
            best_possible_targets=self.shop.best_possible.targets,
            seed=self.plan.seed,
            start_ms=self.start_ms,
        )


def bad_click(click: Click, chance: random.Random) -> bytes:
    """What broken producers send: the click cut off, without its item, with a wrong type, and so on."""
    value = encode_click(click)
    fields = msgspec.json.decode(value)
    kind = chance.randrange(6)
    if kind == 0:
        return value[: len(value) // 2]
    if kind == 1:
        return value.replace(b"item", b"item\xff", 1)
    if kind == 2:
        del fields["item_id"]
    elif kind == 3:
        fields["session_id"] = {"id": fields["session_id"]}
    elif kind == 4:
        fields["event_time"] = "9999-12-31T23:59:59Z"
    else:
        fields["session_id"] = ""
    return msgspec.json.encode(fields)


def _into_file(plan: SimulationPlan, out: Path, seconds: float, say: Say) -> SimulationReport:
    start_ms = plan.start_ms
    if start_ms is None:
        start_ms = time.time_ns() // 1_000_000 - round(seconds * 1000)
    simulation = _Simulation(plan, start_ms)
    end_ms = start_ms + seconds * 1000
    count = 0
    try:
        with out.open("wb") as stream:
            for _, value in simulation.messages_until(end_ms):
                stream.write(value + b"\n")
                count += 1
    except OSError as error:
        raise ConfigurationError(
            f"--out {out} cannot be written ({error.strerror or error}): name another file"
        ) from error
    report = simulation.report(count, end_ms)
    say(_line(report))
    if plan.report is not None:
        write_report(plan.report, report)
    return report


async def _into_topic(settings: Settings, plan: SimulationPlan, say: Say) -> SimulationReport:
    with stop_on_signals() as stop:
        async with (
            ClickProducer(settings.kafka, settings.topics.clicks) as producer,
            ClickProducer(settings.kafka, settings.topics.items) as descriptions,
        ):
            began = time.monotonic()
            now_ms = time.time() * 1000
            # A start in the past is simulated in real time all the same, from there on.
            simulation = _Simulation(plan, int(now_ms if plan.start_ms is None else plan.start_ms))
            tell_at, report_at = TELL_SECONDS, 0.0
            elapsed = 0.0
            while not stop.is_set() and (plan.seconds is None or elapsed < plan.seconds):
                await sleep_until(stop, TICK_SECONDS)
                elapsed = time.monotonic() - began
                if plan.seconds is not None:
                    elapsed = min(elapsed, plan.seconds)
                for key, value in simulation.descriptions():
                    await descriptions.send(key, value)
                await descriptions.push()
                for key, value in simulation.messages_until(simulation.start_ms + elapsed * 1000):
                    await producer.send(key, value)
                await producer.push()
                if elapsed >= tell_at or (plan.report is not None and elapsed >= report_at):
                    report = simulation.report(
                        producer.stored, simulation.start_ms + elapsed * 1000
                    )
                    if elapsed >= tell_at:
                        tell_at = elapsed + TELL_SECONDS
                        say(_line(report))
                    if plan.report is not None:
                        report_at = elapsed + REPORT_SECONDS
                        write_report(plan.report, report)
            await descriptions.flush()
            await producer.flush()
            report = simulation.report(producer.stored, simulation.start_ms + elapsed * 1000)
            say(_line(report))
            if plan.report is not None:
                write_report(plan.report, report)
            return report


def _line(report: SimulationReport) -> str:
    bad = f" ({report.bad_clicks:,} of them bad)" if report.bad_clicks else ""
    return (
        f"{report.clicks:,} clicks{bad} in {report.seconds:.0f} s, {report.clicks_per_second:,.0f}/s, "
        f"{report.sessions:,} sessions; best possible hit rate@20: {report.best_possible_hit_rate_20:.3f}"
    )

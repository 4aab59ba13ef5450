"""`nextclick watch`: reads along with the stream from now on, and shows it."""

import time
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console

from stream_app.adapters.stream_reader import StreamReader
from stream_app.core.pipeline import ServingRules
from stream_app.core.records import NO_MODEL
from stream_app.core.statistics import MINUTE_MS
from stream_app.settings import Settings
from stream_app.tools import live_view
from stream_app.tools.latencies import percentile
from stream_app.tools.live_numbers import (
    SESSIONS_MAX,
    Listener,
    LiveNumbers,
    StreamTopics,
    VersionQuality,
)
from stream_app.tools.reports import write_report


def watch(
    settings: Settings,
    console: Console,
    stop: Event,
    *,
    seconds: float | None = None,
    report: Path | None = None,
) -> None:
    """Watch until `stop` is set or `seconds` are over; then sum up, and write the report.

    Answers are judged from the second click on of each session that was met.  Raises
    `ServiceAwayError` without a broker, `ConfigurationError` where a topic or the report is amiss.
    """
    began = time.monotonic()
    numbers = live_numbers(settings)
    sample = live_view.ClickSample()

    def facts() -> str:
        return (
            f"{time.monotonic() - began:,.0f} s at {settings.kafka.bootstrap_servers}: "
            f"{numbers.produced:,} clicks, {numbers.recommended:,} answers"
        )

    display = live_view.Display(
        console,
        lambda: live_view.picture(
            "nextclick watch", facts(), numbers, sample, console=console, now=time.monotonic()
        ),
        lambda: f"{facts()}  {live_view.status_line(numbers, time.monotonic(), best=None)}",
    )
    topics = settings.topics
    names = (topics.clicks, topics.recommendations, topics.dead_letters)
    with StreamReader(settings.kafka, names, from_beginning=False) as reader, display:
        while not stop.is_set() and (seconds is None or time.monotonic() - began < seconds):
            numbers.take(reader.poll(0.2), time.monotonic())
            display.tick()
    live_view.say(console, facts())
    console.print(live_view.quality_table(numbers, best=None, models=10))
    if report is not None:
        write_report(report, watch_report(numbers, time.monotonic() - began))


def live_numbers(
    settings: Settings,
    *,
    sessions_max: int = SESSIONS_MAX,
    waiting_max: int | None = None,
    listener: Listener | None = None,
) -> LiveNumbers:
    """Numbers that follow the same rules as a worker with these settings."""
    topics, serving = settings.topics, settings.serving
    return LiveNumbers(
        StreamTopics(topics.clicks, topics.recommendations, topics.dead_letters),
        ServingRules(
            limits=settings.session,
            event_types=frozenset(serving.event_types),
            ahead_ms_max=serving.event_time_ahead_hours_max * 3_600_000,
        ),
        half_life_ms=settings.statistics.half_life_minutes * MINUTE_MS,
        popularity_items_max=settings.statistics.items_max,
        newest_only=serving.answer_newest_only,
        sessions_max=sessions_max,
        waiting_max=waiting_max,
        listener=listener,
    )


def watch_report(numbers: LiveNumbers, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 3),
        "clicks": numbers.produced,
        "recommendations": numbers.recommended,
        "clicks_per_second": round(numbers.produced / seconds, 1) if seconds else 0.0,
        "latency_ms": latency_fields(numbers),
        "models": models_fields(numbers),
    }


def latency_fields(numbers: LiveNumbers) -> dict[str, int | None]:
    """Over all answers seen, milliseconds from Kafka's timestamp of the click."""
    counts = numbers.latencies.overall
    return {"p50": percentile(counts, 0.5), "p99": percentile(counts, 0.99)}


def models_fields(numbers: LiveNumbers) -> list[dict[str, Any]]:
    """Popularity first, as version `none`; its `answers` are 0 where it was only counted beside."""
    models = [(name, q) for name, q in numbers.versions.items() if name != NO_MODEL]
    return [
        model_fields(version, quality)
        for version, quality in ((NO_MODEL, numbers.popularity_quality()), *models)
    ]


def model_fields(version: str, quality: VersionQuality) -> dict[str, Any]:
    """One version's live quality, and popularity's on the same clicks; null where none was judged."""

    def rate(total: float) -> float | None:
        count = quality.live.predictions
        return round(total / count, 5) if count else None

    return {
        "version": version,
        "answers": quality.answers,
        "predictions": quality.live.predictions,
        "hit_rate_20": rate(quality.live.hits),
        "mrr_20": rate(quality.live.reciprocal_rank),
        "popularity_hit_rate_20": rate(quality.popularity.hits),
        "popularity_mrr_20": rate(quality.popularity.reciprocal_rank),
    }

"""How a demo went: the report for machines, the summary for people."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from stream_app.core.records import NO_MODEL
from stream_app.demo.services import Problem
from stream_app.tools.live_numbers import LiveNumbers
from stream_app.tools.live_view import quality_table, say
from stream_app.tools.watch import latency_fields, models_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFacts:
    """What the numbers do not know themselves.  Seconds since the command began."""

    seconds: float
    first_recommendation: float | None
    first_model: float | None
    streamed_seconds: float
    best: float | None
    restarts: int
    data: str | None


def demo_report(numbers: LiveNumbers, facts: DemoFacts) -> dict[str, Any]:
    """The report's fields; latency and quality are null where there is nothing to tell yet."""
    first_version = next(iter(numbers.versions), None)
    return {
        "clicks": {
            "produced": numbers.produced,
            "recommended": numbers.recommended,
            "dead_lettered": numbers.dead_lettered,
            "ignored": sum(numbers.ignored.values()),
        },
        "seconds_to_first_recommendation": _rounded(facts.first_recommendation),
        "seconds_to_first_model": _rounded(facts.first_model),
        "latency_ms": latency_fields(numbers),
        "models": models_fields(numbers),
        "best_possible_hit_rate_20": None if facts.best is None else round(facts.best, 5),
        "ignored_by_reason": numbers.ignored,
        "repeated_answers": numbers.repeated_answers,
        "clicks_per_second": _per_second(numbers, facts),
        "swaps": [
            {
                "version": swap.version,
                "longest_gap_ms": swap.longest_gap_ms,
                "answers_around": swap.answers,
            }
            for swap in numbers.swap_gaps.swaps
            if swap.version != first_version
        ],
        "restarts": facts.restarts,
        "data": facts.data,
        "seconds": round(facts.seconds, 1),
    }


def print_summary(
    console: Console, numbers: LiveNumbers, facts: DemoFacts, problems: Sequence[Problem]
) -> None:
    """Counts, times and the table of live quality."""
    ignored = ", ".join(
        f"{n:,} {reason.replace('_', ' ')}" for reason, n in numbers.ignored.items()
    )
    latency = latency_fields(numbers)
    lines = [
        f"{numbers.produced:,} clicks = {numbers.recommended:,} recommended"
        f" + {numbers.dead_lettered:,} dead-lettered + {sum(numbers.ignored.values()):,} ignored"
        + (f" ({ignored})" if ignored else ""),
    ]
    if numbers.recommended:
        lines.append(
            f"{_per_second(numbers, facts):,} clicks/s, answered in p50 {latency['p50']:,} ms, "
            f"p99 {latency['p99']:,} ms; the first {facts.first_recommendation:.0f} s after the start"
        )
    if facts.first_model is not None:
        lines.append(f"first trained model live after {facts.first_model:.0f} s")
    elif numbers.recommended:
        lines.append("no trained model came live; the statistics answered")
    for swap in numbers.swap_gaps.swaps[1:]:
        to = "statistics" if swap.version == NO_MODEL else swap.version
        lines.append(
            f"swap to {to}: longest gap among the {swap.answers:,} answers around it "
            f"{swap.longest_gap_ms} ms"
        )
    for text in lines:
        say(console, text)
    if numbers.recommended:
        say(console, "")
        console.print(quality_table(numbers, best=facts.best, models=10))
    for problem in problems:
        say(console, f"\n{problem.name} had ended with status {problem.status}:\n{problem.log}")


def best_possible(traffic_report: Path) -> float | None:
    """Hit rate@20 of the best of all models, as the simulated shop last wrote it."""
    try:
        value = json.loads(traffic_report.read_text())["best_possible_hit_rate_20"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(value) if value else None


def _per_second(numbers: LiveNumbers, facts: DemoFacts) -> float:
    return round(numbers.produced / facts.streamed_seconds, 1) if facts.streamed_seconds else 0.0


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)

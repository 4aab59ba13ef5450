"""How long clicks go unanswered around a fault that comes from outside the worker, and what it costs."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.chaos.lab import PATIENCE_SECONDS, Stream
from tests.chaos.row import Finding
from tests.chaos.supervisor import Supervisor

GOAL_SECONDS: Final = 30.0
"""From the end of a fault to progress in every partition: the goal that a note is made of."""


@dataclass(frozen=True)
class Outage:
    """One fault, seen from the answers."""

    silence_seconds: float
    """The longest that some partition went without a new answer, from the fault to progress."""
    recovery_seconds: float
    """From the end of the fault until every partition had an answer given after it."""

    @classmethod
    @contextmanager
    def of(cls, stream: Stream, outages: list["Outage"]) -> Iterator[None]:
        """The block holds the fault, from its begin to its end; adds to `outages` once progress is seen."""
        began_ms = time.time() * 1000
        yield
        recovery = answered_everywhere(stream, time.time() * 1000)
        outages.append(cls(longest_silence(stream, began_ms), recovery))

    @staticmethod
    def finding(
        stream: Stream, name: str, runs: int, outages: list["Outage"], supervisor: Supervisor
    ) -> Finding:
        """The stream's verdict with what its outages took, in words too."""
        silence = max(outage.silence_seconds for outage in outages)
        ends = ", ".join(supervisor.ends) or "none"
        late = sum(outage.recovery_seconds > GOAL_SECONDS for outage in outages)
        note = f"longest silence {silence:.1f} s; worker restarts: {ends}"
        if late:
            note += f"; {late} of {len(outages)} above {GOAL_SECONDS:.0f} s"
        return stream.verdict(
            name, runs, recovery_seconds=[o.recovery_seconds for o in outages], note=note
        )


def answered_everywhere(
    stream: Stream, moment_ms: float, *, seconds: float = PATIENCE_SECONDS
) -> float:
    """Wait until each partition has an answer given after that moment; the seconds from it until now."""
    for partition in range(stream.topics.partitions):
        stream.wait_for_answer_after(moment_ms, {partition}, seconds=seconds)
    return time.time() - moment_ms / 1000


def longest_silence(stream: Stream, since_ms: float) -> float:
    """Seconds: the longest pause between two answers of one partition that ended after that moment."""
    pauses = [0.0]
    for partition in range(stream.topics.partitions):
        times = stream.answers.times_ms({partition})
        pauses += [
            (after - before) / 1000
            for before, after in itertools.pairwise(times)
            if after > since_ms
        ]
    return max(pauses)

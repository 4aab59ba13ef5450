"""What a row of the table is: a name, what it does to the system, and what it found."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.lab import Lab

_STARTED = time.monotonic()


@dataclass(frozen=True)
class Scale:
    """How much of a row to run, and the seed of everything random in it."""

    short: bool
    seed: int = 0

    def times(self, full: int, short: int) -> int:
        """The number for this scale."""
        return short if self.short else full


@dataclass(frozen=True)
class Finding:
    """What one variant of a row came to."""

    name: str
    runs: int
    lost: int = 0
    """Clicks that were never answered."""
    doubled: int = 0
    """Session states that differ from the offline replay, or RocksDB from the changelog."""
    repeated: int = 0
    """Answers given again: allowed."""
    differing: int = 0
    """Given again with other content under one model and statistics version: never."""
    recovery_seconds: tuple[float, ...] = ()
    """From each fault to the first new answer; reported, never judged."""
    failures: int = 0
    """Anything else that must not happen."""
    note: str = ""
    figures: tuple[tuple[str, float, str], ...] = ()
    """What else was measured: name, value, unit; reported, never judged."""

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.differing or self.failures)


@dataclass(frozen=True)
class Row:
    """One kind of fault.  `run` yields a finding per variant."""

    name: str
    title: str
    run: Callable[["Lab", Scale], Iterator[Finding]]


def say(words: str) -> None:
    """How far a long row is, for whoever waits, with the seconds since the start."""
    print(f"{time.monotonic() - _STARTED:7.1f} s  {words}", file=sys.stderr, flush=True)

"""Latencies as whole milliseconds: percentiles of the last minute, and of everything since the start."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

WINDOW_SECONDS: Final = 60


class Latencies:
    """Counts per distinct value, so that memory and time depend on the values and not on the clicks."""

    def __init__(self) -> None:
        self.overall: Counter[int] = Counter()
        self._seconds: deque[tuple[int, Counter[int]]] = deque()

    def add(self, latency_ms: int, now: float) -> None:
        """now: seconds, never running backwards."""
        second = int(now)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, Counter()))
            while self._seconds[0][0] <= second - WINDOW_SECONDS:
                self._seconds.popleft()
        self._seconds[-1][1][latency_ms] += 1
        self.overall[latency_ms] += 1

    def last_minute(self, now: float) -> Counter[int]:
        """Counts by value of the last `WINDOW_SECONDS`."""
        merged: Counter[int] = Counter()
        for second, counts in self._seconds:
            if second > now - WINDOW_SECONDS:
                merged.update(counts)
        return merged


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """The smallest value that at least `share` of the counted do not exceed; None of nothing.

    >>> percentile({3: 98, 7: 1, 40: 1}, 0.99)
    7
    """
    wanted = share * sum(counts.values())
    reached = 0
    for value in sorted(counts):
        reached += counts[value]
        if reached >= wanted:
            return value
    return None

"""How long answers paused around each model swap: the longest gap between two answers there."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

AROUND_MS: Final = 1_000
"""Looked at before and after a swap."""
_SETTLED_SECONDS: Final = 3.0
"""So long after a swap was seen, all answers given within `AROUND_MS` of it have been fetched."""
_REMEMBERED_SECONDS: Final = 10.0


@dataclass(slots=True)
class Swap:
    version: str
    seen_at: float
    """Caller's seconds at which its first answer was seen."""
    first_answer_ms: int
    longest_gap_ms: int | None = None
    """None until it is settled."""
    answers: int = 0
    """Given within `AROUND_MS`: with few of them, a gap says how seldom somebody clicked."""


class SwapGaps:
    """Fed with every answer; partitions may come one after another, out of time order."""

    def __init__(self) -> None:
        self.swaps: list[Swap] = []
        self._known: set[str] = set()
        self._answered: deque[list[float]] = deque()
        """Seen at, given at (ms), and how many."""
        self._last_text = ""
        self._last_ms = 0

    def add(self, version: str, generated_at: str, now: float) -> None:
        """generated_at: RFC 3339, as the answer says."""
        if generated_at != self._last_text or not self._answered:
            try:
                given_at_ms = round(datetime.fromisoformat(generated_at).timestamp() * 1000)
            except (ValueError, OverflowError):
                return  # somebody else's answer
            self._last_text, self._last_ms = generated_at, given_at_ms
            self._answered.append([now, self._last_ms, 0])
        self._answered[-1][2] += 1
        if version not in self._known:
            self._known.add(version)
            self.swaps.append(Swap(version, now, self._last_ms))
        elif self.swaps[-1].version == version:
            swap = self.swaps[-1]
            swap.first_answer_ms = min(swap.first_answer_ms, self._last_ms)

    def settle(self, now: float, *, at_once: bool = False) -> None:
        """Measure the swaps that are long enough ago, and forget old answers."""
        for swap in self.swaps[-5:]:
            ripe = at_once or now >= swap.seen_at + _SETTLED_SECONDS
            if ripe and swap.longest_gap_ms is None:
                self._measure(swap)
        while self._answered and self._answered[0][0] < now - _REMEMBERED_SECONDS:
            self._answered.popleft()

    def _measure(self, swap: Swap) -> None:
        around = [
            (ms, count)
            for _, ms, count in self._answered
            if abs(ms - swap.first_answer_ms) <= AROUND_MS
        ]
        given = sorted(ms for ms, _ in around)
        swap.longest_gap_ms = int(max((b - a for a, b in pairwise(given)), default=0))
        swap.answers = int(sum(count for _, count in around))

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


class SwapGaps:
    """Fed with every answer; partitions may come one after another, out of time order."""

    def __init__(self) -> None:
        self.swaps: list[Swap] = []
        self._known: set[str] = set()
        self._answered: deque[tuple[float, int]] = deque()
        """Seen at, and given at (ms); answers of one batch are one."""
        self._last_text = ""
        self._last_ms = 0

    def add(self, version: str, generated_at: str, now: float) -> None:
        """generated_at: RFC 3339, as the answer says."""
        if generated_at != self._last_text:
            self._last_text = generated_at
            self._last_ms = round(datetime.fromisoformat(generated_at).timestamp() * 1000)
            self._answered.append((now, self._last_ms))
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
                swap.longest_gap_ms = self._longest_gap_ms(swap.first_answer_ms)
        while self._answered and self._answered[0][0] < now - _REMEMBERED_SECONDS:
            self._answered.popleft()

    def _longest_gap_ms(self, around_ms: int) -> int:
        given = sorted(ms for _, ms in self._answered if abs(ms - around_ms) <= AROUND_MS)
        return max((b - a for a, b in pairwise(given)), default=0)

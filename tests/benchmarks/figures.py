"""What a benchmark comes to: one line of the table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MORE_IS_BETTER: Final = frozenset({"clicks/s", "records/s", "share"})
"""Units; of all others less is better."""


@dataclass(frozen=True)
class Figure:
    """A measured value beside what it should reach and what bounds it."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    limit: float | None = None
    """What nobody could pass on this machine, measured in the same run."""
    spread: tuple[float, float] | None = None
    """Least and most of the repeated runs of which `value` is the median."""
    note: str = ""
    """What it was measured on, where the name does not say."""

    @property
    def is_met(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.unit in MORE_IS_BETTER else self.value <= self.goal


def median_figure(
    name: str,
    values: Sequence[float],
    unit: str,
    goal: float | None = None,
    limit: float | None = None,
    *,
    note: str = "",
) -> Figure:
    """The median of repeated runs, with their spread."""
    spread = (min(values), max(values)) if len(values) > 1 else None
    return Figure(name, statistics.median(values), unit, goal, limit, spread, note)

"""Named points of the worker's loop, where a test may end, stop or slow the process.

In production nothing happens there.  A crash between any two of them must lose nothing: `make chaos`
kills workers at each.
"""

from collections.abc import Callable
from enum import StrEnum


class LoopPoint(StrEnum):
    """In the order in which a batch passes them; the last three are outside of batches."""

    COMPUTED = "computed"
    ANSWERS_SENT = "answers_sent"
    ANSWERS_ACKED = "answers_acked"
    STATES_STORED = "states_stored"
    """In RocksDB, not yet sent to the changelog."""
    CHANGELOG_SENT = "changelog_sent"
    CHANGELOG_ACKED = "changelog_acked"
    """Every effect of the batch is durable, and its clicks are not yet committed."""
    RESTORING = "restoring"
    """A restore begins, or a chunk of the changelog was restored, and more may follow."""
    HEALING = "healing"
    """Another writer's records were noticed, and are about to be read."""
    SWAPPING = "swapping"
    """The next model is loaded, and not yet live.  Reached in the thread that loads it."""


AtPoint = Callable[[LoopPoint], None]


def nothing_happens(point: LoopPoint) -> None:
    """What production does at every point."""

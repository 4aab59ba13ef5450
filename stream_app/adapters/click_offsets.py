"""Where to read on in a click partition, and what is lost where that is not where we left off.

Kafka deletes clicks after the topic's retention, read or not, and a client left to itself then goes on
wherever the topic begins and says nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from stream_app.core.errors import TopicsChangedError


@dataclass(frozen=True, slots=True)
class LostClicks:
    """Clicks that were deleted before we read them."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    """The first one that is still there."""

    @property
    def count(self) -> int:
        """Offsets in the range; control records of transactions would count with them."""
        return self.next_offset - self.first_offset

    def __str__(self) -> str:
        return (
            f"{self.count} clicks of {self.topic}[{self.partition}] were deleted before they were read: "
            f"offsets {self.first_offset} to {self.next_offset - 1}"
        )


def read_on_from(
    topic: str,
    partition: int,
    wanted: int | None,
    *,
    begin: int,
    end: int,
    on_lost: Callable[[LostClicks], None],
) -> int:
    """The offset to read from.

    wanted: where we left off, None for a partition that was never read; begin, end: what the topic holds,
    end not included.  on_lost is told of clicks that are gone and may raise to halt.  Raises
    `TopicsChangedError` where we left off beyond the end: the log was cut off under us.
    """
    if wanted is None:
        return begin
    if wanted > end:
        raise TopicsChangedError(
            f"{topic}[{partition}] ends at offset {end}, but clicks up to {wanted} were read and committed: "
            "the topic was truncated, or replaced by a backup.  Offsets above the end would be given to "
            "other clicks, which would count as seen.  Restore the topic, or begin afresh: stop all "
            "workers, delete the sessions topic and the consumer group, remove every worker's data_dir, "
            "run `nextclick topics create`, start"
        )
    if wanted < begin:
        on_lost(LostClicks(topic, partition, wanted, begin))
        return begin
    return wanted

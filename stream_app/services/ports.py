"""What the worker's loop needs from outside, as protocols.

The worker gives it Faust, Kafka and RocksDB; the simulation in `tests/model` gives it twins that crash,
stall and reorder under a seed.
"""

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_app.adapters.changelog_topic import ChangelogChunk
from stream_app.adapters.click_feed import ClickFeed
from stream_app.adapters.faust_transport import Message
from stream_app.adapters.rocksdb_sessions import Swept
from stream_app.core.pipeline import DecodedClick, SessionKey
from stream_app.core.ports import Scorer, Statistics
from stream_app.core.session import ChangelogRecord, SessionState


class Acknowledged(Protocol):
    """What the broker says of a stored batch."""

    @property
    def offset(self) -> int:
        """Of the batch's first message."""
        ...


Sent = Sequence[tuple[Awaitable[Acknowledged], int]]
"""Per batch its acknowledgement, to be awaited, and its number of messages."""


class ClickStream(Protocol):
    """Clicks in, messages out, and what the group thinks of us."""

    @property
    def feed(self) -> ClickFeed: ...
    @property
    def generation(self) -> int:
        """Of the consumer group; grows with every rebalance."""
        ...

    @property
    def is_rebalancing(self) -> bool: ...

    async def send(self, topic: str, partition: int, messages: Sequence[Message]) -> Sent:
        """Hand messages to the producer, in order."""
        ...

    async def commit_finished(self) -> None:
        """Commit what the feed says is finished."""
        ...

    async def owns(self, partition: int) -> bool:
        """Whether the group, asked now, still has us as the partition's owner."""
        ...

    async def click_ends(self, partitions: Iterable[int]) -> Mapping[int, int]:
        """Offset after the last click of each partition."""
        ...

    async def lag(self) -> Mapping[int, int]:
        """Clicks not yet done, by partition."""
        ...


class ChangelogSource(Protocol):
    """The changelog topic, read."""

    async def bounds(self, partitions: Iterable[int]) -> Mapping[int, tuple[int, int]]:
        """First offset, and the offset after the last record."""
        ...

    def read(self, ranges: Mapping[int, tuple[int, int]]) -> AsyncIterator[ChangelogChunk]:
        """The records of [start, end) by partition; ends when all were read."""
        ...


class SessionDisk(Protocol):
    """Session records of one worker; what is staged is visible to it, what is written survives it."""

    def get_many(self, keys: Sequence[SessionKey]) -> list[SessionState | None]: ...
    def stage(self, states: Mapping[SessionKey, SessionState]) -> dict[SessionKey, bytes]: ...
    def write(self, records: Mapping[SessionKey, bytes]) -> None: ...
    def forget(self, partition: int, session_ids: Iterable[str]) -> None: ...
    def forget_staged(self) -> None: ...
    def removal(self, offset: int) -> bytes: ...
    def record(self, partition: int, session_id: str) -> bytes | None: ...
    def sweep(self, partition: int, *, after: str, look_at: int, idle_before_ms: int) -> Swept: ...
    def resume_from(self, partition: int, *, begin: int, end: int) -> int: ...
    def set_persisted_offsets(self, offsets: Mapping[int, int]) -> None: ...
    def restore_chunk(
        self,
        partition: int,
        records: Sequence[ChangelogRecord],
        *,
        last_offset: int,
        end_offset: int,
    ) -> tuple[int, list[str]]: ...
    def count_refused(self, records: Sequence[ChangelogRecord], *, end_offset: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Answers:
    """One batch's worth: read once, so that no batch mixes two models or two statistics versions."""

    scorer: Scorer | None
    statistics: Statistics


class AnswerSource(Protocol):
    """What answers are given from right now."""

    @property
    def statistics_version(self) -> int | None: ...
    @property
    def statistics_staleness_seconds(self) -> float: ...

    def now(self) -> Answers:
        """What to answer the next batch from."""
        ...

    def learn(self, clicks: Sequence[DecodedClick]) -> None:
        """These were answered."""
        ...

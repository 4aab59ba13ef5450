"""What the topics carry: clicks in, recommendations and dead letters out."""

from typing import Final, NewType

import msgspec

ItemId = NewType("ItemId", str)
"""What the shop calls an item.  Stable for ever; an item *index* belongs to one vocabulary."""

VIEW_ITEM: Final = "view_item"
ERASE: Final = "erase"
"""Event type that removes a session everywhere: state, changelog, click log."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises for bytes that are not what was asked for: others than msgspec's own errors
come from bad UTF-8, and from fields that nobody asked for and that are nested a thousand deep."""

NO_MODEL: Final = "none"
"""Label of answers given from popularity before any model was live (JSON: `model_version: null`)."""


class Click(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One valid click.  All ids are non-empty strings."""

    session_id: str
    item_id: ItemId
    event_time_ms: int
    """When the visitor clicked (ms since the epoch, UTC), not when Kafka stored the message."""
    event_type: str = VIEW_ITEM
    event_id: str | None = None
    """Names the event across redeliveries by the producer; the key of deduplication."""
    user_id: str | None = None
    recommendation_id: str | None = None
    """The recommendation that showed the clicked item, if the shop tells."""
    consent: bool = True
    properties: msgspec.Raw = msgspec.Raw()
    """Whatever else the producer sent, as the JSON it was; empty where it sent nothing."""


class ClickSource(msgspec.Struct, frozen=True, gc=False):
    """Where a click stands in Kafka; names it for ever."""

    topic: str
    """The click topic."""
    partition: int
    """From 0."""
    offset: int
    """From 0."""


class ScoredItem(msgspec.Struct, frozen=True, gc=False):
    item_id: str
    """What the shop calls it."""
    score: float
    """Rounded to 5 significant digits.  Comparable within one list only."""
    rank: int
    """From 1, best first."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to one click, as the output topic carries it."""

    recommendation_id: str
    """`<topic>-<partition>-<offset>` of the click: the same click always has the same."""
    session_id: str
    """The click's; where it had none, its `visitor_id`."""
    event_id: str | None = None
    """The click's."""
    source: ClickSource
    """Where the click stands."""
    model_version: str | None
    """None before the first model."""
    statistics_version: int | None
    """Version of the stream statistics that the answer was given from, None if none was read yet."""
    generated_at: str
    """RFC 3339, UTC, milliseconds."""
    latency_ms: int
    """From the click's Kafka timestamp to `generated_at`; never negative."""
    items: list[ScoredItem]
    """Best first, `serving.top_k` at most."""
    fallback: str | None
    """None for the model's own answer, else why popularity answered."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that could not be used: original bytes untouched, the reason in headers."""

    source: ClickSource
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    error: str
    """Short class of the fault, e.g. `MalformedJson`: closed set, fit for a metric label."""
    message: str
    """What is wrong and what to do about it."""

    def all_headers(self) -> list[tuple[str, bytes]]:
        """The original headers, then ours."""
        return [
            *self.headers,
            ("nextclick-error", self.error.encode()),
            ("nextclick-message", self.message.encode()),
            ("nextclick-original-topic", self.source.topic.encode()),
            ("nextclick-original-partition", str(self.source.partition).encode()),
            ("nextclick-original-offset", str(self.source.offset).encode()),
            ("nextclick-original-timestamp", str(self.timestamp_ms).encode()),
        ]


def recommendation_id(topic: str, partition: int, offset: int) -> str:
    return f"{topic}-{partition}-{offset}"

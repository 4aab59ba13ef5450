"""The items topic: what the shop knows of each item.  Compacted; the key is the item's id."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer

from stream_app.adapters.compacted_topic import CompactedTopic
from stream_app.adapters.kafka_clients import KafkaConnection, broker_errors, python_client_options
from stream_app.core.errors import BadRecordError
from stream_app.core.item_attributes import (
    ItemAttributes,
    decode_item,
    encode_item,
    item_id_of_key,
)
from stream_app.core.records import ItemId
from stream_app.logging_setup import get_logger

REFUSALS_TOLD: Final = 10
"""Unreadable records that are logged one by one; after these their number alone is."""
_STORE_SECONDS_MAX: Final = 30.0
_IN_FLIGHT_MAX: Final = 10_000

log = get_logger("items")


class DescribedItem(NamedTuple):
    attributes: ItemAttributes
    told_ms: int
    """When Kafka stored the description."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that cannot be read; it stays in the topic, and the item's last good description holds."""

    partition: int
    offset: int
    kind: str
    message: str


class ItemCatalogue:
    """All descriptions, kept up to date by `look`.  For one thread; `close` in the end.

    About half a kilobyte of memory an item.
    """

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._items: dict[ItemId, DescribedItem] = {}
        self._reader: CompactedTopic | None = None
        self._resources = ExitStack()
        self.refusals = 0
        """Unreadable records met so far."""
        self.newest_refusals: list[Refusal] = []
        """The last few of them."""

    def look(self) -> Mapping[ItemId, DescribedItem]:
        """Everything described as of now, the most recently described last.

        The first call reads the whole topic, later ones what is new.  Raises `ServiceAwayError`,
        `ConfigurationError` (no such topic); the next call then begins afresh.
        """
        try:
            for records in self._open().read_to_end():
                for record in records:
                    self._take(record)
        except BaseException:
            self.close()
            raise
        return self._items

    def close(self) -> None:
        self._resources.close()
        self._reader = None

    def _open(self) -> CompactedTopic:
        if self._reader is None:
            self._items, self.refusals, self.newest_refusals = {}, 0, []
            reader = CompactedTopic(self._kafka, self._topic)
            self._reader = self._resources.enter_context(reader)
        return self._reader

    def _take(self, record: Any) -> None:
        try:
            if record.value is None:
                withdrawn = item_id_of_key(record.key)
                if withdrawn is not None:
                    self._items.pop(withdrawn, None)
                return
            item = decode_item(record.key, record.value)
        except BadRecordError as error:
            self._refuse(Refusal(record.partition, record.offset, error.kind, str(error)))
            return
        self._items.pop(item.item_id, None)
        self._items[item.item_id] = DescribedItem(item, record.timestamp)

    def _refuse(self, refusal: Refusal) -> None:
        self.refusals += 1
        self.newest_refusals = [*self.newest_refusals, refusal][-REFUSALS_TOLD:]
        if self.refusals <= REFUSALS_TOLD:
            log.warning(
                "an item's description cannot be read, the last good one holds",
                topic=self._topic,
                partition=refusal.partition,
                offset=refusal.offset,
                error=refusal.kind,
                reason=refusal.message,
            )


def publish_items(
    kafka: KafkaConnection,
    topic: str,
    items: Iterable[ItemAttributes],
    *,
    withdrawn: Iterable[ItemId] = (),
) -> int:
    """Describe items, and withdraw others; returns how many records the broker has safe.

    Raises `ServiceAwayError`: nothing says which of them arrived then, and sending all again is safe.
    """
    stored = 0
    with broker_errors(kafka):
        producer = KafkaProducer(
            **python_client_options(kafka),
            acks="all",
            linger_ms=20,
            allow_auto_create_topics=False,
        )
        try:
            records = chain(map(encode_item, items), ((gone.encode(), None) for gone in withdrawn))
            while some := list(islice(records, _IN_FLIGHT_MAX)):
                sent = [producer.send(topic, key=key, value=value) for key, value in some]
                producer.flush(timeout=_STORE_SECONDS_MAX)
                for each in sent:
                    each.get(timeout=_STORE_SECONDS_MAX)
                stored += len(sent)
        finally:
            producer.close(timeout=5)
    return stored

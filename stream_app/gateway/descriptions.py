"""What the shop says of its items, for people who look at them: followed on a thread of its own."""

import threading
from collections.abc import Mapping
from contextlib import closing
from typing import Final

from stream_app.adapters.item_topic import DescribedItem, ItemCatalogue
from stream_app.adapters.kafka_clients import KafkaConnection
from stream_app.core.errors import NextclickError
from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import ItemId
from stream_app.logging_setup import get_logger

LOOK_SECONDS: Final = 5.0

log = get_logger("gateway")


class Descriptions:
    """Items by id, as new as `LOOK_SECONDS`.  Without the topic, or while the broker is away, what was read last.

    Names are a help to the eye, so nothing else waits for them or fails with them.
    """

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._catalogue = ItemCatalogue(kafka, topic)
        self._items: Mapping[ItemId, DescribedItem] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="descriptions", daemon=True)
        self._failed = False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Does not wait for a look that is under way."""
        self._stop.set()

    def find(self, item_id: str) -> ItemAttributes | None:
        found = self._items.get(ItemId(item_id))
        return found.attributes if found else None

    def _follow(self) -> None:
        with closing(self._catalogue):
            while not self._stop.is_set():
                try:
                    self._items = self._catalogue.look()
                    self._failed = False
                except NextclickError as error:
                    if not self._failed:
                        log.warning("no descriptions of items", reason=str(error))
                    self._failed = True
                self._stop.wait(LOOK_SECONDS)

"""A small shop whose next click can be learned, with its click log written as the archive writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from export.refresh import Refresher
from export.retrain import retrain_once
from stream_app.adapters.item_topic import publish_items
from stream_app.adapters.releases import read_latest
from stream_app.adapters.retrain_instruments import RefreshInstruments, RetrainInstruments
from stream_app.core.item_attributes import ItemAttributes
from stream_app.core.records import ItemId
from stream_app.files.click_log import LOG_COLUMNS, ClickLogWriter
from stream_app.files.registry import Registry
from stream_app.settings import RefreshSettings, RetrainSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from export.run import RunOutcome
    from stream_app.settings import TopicSettings
    from tests.integration.conftest import TestKafka

START_MS = 1_800_000_000_000
SETTINGS = RetrainSettings(
    sessions_min=50, layer_units=16, epochs=4, warm_epochs=1, holdout_share=0.2
)


def part_of(number: int) -> int:
    """Six items of the ring of sixty are a part; ones beyond the ring are in parts, too."""
    return number % 60 // 6


class Shop:
    """Visitors walk round a ring of items, so that the next click can be learned."""

    def __init__(self, kafka: TestKafka, topics: TopicSettings, directory: Path) -> None:
        self.settings = Settings(
            kafka=kafka.settings,
            topics=topics,
            registry=str(directory / "registry"),
            click_log=str(directory / "log"),
            data_dir=directory / "data",
            retrain=SETTINGS,
            refresh=RefreshSettings(targets_min=30),
        )
        self.registry = Registry(self.settings.registry)
        self._rng = np.random.default_rng(3)
        self._writer = ClickLogWriter(self.settings.click_log)
        self._offset = self._sessions = 0
        self.said: list[str] = []

    def clicks(self, n_sessions: int, n_items: int = 60) -> None:
        rows = []
        for _ in range(n_sessions):
            item = int(n_items * self._rng.random() ** 2)  # some starts are popular
            for position in range(int(self._rng.integers(2, 6))):
                rows.append(self._row(item, position, len(rows)))
                item = (item + 1) % n_items
            self._sessions += 1
        first, self._offset = self._offset, self._offset + len(rows)
        self._writer.write_range(
            "clicks", 0, first, self._offset - 1, pa.Table.from_pylist(rows, LOG_COLUMNS)
        )

    def describe(self, *numbers: int) -> None:
        """Items by the part of the ring they are in; see `part_of`."""
        publish_items(
            self.settings.kafka,
            self.settings.topics.items,
            (
                ItemAttributes(item_id=ItemId(f"item-{n}"), category=("ring", f"part {part_of(n)}"))
                for n in numbers
            ),
        )

    def _row(self, item: int, position: int, number: int) -> dict[str, Any]:
        return {
            "topic": "clicks",
            "partition": 0,
            "offset": self._offset + number,
            "kafka_timestamp_ms": START_MS + self._sessions * 1000 + position * 100,
            "session_id": f"s{self._sessions}",
            "item_id": f"item-{item}",
            "event_time_ms": START_MS + self._sessions * 1000 + position * 100,
            "event_type": "view_item",
            "consent": True,
        }

    def retrain(self, *, from_scratch: bool = False, **changes: Any) -> RunOutcome:
        retrain = self.settings.retrain.model_copy(update=changes)
        return retrain_once(
            self.settings.model_copy(update={"retrain": retrain}),
            instruments=RetrainInstruments(CollectorRegistry()),
            say=self.said.append,
            from_scratch=from_scratch,
        )

    @property
    def live(self) -> str | None:
        release = read_latest(self.settings.kafka, self.settings.topics.releases)
        return release.model_version if release else None

    def refresher(self, **changes: Any) -> Refresher:
        refresh = self.settings.refresh.model_copy(update=changes)
        return Refresher(
            self.settings.model_copy(update={"refresh": refresh}),
            instruments=RefreshInstruments(CollectorRegistry()),
            say=self.said.append,
        )

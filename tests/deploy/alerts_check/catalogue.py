"""Every metric that nextclick's processes show, with its labels, asked of the instruments themselves."""

from collections import Counter
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric

from stream_app.adapters.disk_metrics import DiskMetrics
from stream_app.adapters.instruments import (
    ArchiveInstruments,
    StatisticsInstruments,
    WorkerInstruments,
)
from stream_app.adapters.retrain_instruments import RefreshInstruments, RetrainInstruments
from stream_app.adapters.standby_instruments import StandbyInstruments
from stream_app.adapters.store_metrics import StoreMetrics

TARGET_LABELS: Final = frozenset({"job", "instance"})
"""Prometheus adds them to whatever it scrapes."""
_SUFFIXES: Final = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gauge": ("",),
}


class _SomeStore:
    def __init__(self) -> None:
        self.refused_records: Counter[str] = Counter()
        self.unreadable_records = 0
        self.quarantined: Path | None = None

    def memory_bytes(self) -> dict[str, int]:
        return {"memtables": 1}

    def disk_bytes(self) -> int:
        return 1


def metrics() -> dict[str, frozenset[str]]:
    """Labels by the name of a sample, `up` and those of the target included."""
    registry = CollectorRegistry()
    registry.register(StoreMetrics(_SomeStore()))
    registry.register(DiskMetrics(data_dir="/"))
    ProcessCollector(registry=registry)
    for instruments in (
        WorkerInstruments,
        StandbyInstruments,
        StatisticsInstruments,
        ArchiveInstruments,
        RetrainInstruments,
        RefreshInstruments,
    ):
        instruments(registry)
    found = {"up": TARGET_LABELS}
    for collector in list(registry._collector_to_names):
        labels = frozenset(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            found |= _samples(family, labels)
    return found


def _samples(family: Metric, labels: frozenset[str]) -> dict[str, frozenset[str]]:
    labels |= TARGET_LABELS | {name for sample in family.samples for name in sample.labels}
    return {
        f"{family.name}{suffix}": labels | ({"le"} if suffix == "_bucket" else set())
        for suffix in _SUFFIXES[family.type]
    }
